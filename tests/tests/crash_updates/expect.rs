//! What may come of a packet, by what is desired alone: the reference that the
//! programs are held against, whatever is in the maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_tests::prog::net::{POD, Port, UPLINK};
use lb_userspace::desired::{DesiredService, Protocol, Scope, ServicePortKey};

use crate::services::State;

/// A client, of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    pub(crate) addr: IpAddr,
    /// Where it comes in.
    pub(crate) by: Port,
}

/// The clients of a family: a pod, and two outside.
pub(crate) fn clients(v6: bool) -> [Client; 3] {
    let texts = if v6 {
        ["fd00:10:244:1::a", "2001:db8:f::7", "2001:db8:e::7"]
    } else {
        ["10.244.1.10", "203.0.113.7", "203.0.113.130"]
    };
    let mut ports = [POD, UPLINK, UPLINK].into_iter();
    texts.map(|text| {
        let by = ports.next().expect("as many");
        Client { addr: text.parse().expect("an address"), by }
    })
}

/// What a client dials.
pub(crate) type Target = (SocketAddr, Protocol);

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes to an endpoint.
    Served,
    /// Refused or dropped: for want of an endpoint in this scope, since the
    /// client may not, since the port is not served, or since nobody has the
    /// address.
    NoEndpoint(Scope),
    NotAdmitted,
    UnknownPort,
    Unallocated,
    /// It is none of ours.
    Passed,
}

/// A state, prepared to be asked.
pub(crate) struct Reference {
    frontends: BTreeMap<(SocketAddr, u8), (Arc<DesiredService>, Kind)>,
    services: BTreeMap<ServicePortKey, Arc<DesiredService>>,
    state: State,
}

/// What a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    ClusterIp,
    LoadBalancer,
    External,
    NodePort,
}

impl Reference {
    pub(crate) fn new(state: &State) -> Self {
        let services: BTreeMap<_, _> = state
            .desired
            .services
            .iter()
            .map(|(key, one)| (key.clone(), Arc::clone(one)))
            .collect();
        let mut frontends = BTreeMap::new();
        for service in services.values() {
            for (addr, kind) in frontends_of(service, state) {
                let proto = service.key.protocol.number();
                let other = frontends.insert((addr, proto), (Arc::clone(service), kind));
                assert!(other.is_none_or(|(other, _)| other.key == service.key), "{addr} is taken");
            }
        }
        Self { frontends, services, state: state.clone() }
    }

    /// Who answers there.
    pub(crate) fn owner(&self, (to, protocol): Target) -> Option<&Arc<DesiredService>> {
        self.frontends.get(&(to, protocol.number())).map(|(service, _)| service)
    }

    /// Every frontend, its Service port, and what it is.
    pub(crate) fn frontends(
        &self,
    ) -> impl Iterator<Item = (SocketAddr, u8, &Arc<DesiredService>, Kind)> {
        self.frontends
            .iter()
            .map(|((addr, proto), (service, kind))| (*addr, *proto, service, *kind))
    }

    /// Every Service port.
    pub(crate) const fn services(&self) -> &BTreeMap<ServicePortKey, Arc<DesiredService>> {
        &self.services
    }

    /// The node and where the cluster's addresses are.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// What becomes of a client's first packet.
    pub(crate) fn fate(&self, client: Client, target: Target) -> Fate {
        let (to, _) = target;
        let Some((service, kind)) = self.frontends.get(&(to, target.1.number())) else {
            return self.stranger(to.ip());
        };
        if *kind == Kind::LoadBalancer && !admits(service, client.addr, to.ip()) {
            return Fate::NotAdmitted;
        }
        let scope = Self::scope(client, service, *kind);
        if endpoints(service, to.is_ipv6(), scope).is_empty() {
            Fate::NoEndpoint(scope)
        } else {
            Fate::Served
        }
    }

    /// Who may answer a client there.
    pub(crate) fn answers(&self, client: Client, (to, protocol): Target) -> BTreeSet<SocketAddr> {
        let Some((service, kind)) = self.frontends.get(&(to, protocol.number())) else {
            return BTreeSet::new();
        };
        endpoints(service, to.is_ipv6(), Self::scope(client, service, *kind))
    }

    /// Every endpoint that takes new flows of a Service port.
    pub(crate) fn all_endpoints(&self, key: &ServicePortKey) -> BTreeSet<SocketAddr> {
        let Some(service) = self.services.get(key) else { return BTreeSet::new() };
        let both = Scope::ALL.into_iter().flat_map(|scope| {
            [false, true].into_iter().flat_map(move |v6| endpoints(service, v6, scope))
        });
        both.collect()
    }

    fn scope(client: Client, service: &DesiredService, kind: Kind) -> Scope {
        if kind == Kind::ClusterIp {
            service.internal_scope
        } else if client.by == POD {
            Scope::Cluster
        } else {
            service.external_scope
        }
    }

    fn stranger(&self, addr: IpAddr) -> Fate {
        let facts = &self.state.facts;
        let mut known = self.services.values();
        if facts.node_addresses.contains(&addr) {
            return Fate::Passed;
        }
        if known.any(|service| service.cluster_ips.contains(&addr)) {
            return Fate::UnknownPort;
        }
        let mut known = self.services.values();
        let is_external = known.any(|service| {
            service.load_balancer_ips.contains(&addr) || service.external_ips.contains(&addr)
        });
        if !is_external && facts.service_cidrs.iter().any(|range| range.contains(&addr)) {
            return Fate::Unallocated;
        }
        Fate::Passed
    }
}

fn endpoints(service: &DesiredService, v6: bool, scope: Scope) -> BTreeSet<SocketAddr> {
    let takes = service.backends.iter().filter(|one| one.serves(scope) && one.addr.is_ipv6() == v6);
    takes.map(|one| SocketAddr::new(one.addr, one.port)).collect()
}

/// Whether source ranges let a client in at a load balancer's address.
fn admits(service: &DesiredService, client: IpAddr, at: IpAddr) -> bool {
    let mut ranges =
        service.source_ranges.iter().filter(|one| one.addr().is_ipv4() == at.is_ipv4());
    let is_open = ranges.clone().next().is_none();
    is_open || ranges.any(|range| range.contains(&client))
}

/// Where a Service port answers on the network, each place once.
fn frontends_of(service: &DesiredService, state: &State) -> Vec<(SocketAddr, Kind)> {
    let mut kinds = BTreeMap::new();
    for (addresses, kind) in [
        (&service.cluster_ips, Kind::ClusterIp),
        (&service.load_balancer_ips, Kind::LoadBalancer),
        (&service.external_ips, Kind::External),
    ] {
        for addr in addresses {
            kinds.entry(SocketAddr::new(*addr, service.port)).or_insert(kind);
        }
    }
    if let Some(port) = service.node_port {
        for addr in state.facts.node_port_addresses.iter().filter(|addr| has_family(service, addr))
        {
            kinds.entry(SocketAddr::new(*addr, port)).or_insert(Kind::NodePort);
        }
    }
    kinds.into_iter().collect()
}

/// Whether a Service port has a family: by its addresses, or without any by its
/// endpoints.
fn has_family(service: &DesiredService, like: &IpAddr) -> bool {
    let same = |addr: IpAddr| addr.is_ipv6() == like.is_ipv6();
    if service.cluster_ips.is_empty() {
        service.backends.iter().any(|backend| same(backend.addr))
    } else {
        service.cluster_ips.iter().any(|addr| same(*addr))
    }
}
