//! The writes that bring the kernel from one state to the next, one after the
//! other: a packet may come between any two of them.

use crate::dataplane::maps::{FrontendId, Maps, MapsError, ServiceHeader};
use ipnet::IpNet;
use lb_common::{
    Backend, Frontend, FrontendKey, PrefixKey, RangeHeads, Segment, ServiceName, Traffic, V4, V6,
};

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Adds flags to a bucket of the filter.
    Filter {
        /// The bucket.
        bucket: u32,
        /// The flags.
        flags: u8,
    },
    /// Names the owner of a Service id, or says that it has none.
    Name {
        /// The id.
        service: u32,
        /// The name.
        name: Option<Box<Name>>,
    },
    /// Starts the counters of a Service id from zero.
    ClearServiceTraffic(u32),
    /// Starts the counters of a backend id from zero, that of open connections
    /// too.
    ClearBackendTraffic(u32),
    /// Writes a backend's row.
    Backend {
        /// The id.
        backend: u32,
        /// The row.
        row: Backend,
    },
    /// Writes backend ids into slots that are not in force.
    Slots {
        /// First word.
        word: u32,
        /// The ids.
        backends: Vec<u32>,
    },
    /// Writes what a Service's row says beside its segments.
    Header {
        /// The id.
        service: u32,
        /// What the row says.
        header: ServiceHeader,
    },
    /// Puts a segment in force.
    Segment {
        /// The Service's id.
        service: u32,
        /// Which of its segments.
        index: usize,
        /// The segment.
        segment: Segment,
    },
    /// Adds or removes a range.
    Prefix {
        /// The Service's id, [`lb_common::key::PODS`], or
        /// [`lb_common::key::SERVICE_CIDRS`].
        owner: u32,
        /// The range.
        range: IpNet,
        /// Whether it shall be there.
        present: bool,
    },
    /// Says how the ranges of Services' addresses begin.
    Heads {
        /// 0 for IPv4, 1 for IPv6.
        family: usize,
        /// The row.
        heads: RangeHeads,
    },
    /// Adds, replaces or removes a frontend.
    Frontend {
        /// What clients dial.
        id: FrontendId,
        /// Who answers.
        row: Option<Frontend>,
    },
}

impl Change {
    /// How many bytes of maps it writes: words in memory, or a row with its key.
    pub(super) fn bytes(&self) -> usize {
        const WORD: usize = size_of::<u64>();
        const ID: usize = size_of::<u32>();
        match self {
            Self::Filter { .. } | Self::Header { .. } | Self::Segment { .. } => WORD,
            Self::Name { name: Some(_), .. } => ID + size_of::<ServiceName>(),
            Self::Name { name: None, .. } => ID,
            Self::ClearServiceTraffic(_) | Self::ClearBackendTraffic(_) => {
                ID + size_of::<Traffic>() + WORD
            }
            Self::Backend { .. } => size_of::<Backend>(),
            Self::Slots { backends, .. } => backends.len().div_ceil(2) * WORD,
            Self::Prefix { range, .. } if range.addr().is_ipv4() => {
                ID + size_of::<PrefixKey<V4>>() + ID
            }
            Self::Prefix { .. } => ID + size_of::<PrefixKey<V6>>() + ID,
            Self::Heads { .. } => size_of::<RangeHeads>(),
            Self::Frontend { id, row } => {
                let key = if id.addr.is_ipv4() {
                    size_of::<FrontendKey<V4>>()
                } else {
                    size_of::<FrontendKey<V6>>()
                };
                key + row.map_or(0, |_| size_of::<Frontend>())
            }
        }
    }
}

/// A [`ServiceName`] that can be compared and printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub(super) ServiceName);

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", super::name::key_of(&self.0))
    }
}

/// Does one write.
pub(super) fn write(maps: &mut Maps, change: &Change) -> Result<(), MapsError> {
    match change {
        Change::Filter { bucket, flags } => maps.filter.add(*bucket, *flags),
        Change::Name { service, name: Some(name) } => maps.names.insert(*service, &name.0),
        Change::Name { service, name: None } => maps.names.remove(*service),
        Change::ClearServiceTraffic(service) => {
            maps.service_traffic.clear(*service).and_then(|()| maps.no_port.clear(*service))
        }
        Change::ClearBackendTraffic(backend) => {
            maps.open.set(*backend, 0)?;
            maps.backend_traffic.clear(*backend)
        }
        Change::Backend { backend, row } => maps.backends.set(*backend, row),
        Change::Slots { word, backends } => maps.slots.write(*word, backends),
        Change::Header { service, header } => maps.services.set_header(*service, *header),
        Change::Segment { service, index, segment } => {
            maps.services.set_segment(*service, *index, *segment)
        }
        Change::Prefix { owner, range, present: true } => maps.prefixes.insert(*owner, *range),
        Change::Prefix { owner, range, present: false } => maps.prefixes.remove(*owner, *range),
        Change::Heads { family, heads } => maps.ranges.set(*family, heads),
        Change::Frontend { id, row: Some(row) } => maps.frontends.insert(*id, *row),
        Change::Frontend { id, row: None } => maps.frontends.remove(*id),
    }
}
