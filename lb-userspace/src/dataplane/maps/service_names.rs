//! `LB_NAMES`: what people call the Service port that owns an id.

use super::error::MapsError;
use super::typed;
use aya::maps::{HashMap, MapData, MapError};
use lb_common::{ServiceName, names};

/// The map of names.
pub struct NameTable(HashMap<MapData, u32, ServiceName>);

impl NameTable {
    pub(super) fn open(data: MapData) -> Result<Self, MapsError> {
        typed(data, names::MAP_NAMES).map(Self)
    }

    /// Every row.
    pub fn rows(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        self.0
            .iter()
            .collect::<Result<_, _>>()
            .map_err(|source| MapsError::Read { map: names::MAP_NAMES, source })
    }

    /// The name of an id, if it has one.
    pub fn get(&self, id: u32) -> Result<Option<ServiceName>, MapsError> {
        match self.0.get(&id, 0) {
            Ok(name) => Ok(Some(name)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(MapsError::Read { map: names::MAP_NAMES, source }),
        }
    }

    /// Adds or replaces the name of an id.
    pub fn insert(&mut self, id: u32, name: &ServiceName) -> Result<(), MapsError> {
        self.0.insert(id, name, 0).map_err(|source| MapsError::Write {
            map: names::MAP_NAMES,
            row: format!("service id {id}"),
            source,
        })
    }

    /// Removes the name of an id; one that is gone already is no error.
    pub fn remove(&mut self, id: u32) -> Result<(), MapsError> {
        match self.0.remove(&id) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(MapsError::Write {
                map: names::MAP_NAMES,
                row: format!("service id {id}"),
                source,
            }),
        }
    }
}
