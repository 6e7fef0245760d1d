//! How full the maps are and what they cost.

use super::error::MapsError;
use super::flows::FlowTable;
use super::held::HeldTable;
use super::{Maps, open_pin};
use crate::dataplane::sys;
use aya::maps::{MapData, MapError};
use lb_common::value::backend_state;
use lb_common::{Segment, V4, V6, names};
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

/// What every pinned map costs, in the order of [`names::PINNED_MAPS`]; in
/// bytes, as the kernel accounts it.
pub fn costs(pin_dir: &Path) -> Result<Vec<(&'static str, u64)>, MapsError> {
    let cost = |map| open_pin(pin_dir, map).map(|data| (map, memory(&data)));
    names::PINNED_MAPS.into_iter().map(cost).collect()
}

/// Measures every pinned map. Walks the flow tables, so it takes some tens of
/// milliseconds on a busy machine.
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
        | names::MAP_OPEN
        | names::MAP_RANGES
        | names::MAP_NO_PORT
        | names::MAP_YOUNG_V4
        | names::MAP_YOUNG_V6
        | names::MAP_YOUNG_NEXT
        | names::MAP_PRESSURE => (None, max),
        names::MAP_HELD => (Some(HeldTable::open(pin_dir)?.used()), max),
        names::MAP_FLOWS_V4 => (Some(FlowTable::<V4>::open(pin_dir)?.count()?), max),
        names::MAP_FLOWS_V6 => (Some(FlowTable::<V6>::open(pin_dir)?.count()?), max),
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

/// How many rows a hash map has that may be another release's.
pub(in crate::dataplane) fn count_rows(path: &Path) -> Result<u32, MapError> {
    let data = MapData::from_pin(path)?;
    let info = data.info()?;
    Ok(count_keys(&data, info.key_size(), info.max_entries()))
}

/// Counts a hash map's keys. A key that vanishes while it is the position
/// starts the walk anew, so it is bounded by the size of the map.
fn count_keys(data: &MapData, key_size: u32, max: u32) -> u32 {
    let mut key = vec![0_u8; key_size as usize];
    let mut next = key.clone();
    let mut have_key = false;
    let mut used = 0;
    let map = data.fd().as_fd();
    while used < max && sys::next_key(map, have_key.then_some(key.as_slice()), &mut next) {
        std::mem::swap(&mut key, &mut next);
        have_key = true;
        used += 1;
    }
    used
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
