//! `LB_SERVICES`: one row of eight words for each Service port.
//!
//! Words 0 to 3 are the segments, word 4 holds policy, use, protocol and
//! affinity; each
//! is replaced by one store.

use super::error::MapsError;
use super::region::{Region, pair, unpair};
use aya::maps::MapData;
use lb_common::{Segment, Service, names};

const WORDS: usize = size_of::<Service>() / 8;
const HEADER: usize = 4;

/// What a Service's row says beside its segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceHeader {
    /// One of [`lb_common::value::policy`].
    pub policy: u8,
    /// Whether a Service port owns the row.
    pub used: bool,
    /// IP protocol number.
    pub proto: u8,
    /// Timeout of session affinity in seconds, or 0.
    pub affinity: u32,
}

impl ServiceHeader {
    /// That of a row.
    pub const fn of(row: &Service) -> Self {
        let Service { policy, used, proto, affinity, .. } = *row;
        Self { policy, used: used == 1, proto, affinity }
    }

    fn word(self) -> u64 {
        let head = u32::from_ne_bytes([self.policy, u8::from(self.used), self.proto, 0]);
        pair(head, self.affinity)
    }
}

/// The mapped service array.
pub struct ServiceTable(Region);

impl ServiceTable {
    pub(super) fn open(data: &MapData) -> Result<Self, MapsError> {
        Region::map(data, names::MAP_SERVICES, size_of::<Service>()).map(Self)
    }

    /// Rows.
    pub const fn len(&self) -> u32 {
        self.0.elements()
    }

    /// Whether there are no rows at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of `id`, or `None` past the end.
    pub fn get(&self, id: u32) -> Option<Service> {
        let words = self.0.load_words::<WORDS>(id as usize * WORDS)?;
        let mut service = Service::default();
        for (segment, word) in service.segments.iter_mut().zip(words) {
            let (base, len) = unpair(word);
            *segment = Segment { base, len };
        }
        let (head, affinity) = unpair(words[HEADER]);
        [service.policy, service.used, service.proto, ..] = head.to_ne_bytes();
        service.affinity = affinity;
        Some(service)
    }

    /// Puts another segment in force.
    pub fn set_segment(
        &mut self,
        id: u32,
        index: usize,
        segment: Segment,
    ) -> Result<(), MapsError> {
        self.store(id, index % HEADER, pair(segment.base, segment.len))
    }

    /// Replaces what the row says beside its segments.
    pub fn set_header(&mut self, id: u32, header: ServiceHeader) -> Result<(), MapsError> {
        self.store(id, HEADER, header.word())
    }

    fn store(&mut self, id: u32, word: usize, value: u64) -> Result<(), MapsError> {
        if self.0.store(id as usize * WORDS + word, value) {
            Ok(())
        } else {
            Err(MapsError::Index { map: names::MAP_SERVICES, index: id, len: self.len() })
        }
    }
}
