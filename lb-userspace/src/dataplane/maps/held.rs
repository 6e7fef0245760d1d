//! `LB_HELD`: later fragments that wait for the first of their datagram.

use super::error::MapsError;
use super::{open_pin, typed};
use aya::maps::{HashMap, MapData, MapError};
use lb_common::fragment::LIFETIME;
use lb_common::{Held, HeldKey, names};
use std::path::Path;

/// The fragments that wait.
pub struct HeldTable(HashMap<MapData, HeldKey, Held>);

impl HeldTable {
    /// Opens the map that is pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let map = names::MAP_HELD;
        Ok(Self(typed(open_pin(pin_dir, map)?, map)?))
    }

    /// Forgets those whose first did not come in time; how many. The programs
    /// want nothing of them any more.
    pub fn expire(&mut self, now: u64) -> Result<u64, MapsError> {
        let mut expired = Vec::new();
        for row in &self.0 {
            match row {
                Ok((key, held)) if now.saturating_sub(held.came) >= LIFETIME => expired.push(key),
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(MapsError::Read { map: names::MAP_HELD, source }),
            }
        }
        let mut count = 0;
        for key in expired {
            match self.0.remove(&key) {
                Ok(()) => count += 1,
                Err(MapError::KeyNotFound) => {}
                Err(source) => {
                    let row = format!("fragment {} of datagram {}", key.number, key.id);
                    return Err(MapsError::Write { map: names::MAP_HELD, row, source });
                }
            }
        }
        Ok(count)
    }
}
