//! `LB_FILTER`: the flags that say which packets may concern us.

use super::error::MapsError;
use super::region::Region;
use aya::maps::MapData;
use lb_common::{filter, names};

/// The mapped filter.
pub struct FilterTable(Region);

impl FilterTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        let region = Region::map(data, names::MAP_FILTER, size_of::<u64>())?;
        if region.elements() == filter::WORDS {
            Ok(Self(region))
        } else {
            Err(MapsError::Layout { map: names::MAP_FILTER })
        }
    }

    /// Every word; each holds the flags of eight buckets.
    pub fn words(&self) -> Vec<u64> {
        self.0.load_all()
    }

    /// A word of eight buckets; 0 past the end.
    pub fn word(&self, index: u32) -> u64 {
        self.0.load(index as usize).unwrap_or(0)
    }

    /// Adds flags to a bucket.
    pub fn add(&mut self, bucket: u32, flags: u8) -> Result<(), MapsError> {
        if self.0.set_bits(bucket as usize / 8, filter::with_flags(0, bucket, flags)) {
            Ok(())
        } else {
            let (index, len) = (bucket / 8, filter::WORDS);
            Err(MapsError::Index { map: names::MAP_FILTER, index, len })
        }
    }

    /// How many buckets have any flag.
    pub fn used(&self) -> u32 {
        (0..filter::WORDS as usize)
            .filter_map(|index| self.0.load(index))
            .filter(|&word| word != 0)
            .map(|word| word.to_ne_bytes().iter().map(|&flags| u32::from(flags != 0)).sum::<u32>())
            .sum()
    }
}
