//! What is programmed, and what is free: the agent's picture of the kernel.

use super::change::{Change, Name};
use super::extents::ExtentPool;
use super::frontends::NetworkFacts;
use super::ids::IdPool;
use super::refusal::Refusal;
use super::slots::Slots;
use crate::dataplane::maps::{FrontendId, ServiceHeader};
use crate::desired::{DesiredBackend, DesiredService, Scope, ServicePortKey, Takes};
use ipnet::IpNet;
use lb_common::value::backend_state;
use lb_common::{Address as _, Backend, BePort, Frontend, RangeHeads, Service, V4, V6, filter};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an id, a run of slots or a removed backend's row is left alone.
/// Packets in flight need microseconds; the rest is for updates that take long
/// from their plan to their last write.
pub const QUARANTINE: Duration = Duration::from_secs(2);

/// Address and port of a backend.
pub(super) type Endpoint = (IpAddr, u16);

/// A backend's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgrammedBackend {
    /// Its id.
    pub(super) id: u32,
    /// When it was removed, if it was.
    pub(super) removed: Option<Instant>,
}

/// A Service port's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ProgrammedService {
    /// Its id.
    pub(super) id: u32,
    /// Its name row, if it has one.
    pub(super) name: Option<Name>,
    /// The row beside the segments.
    pub(super) header: ServiceHeader,
    /// Slots by [`Service::segment_index`]: family and scope.
    pub(super) slots: [Slots; 4],
    /// Backends, also those that were removed a moment ago.
    pub(super) backends: BTreeMap<Endpoint, ProgrammedBackend>,
    /// What it was planned from; none if another agent did that.
    pub(super) settled: Option<Arc<DesiredService>>,
}

/// What is programmed, and what is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Programmed {
    /// Service ports.
    pub(super) services: BTreeMap<ServicePortKey, ProgrammedService>,
    /// Frontends.
    pub(super) frontends: BTreeMap<FrontendId, Frontend>,
    /// Most frontends by family.
    pub(super) frontend_capacity: [u32; 2],
    /// Ranges by owner: a Service's id, [`lb_common::key::PODS`], or
    /// [`lb_common::key::SERVICE_CIDRS`].
    pub(super) prefixes: BTreeMap<u32, BTreeSet<IpNet>>,
    /// Most ranges by family.
    pub(super) prefix_capacity: [u32; 2],
    /// Ranges by family that the plan removes, after it has added others.
    pub(super) leaving: [usize; 2],
    /// How the ranges of Services' addresses begin, by family.
    pub(super) heads: [RangeHeads; 2],
    /// Free Service ids.
    pub(super) service_ids: IdPool,
    /// Free backend ids.
    pub(super) backend_ids: IdPool,
    /// Free slots.
    pub(super) extents: ExtentPool,
    /// Backends in state REMOVED, by the time of it, and whose they were.
    pub(super) removed: BTreeMap<(Instant, u32), Option<(ServicePortKey, Endpoint)>>,
    /// Backend rows as they are, by id.
    pub(super) rows: Vec<Backend>,
    /// Words of the filter, each with the flags of eight buckets.
    pub(super) filter: Vec<u64>,
    /// The facts with which everything that was desired was planned; none if
    /// something was refused or held.
    pub(super) settled: Option<NetworkFacts>,
}

