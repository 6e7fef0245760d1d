//! The kernel's maps as plain memory, and what a packet sees in them.

use super::super::change::Change;
use super::super::image::Image;
use super::super::state::{Endpoint, endpoint_of};
use crate::dataplane::maps::FrontendId;
use ipnet::IpNet;
use lb_common::value::{backend_state, frontend_flag, frontend_kind, scope};
use lb_common::{Backend, Frontend, RangeHeads, Segment, Service, filter};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// An empty kernel.
pub(super) fn kernel(services: usize, backends: usize, words: usize, frontends: u32) -> Image {
    Image {
        names: vec![],
        services: vec![Service::default(); services],
        backends: vec![Backend::default(); backends],
        slots: vec![0; words],
        filter: vec![0; filter::WORDS as usize],
        frontends: vec![],
        frontend_capacity: [frontends; 2],
        prefixes: vec![],
        prefix_capacity: [frontends / 2; 2],
        heads: [RangeHeads::default(); 2],
        rested: true,
    }
}

/// What `write` does to the real maps.
pub(super) fn write(kernel: &mut Image, change: &Change) {
    match change {
        Change::Filter { bucket, flags } => {
            let word = &mut kernel.filter[*bucket as usize / 8];
            *word = filter::with_flags(*word, *bucket, *flags);
        }
        Change::Name { service, name } => {
            kernel.names.retain(|(id, _)| id != service);
            kernel.names.extend(name.as_ref().map(|name| (*service, name.0)));
        }
        Change::ClearServiceTraffic(_) | Change::ClearBackendTraffic(_) => {}
        Change::Backend { backend, row } => kernel.backends[*backend as usize] = *row,
        Change::Slots { word, backends } => {
            for (index, two) in backends.chunks(2).enumerate() {
                let high = two.get(1).map_or(0, |id| u64::from(*id) << 32);
                kernel.slots[*word as usize + index] = u64::from(two[0]) | high;
            }
        }
        Change::Header { service, header } => {
            let row = &mut kernel.services[*service as usize];
            (row.policy, row.used, row.proto) =
                (header.policy, u8::from(header.used), header.proto);
            row.affinity = header.affinity;
        }
        Change::Segment { service, index, segment } => {
            kernel.services[*service as usize].segments[*index] = *segment;
        }
        Change::Prefix { owner, range, present } => {
            kernel.prefixes.retain(|known| known != &(*owner, *range));
            kernel.prefixes.extend(present.then_some((*owner, *range)));
            let of_family =
                |(_, other): &&(u32, IpNet)| other.addr().is_ipv4() == range.addr().is_ipv4();
            let count = kernel.prefixes.iter().filter(of_family).count();
            assert!(count <= kernel.prefix_capacity[0] as usize, "a map overflowed");
        }
        Change::Heads { family, heads } => kernel.heads[*family] = *heads,
        Change::Frontend { id, row } => {
            kernel.frontends.retain(|(other, _)| other != id);
            kernel.frontends.extend(row.map(|row| (*id, row)));
            let count = kernel.frontends.iter().filter(|(other, _)| other.family() == id.family());
            assert!(count.count() <= kernel.frontend_capacity[0] as usize, "a map overflowed");
        }
    }
}

/// What the kernel holds in the middle of a write that is more than one store,
/// in the order of `dataplane::maps`.
pub(super) fn torn(kernel: &Image, change: &Change) -> Vec<Image> {
    let with = |change: Change| {
        let mut kernel = kernel.clone();
        write(&mut kernel, &change);
        kernel
    };
    match change {
        Change::Backend { backend, row } => {
            let mut half = kernel.backends[*backend as usize];
            let mut halves = Vec::new();
            let mut store = |half: &Backend| {
                halves.push(with(Change::Backend { backend: *backend, row: *half }));
            };
            half.addr[..2].copy_from_slice(&row.addr[..2]);
            store(&half);
            half.addr = row.addr;
            store(&half);
            (half.service, half.scopes) = (row.service, row.scopes);
            (half.reason, half.weight) = (row.reason, row.weight);
            store(&half);
            halves
        }
        Change::Slots { word, backends } => (1..backends.chunks(2).len())
            .map(|words| {
                with(Change::Slots { word: *word, backends: backends[..words * 2].into() })
            })
            .collect(),
        Change::Filter { .. }
        | Change::Name { .. }
        | Change::ClearServiceTraffic(_)
        | Change::ClearBackendTraffic(_)
        | Change::Header { .. }
        | Change::Segment { .. }
        | Change::Prefix { .. }
        | Change::Heads { .. }
        | Change::Frontend { .. } => Vec::new(),
    }
}

/// Backends of one family, as a packet finds them.
pub(super) type Set = BTreeSet<(u32, Endpoint)>;

/// What packets find at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) frontends: BTreeMap<FrontendId, Frontend>,
    /// By Service id and segment.
    pub(super) sets: BTreeMap<(u32, usize), Set>,
    /// Those of Services to which no frontend leads.
    pub(super) idle: BTreeMap<(u32, usize), Set>,
}

