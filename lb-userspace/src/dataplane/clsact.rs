//! Attaching as filters of a clsact qdisc, for kernels without tcx.
//!
//! A filter outlives the process by itself. It is ours if priority and handle
//! say so; the handle is made of the pin directory's path, so that several
//! agents of one namespace never touch each other's. A pinned map remembers
//! which interfaces have filters, and whether the qdisc was our doing.

use super::attach::{AttachError, netlink_code};
use super::{DataplaneError, PinDir};
use crate::netlink::tc::{self, Direction, Filter};
use crate::netlink::{Link, NetlinkError};
use aya::maps::{HashMap, Map, MapData, MapError};
use aya::pin::PinError;
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{SchedClassifier, TcAttachType, TcHandle};
use lb_common::limits::MAX_INTERFACES;

/// Name of the map.
pub(super) const MAP: &str = "LB_CLSACT";

/// Early, but behind what an administrator may want to put first.
const PRIORITY: u16 = 7;

/// The qdisc was there before us.
const FOUND: u32 = 0;
/// We added the qdisc.
const ADDED: u32 = 1;

/// The filters of one pin directory.
pub(super) struct Clsact {
    pins: PinDir,
    handle: u32,
    /// Made when the first filter is.
    map: Option<HashMap<MapData, u32, u32>>,
}

impl Clsact {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataplaneError> {
        let map = if pins.map(MAP).exists() { Some(open_map(pins)?) } else { None };
        Ok(Self { pins: pins.clone(), handle: handle(pins), map })
    }

    /// The interfaces that have filters of ours.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        self.map.iter().flat_map(|map| map.keys().filter_map(Result::ok)).collect()
    }

    /// Whether an interface has filters of ours.
    pub(super) fn contains(&self, index: u32) -> bool {
        self.map.as_ref().is_some_and(|map| map.get(&index, 0).is_ok())
    }

    /// Whether a filter of ours is there.
    pub(super) fn has_filter(
        &self,
        index: u32,
        direction: Direction,
    ) -> Result<bool, NetlinkError> {
        Ok(tc::filters(index, direction)?.iter().any(|filter| self.is_ours(filter)))
    }

    /// Adds a filter, or replaces the one that is there in place.
    pub(super) fn attach(
        &mut self,
        program: &mut SchedClassifier,
        link: &Link,
        direction: Direction,
    ) -> Result<(), AttachError> {
        self.add_qdisc(link)?;
        let side = match direction {
            Direction::Ingress => TcAttachType::Ingress,
            Direction::Egress => TcAttachType::Egress,
        };
        let handle = TcHandle::from(self.handle);
        let id = if self.has_filter(link.index, direction)? {
            let old = SchedClassifierLink::attached(&link.name, side, PRIORITY, handle, None)?;
            program.attach_to_link(old)?
        } else {
            let options = NlOptions { priority: PRIORITY, handle, classid: None };
            program.attach_with_options(&link.name, side, TcAttachOptions::Netlink(options))?
        };
        // Dropping it would remove the filter; it holds nothing but numbers.
        std::mem::forget(program.take_link(id)?);
        Ok(())
    }

    /// Removes our filters from an interface, and the qdisc if it was our
    /// doing and nobody uses it. Returns how many filters there were.
    pub(super) fn detach(&mut self, index: u32) -> Result<usize, AttachError> {
        let mut removed = 0;
        let mut others = 0;
        for direction in Direction::ALL {
            let (ours, rest): (Vec<_>, Vec<_>) =
                tc::filters(index, direction)?.into_iter().partition(|filter| self.is_ours(filter));
            others += rest.len();
            for filter in ours {
                tc::remove_filter(index, direction, &filter)?;
                removed += 1;
            }
        }
        let added =
            self.map.as_ref().is_some_and(|map| map.get(&index, 0).is_ok_and(|v| v == ADDED));
        if added && others == 0 {
            match tc::remove_clsact(index) {
                // Gone with its interface, or by another's hand.
                Ok(()) | Err(NetlinkError::Refused { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(map) = &mut self.map {
            match map.remove(&index) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(fail(source).into()),
            }
        }
        Ok(removed)
    }

    fn is_ours(&self, filter: &Filter) -> bool {
        filter.priority == PRIORITY && filter.handle == self.handle && filter.name.is_some()
    }

    fn add_qdisc(&mut self, link: &Link) -> Result<(), AttachError> {
        let state = match qdisc_add_clsact(&link.name) {
            Ok(()) => ADDED,
            Err(error) if netlink_code(&error) == Some(libc::EEXIST) => FOUND,
            Err(error) => return Err(AttachError::Program(error.into())),
        };
        let map = match &mut self.map {
            Some(map) => map,
            None => self.map.insert(create_map(&self.pins)?),
        };
        // What is found at the second direction is what the first one added.
        if state == ADDED || map.get(&link.index, 0).is_err() {
            map.insert(link.index, state, 0).map_err(fail)?;
        }
        Ok(())
    }
}

/// FNV-1a of the path. Never 0, which asks the kernel to choose.
fn handle(pins: &PinDir) -> u32 {
    let bytes = pins.path().as_os_str().as_encoded_bytes();
    let hash = bytes
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash & 0x7fff_ffff) | 1
}

fn create_map(pins: &PinDir) -> Result<HashMap<MapData, u32, u32>, DataplaneError> {
    let map = HashMap::<MapData, u32, u32>::create(MAX_INTERFACES, 0).map_err(fail)?;
    map.pin(pins.map(MAP))
        .map_err(|error: PinError| fail(MapError::PinError { name: Some(MAP.into()), error }))?;
    open_map(pins)
}

fn open_map(pins: &PinDir) -> Result<HashMap<MapData, u32, u32>, DataplaneError> {
    let data = MapData::from_pin(pins.map(MAP)).map_err(fail)?;
    Map::HashMap(data).try_into().map_err(fail)
}

fn fail(source: MapError) -> DataplaneError {
    DataplaneError::Map { map: MAP, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_directories_have_handles_of_their_own() {
        let handles = ["/sys/fs/bpf/lb", "/sys/fs/bpf/lb-a", "/sys/fs/bpf/lb-b"]
            .map(|path| handle(&PinDir::new(path)));
        assert!(handles.iter().all(|handle| *handle != 0));
        assert!(handles[0] != handles[1] && handles[1] != handles[2]);
        // A shell that completes names adds the slash.
        assert_eq!(handle(&PinDir::new("/sys/fs/bpf/lb/")), handles[0]);
    }
}