impl Programmed {
    /// Frees the backends whose time has come; their rows keep the generation.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(entry) = self.removed.first_entry()
            && entry.key().0 + QUARANTINE <= now
        {
            let ((_, id), owner) = entry.remove_entry();
            if let Some((key, endpoint)) = owner
                && let Some(service) = self.services.get_mut(&key)
                && service.backends.get(&endpoint).is_some_and(|backend| backend.id == id)
            {
                service.backends.remove(&endpoint);
            }
            let generation = self.row(id).generation;
            changes.push(self.set_row(id, Backend { generation, ..Backend::default() }));
            self.backend_ids.release(id, now);
        }
        changes
    }

    /// How many ranges of a family there are.
    pub(super) fn ranges(&self, v6: bool) -> usize {
        self.prefixes.values().flatten().filter(|range| range.addr().is_ipv6() == v6).count()
    }

    /// Whether the maps can take an owner's new ranges beside all that are there,
    /// also beside those that are about to go.
    pub(super) fn room_for_ranges(
        &self,
        owner: u32,
        wanted: impl IntoIterator<Item = IpNet>,
    ) -> Result<(), Refusal> {
        let known = self.prefixes.get(&owner);
        let is_new = |range: &IpNet| known.is_none_or(|known| !known.contains(range));
        let mut needed = [0; 2];
        for range in wanted.into_iter().filter(is_new) {
            needed[family(range.addr())] += 1;
        }
        for (v6, needed) in [false, true].into_iter().zip(needed) {
            let (index, max) = (usize::from(v6), self.prefix_capacity[usize::from(v6)]);
            // Counted only if it matters: there may be many.
            if needed > 0 && self.ranges(v6) + self.leaving[index] + needed > max as usize {
                return Err(Refusal::NoRange { family: ["IPv4", "IPv6"][index], needed, max });
            }
        }
        Ok(())
    }

    /// Gives an owner its ranges; returns the writes that add some, and those
    /// that remove some.
    pub(super) fn set_ranges(
        &mut self,
        owner: u32,
        wanted: impl IntoIterator<Item = IpNet>,
    ) -> (Vec<Change>, Vec<Change>) {
        let wanted: BTreeSet<IpNet> = wanted.into_iter().collect();
        let known = self.prefixes.remove(&owner).unwrap_or_default();
        let change = |present| move |&range| Change::Prefix { owner, range, present };
        let new = wanted.difference(&known).map(change(true)).collect();
        for range in known.difference(&wanted) {
            self.leaving[family(range.addr())] += 1;
        }
        let gone = known.difference(&wanted).map(change(false)).collect();
        if !wanted.is_empty() {
            self.prefixes.insert(owner, wanted);
        }
        (new, gone)
    }

    /// When [`Programmed::expire`] has something to do next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.removed.first_key_value().map(|((at, _), _)| *at + QUARANTINE)
    }

    /// The row of a backend.
    pub(super) fn row(&self, id: u32) -> Backend {
        self.rows.get(id as usize).copied().unwrap_or_default()
    }

    /// Notes a row and returns the write of it.
    pub(super) fn set_row(&mut self, id: u32, row: Backend) -> Change {
        if let Some(old) = self.rows.get_mut(id as usize) {
            *old = row;
        }
        Change::Backend { backend: id, row }
    }

    /// Marks a backend as removed and returns the write of it.
    pub(super) fn remove_backend(
        &mut self,
        id: u32,
        owner: Option<(ServicePortKey, Endpoint)>,
        now: Instant,
    ) -> Change {
        self.removed.insert((now, id), owner);
        let row = Backend { state: backend_state::REMOVED, scopes: 0, ..self.row(id) };
        self.set_row(id, row)
    }

    /// Adds flags to a bucket, if it lacks any.
    pub(super) fn flag(&mut self, bucket: u32, flags: u8) -> Option<Change> {
        let word = self.filter.get_mut(bucket as usize / 8)?;
        let lacking = filter::flags(*word, bucket) & flags != flags;
        *word = filter::with_flags(*word, bucket, flags);
        lacking.then_some(Change::Filter { bucket, flags })
    }
}

/// Index of an address's family: 0 IPv4, 1 IPv6.
pub(super) fn family(addr: IpAddr) -> usize {
    usize::from(addr.is_ipv6())
}

/// Every segment of a Service's row: its index, family and scope.
pub(super) fn segments() -> impl Iterator<Item = (usize, usize, Scope)> {
    (0..2).flat_map(|family| {
        Scope::ALL.map(|scope| (Service::segment_index(family, scope.number()), family, scope))
    })
}

/// A backend's row.
pub(super) fn backend_row(backend: &DesiredBackend, service: u32, generation: u32) -> Backend {
    let addr = match backend.addr {
        IpAddr::V4(addr) => V4::from(addr).to_words(),
        IpAddr::V6(addr) => V6::from(addr).to_words(),
    };
    Backend {
        addr,
        port: BePort::new(backend.port),
        state: match backend.takes {
            Takes::New => backend_state::ACTIVE,
            Takes::Terminating | Takes::Draining | Takes::Farther | Takes::NotReady => {
                backend_state::TERMINATING
            }
        },
        family: u8::from(backend.addr.is_ipv6()),
        generation,
        service,
        scopes: backend.scopes,
        reason: backend.takes.reason(),
        weight: backend.weight,
    }
}

/// Address and port of a backend's row.
pub(super) fn endpoint_of(row: &Backend) -> Endpoint {
    let addr = match row.family {
        0 => V4::from_words(row.addr).into(),
        _ => V6::from_words(row.addr).into(),
    };
    (addr, row.port.get())
}

/// Filter bucket of an address.
pub(super) fn address_bucket(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => filter::address_bucket(V4::from(addr)),
        IpAddr::V6(addr) => filter::address_bucket(V6::from(addr)),
    }
}

/// Filter bucket of an address with port and protocol.
pub(super) fn socket_bucket(addr: IpAddr, port: u16, proto: u8) -> u32 {
    let port = BePort::new(port);
    match addr {
        IpAddr::V4(addr) => filter::socket_bucket(V4::from(addr), port, proto),
        IpAddr::V6(addr) => filter::socket_bucket(V6::from(addr), port, proto),
    }
}
