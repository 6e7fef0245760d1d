//! Reads a hash map that only the agent changes, many rows at a time.

use super::error::MapsError;
use crate::dataplane::sys::{self, Batch};
use aya::Pod;
use aya::maps::{MapData, MapError};
use std::os::fd::AsFd as _;

/// Rows that are read with one call.
const BATCH: usize = 1024;

/// Every row, in no order; `blank` is any key and value.
pub(super) fn rows<K: Pod, V: Pod>(
    data: &MapData,
    map: &'static str,
    blank: (K, V),
) -> Result<Vec<(K, V)>, MapsError> {
    let (mut keys, mut values) = (vec![blank.0; BATCH], vec![blank.1; BATCH]);
    let mut rows = Vec::new();
    let mut place = Batch::At(None);
    while let Batch::At(from) = place {
        let read = sys::lookup_batch(data.fd().as_fd(), from, &mut keys, &mut values);
        let (count, next) =
            read.map_err(|error| MapsError::Read { map, source: MapError::IoError(error) })?;
        rows.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        place = next;
    }
    Ok(rows)
}
