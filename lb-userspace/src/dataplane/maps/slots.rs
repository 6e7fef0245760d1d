//! `LB_SLOTS`: backend ids, two to a word; slot `i` is the low half of word
//! `i / 2` if `i` is even, else the high half.
//!
//! A run of slots begins at an even index and owns its words, so that writing
//! one run never touches another.

use super::error::MapsError;
use super::region::Region;
use aya::maps::MapData;
use lb_common::names;

/// The mapped slot array.
pub struct SlotTable(Region);

impl SlotTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        Region::map(data, names::MAP_SLOTS, size_of::<u64>()).map(Self)
    }

    /// Words, each of two slots.
    pub const fn words(&self) -> u32 {
        self.0.elements()
    }

    /// Every word.
    pub fn all(&self) -> Vec<u64> {
        self.0.load_all()
    }

    /// A word, or `None` past the end.
    pub fn word(&self, index: u32) -> Option<u64> {
        self.0.load(index as usize)
    }

    /// Writes the ids from word `word` on. The words must not be in force.
    pub fn write(&mut self, word: u32, ids: &[u32]) -> Result<(), MapsError> {
        for (index, two) in (word..).zip(ids.chunks(2)) {
            let low = two.first().copied().unwrap_or_default();
            let high = two.get(1).copied().unwrap_or_default();
            if !self.0.store(index as usize, u64::from(low) | (u64::from(high) << 32)) {
                return Err(MapsError::Index { map: names::MAP_SLOTS, index, len: self.words() });
            }
        }
        Ok(())
    }
}
