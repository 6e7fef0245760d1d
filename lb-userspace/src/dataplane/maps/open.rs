//! `LB_OPEN`: open connections by backend id, which the programs count up and
//! down. One word an element.

use super::error::MapsError;
use super::region::Region;
use aya::maps::MapData;
use lb_common::names;

/// The mapped array of open connections.
pub struct OpenTable(Region);

impl OpenTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        Region::map(data, names::MAP_OPEN, size_of::<u64>()).map(Self)
    }

    /// Connections of a backend; 0 past the end.
    pub fn get(&self, id: u32) -> u64 {
        self.0.load(id as usize).unwrap_or(0)
    }

    /// Puts a number right. What a program counts at this moment may be lost.
    pub fn set(&mut self, id: u32, connections: u64) -> Result<(), MapsError> {
        if self.0.store(id as usize, connections) {
            Ok(())
        } else {
            let len = self.0.elements();
            Err(MapsError::Index { map: names::MAP_OPEN, index: id, len })
        }
    }
}