impl View {
    /// The backends that a client gets at a frontend with this row: a pod of
    /// this node, or somebody else.
    pub(super) fn answers(&self, id: &FrontendId, row: Frontend, local: bool) -> Set {
        let anywhere = local && row.kind != frontend_kind::CLUSTER_IP;
        let scope = if anywhere { scope::CLUSTER } else { row.scope };
        let index = Service::segment_index(id.family(), scope);
        self.sets.get(&(row.service, index)).cloned().unwrap_or_default()
    }

    /// Whose these frontends are.
    pub(super) fn ports(&self, which: impl Fn(&FrontendId) -> bool) -> BTreeSet<u32> {
        let ports = self.frontends.iter().filter(|(id, _)| !id.is_address() && which(id));
        ports.map(|(_, row)| row.service).collect()
    }
}

/// Follows every path that a packet can take, and checks each row on it.
pub(super) fn view(kernel: &Image) -> View {
    let frontends: BTreeMap<_, _> = kernel.frontends.iter().copied().collect();
    let mut sets = BTreeMap::new();
    for (id, row) in &frontends {
        let service = kernel.services[row.service as usize];
        // A kernel without a filter looks everywhere.
        let flags = |bucket: u32| {
            let word = kernel.filter.get(bucket as usize / 8);
            word.map_or(u8::MAX, |word| filter::flags(*word, bucket))
        };
        if id.is_address() {
            let bucket = super::super::state::address_bucket(id.addr);
            assert_ne!(flags(bucket) & filter::SERVICE_ADDR, 0, "{id} is not in the filter");
            continue;
        }
        let bucket = super::super::state::socket_bucket(id.addr, id.port, id.proto);
        assert_ne!(flags(bucket) & filter::FRONTEND, 0, "{id} is not in the filter");
        assert_eq!(service.used, 1, "{id} leads to a row that nobody owns");
        let guarded = row.flags & frontend_flag::SOURCE_RANGES != 0;
        let ranges = kernel.prefixes.iter().any(|(owner, _)| *owner == row.service);
        assert!(ranges || !guarded, "{id} is closed to everybody");
        for (index, segment) in service.segments.into_iter().enumerate() {
            let (family, scope) = (index / 2, index % 2);
            let mut set = Set::new();
            for backend in kernel.slots_of(segment).unwrap() {
                let found = kernel.backends[backend as usize];
                assert_ne!(backend, 0, "{id} has an empty slot");
                assert_eq!(found.service, row.service, "{id} has another's backend");
                assert_eq!(usize::from(found.family), family);
                assert_ne!(found.scopes & 1 << scope, 0, "{id} has a backend of another scope");
                assert_ne!(found.state, backend_state::FREE, "{id} has a free backend");
                let (addr, port) = endpoint_of(&found);
                let bucket = super::super::state::socket_bucket(addr, port, id.proto);
                assert_ne!(flags(bucket) & filter::BACKEND, 0, "{addr} is not in the filter");
                set.insert((backend, (addr, port)));
            }
            sets.insert((row.service, index), set);
        }
    }
    let mut idle = BTreeMap::new();
    for (id, service) in (0..).zip(&kernel.services).filter(|(_, service)| service.used == 1) {
        for (index, segment) in service.segments.into_iter().enumerate() {
            if !sets.contains_key(&(id, index)) {
                let ids = kernel.slots_of(segment).unwrap().into_iter();
                let set = ids.map(|id| (id, endpoint_of(&kernel.backends[id as usize])));
                idle.insert((id, index), set.collect());
            }
        }
    }
    View { frontends, sets, idle }
}

/// Packets that are still on their way with what they read earlier.
#[derive(Default)]
pub(super) struct Travellers(Vec<Traveller>);

/// One packet: when it left, and what it read.
struct Traveller {
    left: Instant,
    segment: Segment,
    rows: Vec<(u32, Backend)>,
}

impl Travellers {
    /// Remembers every segment in force.
    pub(super) fn depart(&mut self, kernel: &Image, now: Instant) {
        for segment in kernel.services.iter().flat_map(|service| service.segments) {
            let ids = kernel.slots_of(segment).unwrap();
            let rows = ids.into_iter().map(|id| (id, kernel.backends[id as usize])).collect();
            self.0.push(Traveller { left: now, segment, rows });
        }
    }

    /// All are where they were going.
    pub(super) fn arrive(&mut self) {
        self.0.clear();
    }

    /// Whoever left less than a second ago must find what there was then.
    pub(super) fn check(&mut self, kernel: &Image, now: Instant) {
        self.0.retain(|traveller| traveller.left + Duration::from_secs(1) > now);
        for Traveller { left: _, segment, rows } in &self.0 {
            let ids = kernel.slots_of(*segment).unwrap();
            assert!(ids.iter().eq(rows.iter().map(|(id, _)| id)), "slots were reused at once");
            for (id, then) in rows {
                let row = kernel.backends[*id as usize];
                assert_eq!(row.generation, then.generation, "backend {id} was reused at once");
                assert_eq!(endpoint_of(&row), endpoint_of(then));
                assert_ne!(row.state, backend_state::FREE, "backend {id} was freed at once");
            }
        }
    }
}
