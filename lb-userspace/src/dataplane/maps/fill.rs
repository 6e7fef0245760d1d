//! How full the maps are and what they cost.

use super::error::MapsError;
use super::{Maps, open_pin};
use aya::maps::MapData;
use lb_common::value::backend_state;
use lb_common::{Segment, names};
use serde::Serialize;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

/// How full a map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapFill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in use, where the map has any notion of it.
    pub used: Option<u32>,
    /// Most entries.
    pub max: u32,
    /// Memory, as the kernel accounts it.
    pub bytes: u64,
}

/// Measures every pinned map. Walks the flow tables, so it takes up to a few
/// hundred milliseconds on a busy machine.
pub fn fill(pin_dir: &Path, maps: &Maps) -> Result<Vec<MapFill>, MapsError> {
    names::PINNED_MAPS.into_iter().map(|map| fill_of(pin_dir, maps, map)).collect()
}

fn fill_of(pin_dir: &Path, maps: &Maps, map: &'static str) -> Result<MapFill, MapsError> {
    let data = open_pin(pin_dir, map)?;
    let info = data.info().map_err(|source| MapsError::Info { map, source })?;
    let max = info.max_entries();
    let (used, max) = match map {
        names::MAP_SERVICES => (Some(used_services(maps)), max),
        names::MAP_SLOTS => (Some(used_slots(maps)), max.saturating_mul(2)),
        names::MAP_BACKENDS => (Some(used_backends(maps)), max),
        names::MAP_FILTER => (Some(maps.filter.used()), lb_common::filter::BUCKETS),
        names::MAP_SERVICE_TRAFFIC
        | names::MAP_BACKEND_TRAFFIC
        | names::MAP_VERDICTS
        | names::MAP_CURSORS
        | names::MAP_OPEN => (None, max),
        _ => (Some(count_keys(&data, info.key_size(), max)), max),
    };
    Ok(MapFill { map, used, max, bytes: memory(&data) })
}

fn used_services(maps: &Maps) -> u32 {
    count((0..maps.services.len()).filter(|&id| maps.services.get(id).is_some_and(|s| s.used == 1)))
}

fn used_backends(maps: &Maps) -> u32 {
    count(
        (0..maps.backends.len()).filter(|&id| {
            maps.backends.get(id).is_some_and(|row| row.state != backend_state::FREE)
        }),
    )
}

fn used_slots(maps: &Maps) -> u32 {
    let taken = |segment: Segment| segment.len.div_ceil(2).saturating_mul(2);
    (0..maps.services.len())
        .filter_map(|id| maps.services.get(id))
        .flat_map(|service| service.segments)
        .fold(0, |sum: u32, segment| sum.saturating_add(taken(segment)))
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}

/// Counts a hash map's keys. A key that vanishes while it is the position
/// starts the walk anew, so it is bounded by the size of the map.
fn count_keys(data: &MapData, key_size: u32, max: u32) -> u32 {
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    let mut have_key = false;
    let mut used = 0;
    while used < max && next_key(data, have_key.then_some(&key), &mut next) {
        std::mem::swap(&mut key, &mut next);
        have_key = true;
        used += 1;
    }
    used
}

/// `BPF_MAP_GET_NEXT_KEY` with a key size known only at run time, which aya
/// does not offer: the flow tables are counted without knowing their keys.
fn next_key(data: &MapData, key: Option<&Vec<u8>>, next: &mut [u8]) -> bool {
    /// The fields of `union bpf_attr` for `BPF_MAP_*_ELEM` commands.
    #[repr(C)]
    struct Attr {
        map_fd: u32,
        pad: u32,
        key: u64,
        next_key: u64,
        flags: u64,
    }
    const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
    let attr = Attr {
        map_fd: data.fd().as_fd().as_raw_fd().unsigned_abs(),
        pad: 0,
        key: key.map_or(0, |key| key.as_ptr() as u64),
        next_key: next.as_mut_ptr() as u64,
        flags: 0,
    };
    // SAFETY: both buffers have the map's key size and live through the call,
    // and the kernel writes to `next` alone.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_GET_NEXT_KEY, &raw const attr, size_of::<Attr>())
    };
    result == 0
}

/// What the kernel says that the map costs; 0 if it does not say.
fn memory(data: &MapData) -> u64 {
    let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
    std::fs::read_to_string(path)
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
        })
        .unwrap_or(0)
}
