//! `LB_NAMES`: what people call the Service port that owns an id.

use super::error::MapsError;
use super::{batch, open_pin, typed};
use aya::maps::{HashMap, MapData, MapError};
use lb_common::value::NAME_LEN;
use lb_common::{BePort, ServiceName, names};
use std::path::Path;

/// The map of names.
pub struct NameTable {
    rows: HashMap<MapData, u32, ServiceName>,
    /// The same map; aya shows no descriptor of a typed one.
    data: MapData,
}

impl NameTable {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let data = open_pin(pin_dir, names::MAP_NAMES)?;
        let rows = typed(open_pin(pin_dir, names::MAP_NAMES)?, names::MAP_NAMES)?;
        Ok(Self { rows, data })
    }

    /// Every row.
    pub fn rows(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        let blank = ServiceName {
            namespace: [0; NAME_LEN],
            name: [0; NAME_LEN],
            port_name: [0; NAME_LEN],
            proto: 0,
            port: BePort::NONE,
            node_port: BePort::NONE,
        };
        batch::rows(&self.data, names::MAP_NAMES, (0, blank))
    }

    /// The name of an id, if it has one.
    pub fn get(&self, id: u32) -> Result<Option<ServiceName>, MapsError> {
        match self.rows.get(&id, 0) {
            Ok(name) => Ok(Some(name)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(MapsError::Read { map: names::MAP_NAMES, source }),
        }
    }

    /// Adds or replaces the name of an id.
    pub fn insert(&mut self, id: u32, name: &ServiceName) -> Result<(), MapsError> {
        self.rows.insert(id, name, 0).map_err(|source| MapsError::Write {
            map: names::MAP_NAMES,
            row: format!("service id {id}"),
            source,
        })
    }

    /// Removes the name of an id; one that is gone already is no error.
    pub fn remove(&mut self, id: u32) -> Result<(), MapsError> {
        match self.rows.remove(&id) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(MapsError::Write {
                map: names::MAP_NAMES,
                row: format!("service id {id}"),
                source,
            }),
        }
    }
}
