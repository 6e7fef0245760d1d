//! What the maps hold when an update is through: exactly what is desired, and
//! nothing else for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use lb_common::key::{PODS, SERVICE_CIDRS};
use lb_common::value::{backend_state, frontend_flag, frontend_kind};
use lb_common::{Frontend, RangeHeads, Service};
use lb_userspace::dataplane::maps::{FrontendId, Maps};
use lb_userspace::desired::{DesiredService, Scope, ServicePortKey, Takes};
use lb_userspace::reconcile::key_of;

use crate::expect::{Kind, Reference};
use crate::world::{backend_at, endpoint};

/// Compares all maps with what is desired.
pub(crate) fn audit(maps: &Maps, state: &Reference) {
    let names = maps.names.rows().expect("the names");
    let ids: BTreeMap<ServicePortKey, u32> =
        names.iter().map(|(id, name)| (key_of(name).expect("a name"), *id)).collect();
    assert_eq!(names.len(), ids.len(), "a Service port has two ids");
    let keys: Vec<_> = ids.keys().collect();
    assert_eq!(keys, state.services().keys().collect::<Vec<_>>());
    for id in 0..maps.services.len() {
        let row = maps.services.get(id).expect("inside");
        let is_used = row.used != 0 || row.segments != Service::default().segments;
        assert!(!is_used || ids.values().any(|known| *known == id), "service {id} is nobody's");
    }
    for (key, service) in state.services() {
        audit_service(maps, service, ids[key]);
    }
    audit_frontends(maps, state, &ids);
    audit_ranges(maps, state, &ids);
}

/// Long after, nothing is left of what was removed.
pub(crate) fn audit_leftovers(maps: &Maps, state: &Reference) {
    let rows = (0..maps.backends.len()).filter_map(|id| maps.backends.get(id));
    let used = rows.filter(|row| row.state != backend_state::FREE).count();
    let desired: usize = state.services().values().map(|service| service.backends.len()).sum();
    assert_eq!(used, desired, "backends are lost");
}

fn audit_service(maps: &Maps, service: &DesiredService, id: u32) {
    let key = &service.key;
    let row = maps.services.get(id).expect("inside");
    let header = (row.policy, row.used, row.proto, row.affinity);
    let affinity = service.affinity.unwrap_or(0);
    assert_eq!(header, (service.policy.number(), 1, key.protocol.number(), affinity), "{key}");
    let mut backends = BTreeMap::new();
    for row in (0..maps.backends.len()).filter_map(|id| maps.backends.get(id)) {
        let gone = [backend_state::FREE, backend_state::REMOVED].contains(&row.state);
        if !gone && row.service == id {
            let what = (row.state, row.scopes, row.reason, row.weight);
            let twice = backends.insert(endpoint(&row), what);
            assert_eq!(twice, None, "{key} has an endpoint twice");
        }
    }
    let desired = service.backends.iter().map(|backend| {
        let new = backend.takes == Takes::New;
        let state = if new { backend_state::ACTIVE } else { backend_state::TERMINATING };
        let what = (state, backend.scopes, backend.takes.reason(), backend.weight);
        (SocketAddr::new(backend.addr, backend.port), what)
    });
    assert_eq!(backends, desired.collect(), "{key}");
    for scope in Scope::ALL {
        for family in 0..2 {
            let segment = row.segments[Service::segment_index(family, scope.number())];
            let mut slots: BTreeMap<SocketAddr, usize> = BTreeMap::new();
            for slot in segment.base..segment.base + segment.len {
                *slots.entry(endpoint(&backend_at(maps, slot))).or_default() += 1;
            }
            let takes = service
                .backends
                .iter()
                .filter(|one| one.serves(scope) && usize::from(one.addr.is_ipv6()) == family);
            let weights: BTreeMap<SocketAddr, usize> = takes
                .map(|one| (SocketAddr::new(one.addr, one.port), usize::from(one.weight)))
                .collect();
            assert!(slots.keys().eq(weights.keys()), "{key}: {slots:?} for {weights:?}");
            let total = |of: &BTreeMap<SocketAddr, usize>| of.values().sum::<usize>();
            for (addr, count) in &slots {
                let (is, ought) = (count * total(&weights), weights[addr] * total(&slots));
                // A table is as near as its size allows.
                let near = is.abs_diff(ought) * 50 <= ought;
                let right = if service.policy.is_by_hash() { near } else { is == ought };
                assert!(right, "{key}: {addr} has {count} of {slots:?} for {weights:?}");
            }
        }
    }
}

fn audit_frontends(maps: &Maps, state: &Reference, ids: &BTreeMap<ServicePortKey, u32>) {
    let found: BTreeMap<FrontendId, Frontend> =
        maps.frontends.rows().expect("the frontends").into_iter().collect();
    let mut desired = BTreeMap::new();
    for (addr, proto, service, kind) in state.frontends() {
        let (number, whole) = match kind {
            Kind::ClusterIp => (frontend_kind::CLUSTER_IP, Some(frontend_kind::ADDRESS)),
            Kind::LoadBalancer => {
                (frontend_kind::LOAD_BALANCER, Some(frontend_kind::EXTERNAL_ADDRESS))
            }
            Kind::External => (frontend_kind::EXTERNAL_IP, Some(frontend_kind::EXTERNAL_ADDRESS)),
            Kind::NodePort => (frontend_kind::NODE_PORT, None),
        };
        let scope =
            if kind == Kind::ClusterIp { service.internal_scope } else { service.external_scope };
        let same = |range: &IpNet| range.addr().is_ipv6() == addr.is_ipv6();
        let guarded = kind == Kind::LoadBalancer && service.source_ranges.iter().any(same);
        let flags = if guarded { frontend_flag::SOURCE_RANGES } else { 0 };
        let row = Frontend {
            service: ids[&service.key],
            kind: number,
            scope: scope.number(),
            flags,
            pad: 0,
        };
        desired.insert(FrontendId::port(addr.ip(), addr.port(), proto), row);
        if let Some(kind) = whole {
            let row = Frontend { kind, ..Frontend::default() };
            desired.insert(FrontendId::address(addr.ip()), row);
        } else {
            let loopback: IpAddr = match addr {
                SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            };
            desired.insert(FrontendId::loopback(loopback, addr.port(), proto), row);
        }
    }
    assert_eq!(found, desired);
}

fn audit_ranges(maps: &Maps, state: &Reference, ids: &BTreeMap<ServicePortKey, u32>) {
    let found: BTreeSet<(u32, IpNet)> =
        maps.prefixes.rows().expect("the ranges").into_iter().collect();
    let facts = &state.state().facts;
    let mut desired = BTreeSet::new();
    desired.extend(facts.pods.iter().map(|range| (PODS, *range)));
    desired.extend(facts.service_cidrs.iter().map(|range| (SERVICE_CIDRS, *range)));
    for (key, service) in state.services() {
        desired.extend(service.ranges_in_force().map(|range| (ids[key], range)));
    }
    assert_eq!(found, desired);
    for family in 0..2 {
        let of = |range: &&IpNet| usize::from(range.addr().is_ipv6()) == family;
        let count = facts.service_cidrs.iter().filter(of).count();
        let heads: RangeHeads = maps.ranges.get(family).expect("inside");
        assert_eq!(usize::try_from(heads.count).expect("few"), count, "heads of {family}");
    }
}
