//! A copy of what the kernel holds, as plain data: where adoption starts, and
//! what the tests apply changes to.

use crate::dataplane::maps::{FrontendId, Maps, MapsError};
use crate::dataplane::wait_for_packets;
use ipnet::IpNet;
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
    /// Words of the filter, each with the flags of eight buckets.
    pub(super) filter: Vec<u64>,
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
    /// Whether no packet is under way any more that came before the last write.
    pub(super) rested: bool,
}

impl Image {
    /// Copies the maps, to write them from now on: waits for the packets that
    /// whoever wrote them before has left under way.
    pub(super) fn take_over(maps: &Maps) -> Result<Self, MapsError> {
        let rested = wait_for_packets();
        Ok(Self { rested, ..Self::read(maps)? })
    }

    /// Copies the maps.
    pub(super) fn read(maps: &Maps) -> Result<Self, MapsError> {
        Ok(Self {
            names: maps.names.rows()?,
            services: (0..).map_while(|id| maps.services.get(id)).collect(),
            backends: (0..).map_while(|id| maps.backends.get(id)).collect(),
            slots: maps.slots.all(),
            filter: maps.filter.words(),
            frontends: maps.frontends.rows()?,
            frontend_capacity: maps.frontends.capacity(),
            prefixes: maps.prefixes.rows()?,
            prefix_capacity: maps.prefixes.capacity(),
            heads: [0, 1].map(|family| maps.ranges.get(family).unwrap_or_default()),
            rested: false,
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
