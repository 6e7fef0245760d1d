//! `LB_RANGES`: one row of nine words by family: how many heads, and the heads.

use super::error::MapsError;
use super::region::Region;
use aya::maps::MapData;
use lb_common::range::{ALL, Head};
use lb_common::{RangeHeads, names};

const WORDS: usize = size_of::<RangeHeads>() / 8;

/// The mapped array.
pub struct RangeTable(Region);

impl RangeTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        let region = Region::map(data, names::MAP_RANGES, size_of::<RangeHeads>())?;
        if region.elements() == 2 {
            Ok(Self(region))
        } else {
            Err(MapsError::Layout { map: names::MAP_RANGES })
        }
    }

    /// The row of a family (0 IPv4, 1 IPv6).
    pub fn get(&self, family: usize) -> Option<RangeHeads> {
        let [count, words @ ..] = self.0.load_words::<WORDS>(family * WORDS)?;
        let mut row = RangeHeads { count, ..RangeHeads::default() };
        for (head, [bits, mask]) in row.heads.iter_mut().zip(words.as_chunks::<2>().0) {
            *head = Head { bits: *bits, mask: *mask };
        }
        Some(row)
    }

    /// Replaces the row of a family. Until its count is in force, packets ask
    /// the prefix map.
    pub fn set(&mut self, family: usize, row: &RangeHeads) -> Result<(), MapsError> {
        let heads = row.heads.iter().flat_map(|head| [head.bits, head.mask]);
        let words = (1..).zip(heads).chain([(0, row.count)]);
        for (word, value) in [(0, ALL)].into_iter().chain(words) {
            if !self.0.store(family * WORDS + word, value) {
                let index = u32::try_from(family).unwrap_or(u32::MAX);
                return Err(MapsError::Index { map: names::MAP_RANGES, index, len: 2 });
            }
        }
        Ok(())
    }
}
