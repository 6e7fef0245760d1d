//! Maps that get more rows, because there are more Services than there were: made
//! anew beside those that are pinned, filled with their rows, which keep their
//! numbers, and put in their place. Programs that are attached go on with the old
//! ones until they are replaced, so what they count meanwhile is not told.

use super::spec::Mismatch;
use super::{DataplaneError, PinDir, sys, teardown};
use aya::maps::{MapData, MapError, MapType};
use std::fs;
use std::os::fd::AsFd as _;

/// Rows that are copied with one call.
const BATCH: usize = 4_096;

/// Maps on their way to more rows. What is not finished is as if it had never begun.
pub(super) struct Growth {
    pins: PinDir,
    maps: Vec<&'static str>,
    finished: bool,
}

impl Growth {
    /// Begins with what is too small; the loader makes the new maps.
    pub(super) fn begin(pins: &PinDir, mismatches: &[Mismatch]) -> Result<Self, DataplaneError> {
        let too_small = mismatches.iter().filter(|mismatch| mismatch.grows);
        let maps: Vec<_> = too_small.map(|mismatch| mismatch.map).collect();
        let growth = Self { pins: pins.clone(), maps, finished: false };
        if !growth.maps.is_empty() {
            pins.stage()?;
            // An agent that was killed on the way may have left some, with rows of then.
            growth.remove_staged()?;
        }
        Ok(growth)
    }

    /// Which maps.
    pub(super) fn maps(&self) -> &[&'static str] {
        &self.maps
    }

    /// Fills the new maps and puts them in the old ones' place.
    pub(super) fn finish(mut self, flows_are_staged: bool) -> Result<(), DataplaneError> {
        for map in &self.maps {
            let fail = |source| DataplaneError::Map { map, source };
            let (old, new) = (self.pins.map(map), self.pins.staged().map(map));
            let old = MapData::from_pin(&old).map_err(fail)?;
            let new = MapData::from_pin(&new).map_err(fail)?;
            copy(&old, &new).map_err(fail)?;
        }
        for map in &self.maps {
            self.pins.install(map)?;
        }
        self.finished = true;
        if !self.maps.is_empty() {
            tracing::info!("more rows, with those that there were: {}", self.maps.join(", "));
            if !flows_are_staged {
                teardown::remove_staged(&self.pins);
            }
        }
        Ok(())
    }

    fn remove_staged(&self) -> Result<(), DataplaneError> {
        for map in &self.maps {
            let path = self.pins.staged().map(map);
            if path.exists() {
                let operation = "remove";
                fs::remove_file(&path).map_err(|source| DataplaneError::Io {
                    operation,
                    path,
                    source,
                })?;
            }
        }
        Ok(())
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = self.remove_staged()
        {
            tracing::warn!("{error}");
        }
    }
}

/// Copies every row to a map with room for more.
fn copy(old: &MapData, new: &MapData) -> Result<(), MapError> {
    let info = old.info()?;
    let (key, mut value) = (info.key_size() as usize, info.value_size() as usize);
    if info.map_type()? == MapType::PerCpuArray {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| MapError::IoError(error))?;
        value = value.next_multiple_of(8) * cpus;
    }
    let mut rows = sys::Rows::new(BATCH, key, value);
    let mut place = sys::Batch::At(None);
    while let sys::Batch::At(from) = place {
        let (count, next) = rows.read(old.fd().as_fd(), from)?;
        rows.write(new.fd().as_fd(), count)?;
        place = next;
    }
    Ok(())
}
