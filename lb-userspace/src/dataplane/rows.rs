//! Rows of the interface map: what the programs know of the interface that
//! they run on. Written before a program is attached, removed after it is gone.

use super::{DataplaneError, PinDir};
use crate::netlink::{Beyond, Link, Role};
use aya::maps::{HashMap, Map, MapData, MapError};
use lb_common::names::MAP_INTERFACES;
use lb_common::value::NODE_ITSELF;
use lb_common::{Interface, V4, V6};
use std::collections::{BTreeMap, BTreeSet};

/// The interface map.
pub(super) struct Rows(HashMap<MapData, u32, Interface>);

impl Rows {
    pub(super) fn open(pins: &PinDir) -> Result<Self, DataplaneError> {
        let data = MapData::from_pin(pins.map(MAP_INTERFACES)).map_err(fail)?;
        Ok(Self(Map::HashMap(data).try_into().map_err(fail)?))
    }

    /// Whether the programs believe that XDP is attached there.
    pub(super) fn has_xdp(&self, index: u32) -> bool {
        self.0.get(&index, 0).is_ok_and(|row| row.xdp != 0)
    }

    pub(super) fn put(&mut self, link: &Link, xdp: bool) -> Result<(), DataplaneError> {
        let row = row_of(link, xdp);
        if self.0.get(&link.index, 0).is_ok_and(|old| old == row) {
            return Ok(());
        }
        self.0.insert(link.index, row, 0).map_err(fail)
    }

    /// The addresses by which processes of the node itself count as clients.
    pub(super) fn put_node(&mut self, links: &[Link]) -> Result<(), DataplaneError> {
        let row = row_of_node(links);
        if self.0.get(&NODE_ITSELF, 0).is_ok_and(|old| old == row) {
            return Ok(());
        }
        self.0.insert(NODE_ITSELF, row, 0).map_err(fail)
    }

    /// Every row.
    pub(super) fn all(&self) -> Result<BTreeMap<u32, Interface>, DataplaneError> {
        self.0.iter().collect::<Result<_, _>>().map_err(fail)
    }

    /// Removes every row but those of the given interfaces, and the node's own.
    pub(super) fn retain(&mut self, indices: &BTreeSet<u32>) -> Result<(), DataplaneError> {
        let rows = self.0.keys().collect::<Result<Vec<_>, _>>().map_err(fail)?;
        for index in
            rows.into_iter().filter(|index| *index != NODE_ITSELF && !indices.contains(index))
        {
            match self.0.remove(&index) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(())
    }
}

/// What the programs have to know of an interface.
pub(super) fn row_of(link: &Link, xdp: bool) -> Interface {
    Interface {
        role: link.role.number(),
        xdp: u8::from(xdp),
        local: u8::from(link.local_clients),
        port: u8::from(link.beyond == Beyond::Bridge),
        snat_v4: link.snat_v4.map_or(0, |address| V4::from(address).0),
        snat_v6: link.snat_v6.map_or([0; 4], |address| V6::from(address).0),
        mac: link.mac.unwrap_or_default(),
        peer: u8::from(link.beyond == Beyond::Namespace && link.role == Role::Pod),
        pad: [0; 1],
    }
}

/// What they have to know of the node itself.
pub(super) fn row_of_node(links: &[Link]) -> Interface {
    let uplinks = || links.iter().filter(|link| link.role == Role::Uplink);
    let all = || uplinks().chain(links);
    let v4 = all().find_map(|link| link.snat_v4);
    let v6 = all().find_map(|link| link.snat_v6);
    Interface {
        snat_v4: v4.map_or(0, |address| V4::from(address).0),
        snat_v6: v6.map_or([0; 4], |address| V6::from(address).0),
        ..Interface::default()
    }
}

fn fail(source: MapError) -> DataplaneError {
    DataplaneError::Map { map: MAP_INTERFACES, source }
}
