//! A copy of what the kernel holds, as plain data: where adoption starts, and
//! what the tests apply changes to.

use crate::dataplane::maps::{FrontendId, Maps, MapsError};
use ipnet::IpNet;
use lb_common::filter::WORDS;
use lb_common::{Backend, Frontend, RangeHeads, Segment, Service, ServiceName};

/// What the kernel holds.
#[derive(Clone, Default)]
pub(super) struct Image {
    /// Names by Service id.
    pub(super) names: Vec<(u32, ServiceName)>,
    /// Service rows.
    pub(super) services: Vec<Service>,
    /// Backend rows.
    pub(super) backends: Vec<Backend>,
    /// Words of two slots.
    pub(super) slots: Vec<u64>,
    /// Flags by bucket.
    pub(super) filter: Vec<u8>,
    /// Frontends.
    pub(super) frontends: Vec<(FrontendId, Frontend)>,
    /// Most frontends by family.
    pub(super) frontend_capacity: [u32; 2],
    /// Ranges by owner.
    pub(super) prefixes: Vec<(u32, IpNet)>,
    /// Most ranges by family.
    pub(super) prefix_capacity: [u32; 2],
    /// How the ranges of Services' addresses begin, by family.
    pub(super) heads: [RangeHeads; 2],
}

impl Image {
    /// Copies the maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, MapsError> {
        Ok(Self {
            names: maps.names.rows()?,
            services: (0..).map_while(|id| maps.services.get(id)).collect(),
            backends: (0..).map_while(|id| maps.backends.get(id)).collect(),
            slots: (0..).map_while(|word| maps.slots.word(word)).collect(),
            filter: (0..WORDS).flat_map(|word| maps.filter.word(word).to_le_bytes()).collect(),
            frontends: maps.frontends.rows()?,
            frontend_capacity: maps.frontends.capacity(),
            prefixes: maps.prefixes.rows()?,
            prefix_capacity: maps.prefixes.capacity(),
            heads: [0, 1].map(|family| maps.ranges.get(family).unwrap_or_default()),
        })
    }

    /// The backend ids of a segment, or `None` if it reaches past the end.
    pub(super) fn slots_of(&self, segment: Segment) -> Option<Vec<u32>> {
        let end = segment.base.checked_add(segment.len)?;
        (segment.base..end)
            .map(|slot| {
                let word = *self.slots.get(slot as usize / 2)?;
                let half = if slot % 2 == 0 { word & u64::from(u32::MAX) } else { word >> 32 };
                u32::try_from(half).ok()
            })
            .collect()
    }
}
