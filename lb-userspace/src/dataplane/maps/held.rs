//! `LB_HELD`: later fragments that wait for the first of their datagram. The
//! first words of an element are its lock, when the fragment came, how it was
//! met, its length, and how many the programs gave up there.

use super::error::MapsError;
use super::open_pin;
use super::region::{Region, unpair};
use lb_common::fragment::is_late;
use lb_common::{Held, names};
use std::mem::offset_of;
use std::path::Path;

const WORDS: usize = size_of::<Held>() / 8;
const LOCK: usize = offset_of!(Held, lock) / 8;
const CAME: usize = offset_of!(Held, came) / 8;
/// The length, and what is always 0.
const LENGTH: usize = offset_of!(Held, len) / 8;
const LOST: usize = offset_of!(Held, lost) / 8;

/// The fragments that wait.
pub struct HeldTable(Region);

impl HeldTable {
    /// Opens the map that is pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let map = names::MAP_HELD;
        Region::map(&open_pin(pin_dir, map)?, map, size_of::<Held>()).map(Self)
    }

    /// Slots that hold a fragment.
    pub fn used(&self) -> u32 {
        (0..self.0.elements()).map(|slot| u32::from(self.holds(slot as usize * WORDS))).sum()
    }

    /// Forgets those whose first did not come in time; how many there were
    /// since the last time, with those whose slots the programs gave to others.
    pub fn expire(&mut self, now: u64) -> u64 {
        (0..self.0.elements()).map(|slot| self.expire_slot(slot as usize * WORDS, now)).sum()
    }

    fn expire_slot(&mut self, slot: usize, now: u64) -> u64 {
        let mut lost = self.0.swap(slot + LOST, 0).unwrap_or(0);
        // Only one that is late is locked: a program passes over what is.
        if self.is_over(slot, now) && self.0.fetch_or(slot + LOCK, 1) == Some(0) {
            if self.is_over(slot, now) && self.0.store(slot + LENGTH, 0) {
                lost += 1;
            }
            let _: bool = self.0.store(slot + LOCK, 0);
        }
        lost
    }

    fn holds(&self, slot: usize) -> bool {
        self.0.load(slot + LENGTH).is_some_and(|word| unpair(word).0 != 0)
    }

    fn is_over(&self, slot: usize, now: u64) -> bool {
        self.holds(slot) && self.0.load(slot + CAME).is_some_and(|came| is_late(came, now))
    }
}
