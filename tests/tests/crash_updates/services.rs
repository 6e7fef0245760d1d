//! Random Services and random changes to them. Of two states in a row, any
//! Service port may have taken what another had; within one, nobody wants what
//! another has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use lb_tests::prog::Random;
use lb_tests::prog::net::{UPLINK, UPLINK_2};
use lb_userspace::desired::{
    Desired, DesiredBackend, DesiredService, Policy, Protocol, Scope, ServicePortKey, Takes,
};
use lb_userspace::reconcile::NetworkFacts;

/// Places for Service ports; each has endpoints of its own.
const PLACES: usize = 10;
/// Endpoints of a place, of each family.
const ENDPOINTS: usize = 6;

/// What is desired.
#[derive(Clone)]
pub(crate) struct State {
    pub(crate) desired: Desired,
    pub(crate) facts: NetworkFacts,
}

/// Which place an endpoint belongs to.
pub(crate) fn place_of(endpoint: IpAddr) -> usize {
    let number = match endpoint {
        IpAddr::V4(addr) => addr.octets()[3],
        IpAddr::V6(addr) => addr.octets()[15],
    };
    usize::from(number) / 10
}

fn v4(text: [u8; 4]) -> IpAddr {
    Ipv4Addr::from(text).into()
}

fn v6(network: [u16; 4], host: usize) -> IpAddr {
    let host = u16::try_from(host).expect("a small number");
    let [a, b, c, d] = network;
    Ipv6Addr::new(a, b, c, d, 0, 0, 0, host).into()
}

fn byte(number: usize) -> u8 {
    u8::try_from(number).expect("a small number")
}

/// An address of each family, out of a range of Services'.
fn cluster_ip(number: usize) -> [IpAddr; 2] {
    [v4([10, 96, 0, byte(number)]), v6([0xfd00, 0x10, 0x96, 0], number)]
}

/// An address of each family, for clients outside.
fn external_ip(number: usize) -> [IpAddr; 2] {
    [v4([203, 0, 113, byte(number)]), v6([0x2001, 0xdb8, 0xf, 0], number)]
}

impl State {
    /// Nothing.
    pub(crate) fn empty() -> Self {
        let node = [UPLINK.v4, UPLINK.v6].map(|text| text.parse().expect("an address")).to_vec();
        let facts = NetworkFacts {
            node_addresses: node.clone(),
            node_port_addresses: node,
            ..NetworkFacts::default()
        };
        Self { desired: Desired::default(), facts }
    }

    /// Another state that has much in common with this one.
    pub(crate) fn changed(&self, random: &mut Random) -> Self {
        let mut next = self.clone();
        for _ in 0..=random.below(3) {
            next.change(random);
        }
        next.make_peace();
        next
    }

    fn change(&mut self, random: &mut Random) {
        match random.below(40) {
            0 => self.desired.services.clear(),
            1 | 2 => self.change_facts(random),
            _ => self.change_service(random),
        }
    }

    fn change_service(&mut self, random: &mut Random) {
        let place = random.below(PLACES);
        let keys = [0, 1].map(|second| key(place, second));
        let known = keys.iter().find_map(|key| self.desired.services.remove(key));
        let replaced = random.one_in(12);
        let Some(known) = known.filter(|_| !replaced) else {
            let service = Arc::new(any_service(place, random));
            self.desired.services.insert(service.key.clone(), service);
            return;
        };
        if random.one_in(10) {
            return;
        }
        let mut service = DesiredService::clone(&known);
        change(&mut service, place, random);
        choose(&mut service);
        // The same allocation means that nothing changed.
        let service = if service == *known { known } else { Arc::new(service) };
        self.desired.services.insert(service.key.clone(), service);
    }

    fn change_facts(&mut self, random: &mut Random) {
        let ports: &[_] = if random.one_in(2) { &[UPLINK, UPLINK_2] } else { &[UPLINK] };
        let texts = ports.iter().flat_map(|port| [port.v4, port.v6]);
        let addresses: Vec<IpAddr> = texts.map(|text| text.parse().expect("an address")).collect();
        let ranges = |texts: &[&str], random: &mut Random| -> Vec<IpNet> {
            let chosen = texts.iter().filter(|_| random.one_in(2));
            chosen.map(|text| text.parse().expect("a range")).collect()
        };
        self.facts = NetworkFacts {
            node_addresses: addresses.clone(),
            node_port_addresses: addresses,
            spare_loopback: false,
            translation_addresses: Vec::new(),
            pods: ranges(&["10.244.1.0/24", "fd00:10:244:1::/64"], random),
            service_cidrs: ranges(&["10.96.0.0/16", "fd00:10:96::/64"], random),
        };
    }

    /// Takes from each Service port what one before it has.
    fn make_peace(&mut self) {
        let mut taken: BTreeSet<(IpAddr, u16, u8)> = BTreeSet::new();
        for service in self.desired.services.values_mut() {
            let (port, proto) = (service.port, service.key.protocol.number());
            let is_free = |addr: &IpAddr| !taken.contains(&(*addr, port, proto));
            let node_port = service.node_port.filter(|port| {
                let addresses = self.facts.node_port_addresses.iter();
                addresses.into_iter().all(|addr| !taken.contains(&(*addr, *port, proto)))
            });
            let all = [&service.cluster_ips, &service.load_balancer_ips, &service.external_ips];
            if node_port != service.node_port || !all.into_iter().flatten().all(is_free) {
                let mut other = DesiredService::clone(service);
                other.cluster_ips.retain(is_free);
                other.load_balancer_ips.retain(is_free);
                other.external_ips.retain(is_free);
                other.node_port = node_port;
                *service = Arc::new(other);
            }
            let all = [&service.cluster_ips, &service.load_balancer_ips, &service.external_ips];
            taken.extend(all.into_iter().flatten().map(|addr| (*addr, port, proto)));
            let node = self.facts.node_port_addresses.iter();
            taken.extend(node.filter_map(|addr| node_port.map(|port| (*addr, port, proto))));
        }
    }
}

/// One of two Services that may be in a place, one after the other.
fn key(place: usize, second: usize) -> ServicePortKey {
    ServicePortKey {
        namespace: "default".into(),
        name: format!("{}{place}", ["first", "second"][second]),
        port_name: "main".into(),
        protocol: [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][place % 3],
    }
}

fn any_service(place: usize, random: &mut Random) -> DesiredService {
    let mut service = DesiredService {
        key: key(place, random.below(2)),
        port: 80,
        policy: Policy::RoundRobin,
        cluster_ips: Vec::new(),
        node_port: None,
        load_balancer_ips: Vec::new(),
        external_ips: Vec::new(),
        source_ranges: Vec::new(),
        internal_scope: Scope::Cluster,
        external_scope: Scope::Cluster,
        affinity: None,
        backends: Vec::new(),
    };
    for what in 0..KINDS {
        change_this(what, &mut service, place, random);
    }
    choose(&mut service);
    service
}

/// Kinds of changes to a Service port.
const KINDS: usize = 8;

fn change(service: &mut DesiredService, place: usize, random: &mut Random) {
    // Endpoints change most.
    let what = if random.one_in(2) { 0 } else { random.below(KINDS) };
    change_this(what, service, place, random);
}

fn change_this(what: usize, service: &mut DesiredService, place: usize, random: &mut Random) {
    const POLICIES: [Policy; 3] = [Policy::RoundRobin, Policy::Random, Policy::LeastConnections];
    let some = |addresses: [IpAddr; 2], random: &mut Random| -> Vec<IpAddr> {
        addresses.into_iter().filter(|_| !random.one_in(3)).collect()
    };
    match what {
        0 => change_endpoints(&mut service.backends, place, random),
        // Tables are long, and rest before they are used again: one Service may
        // have some.
        1 if place == 0 && random.one_in(2) => {
            service.policy = random.pick(&[Policy::SourceHash, Policy::Maglev]);
        }
        1 => service.policy = random.pick(&POLICIES),
        2 => service.affinity = [None, Some(60)][random.below(2)],
        3 => {
            let scope = |random: &mut Random| random.pick(&Scope::ALL);
            (service.internal_scope, service.external_scope) = (scope(random), scope(random));
        }
        4 => service.cluster_ips = some(cluster_ip(10 + random.below(12)), random),
        5 => service.port = random.pick(&[80, 80, 443]),
        6 => {
            let number = 50 + random.below(6);
            service.load_balancer_ips = some(external_ip(number), random);
            let ranges = ["203.0.113.0/25", "203.0.113.128/25", "198.18.0.0/15", "2001:db8:f::/64"];
            let chosen = ranges.iter().filter(|_| random.one_in(3));
            service.source_ranges = chosen.map(|text| text.parse().expect("a range")).collect();
        }
        _ => {
            let number = 60 + random.below(4);
            service.external_ips =
                if random.one_in(2) { some(external_ip(number), random) } else { Vec::new() };
            service.node_port = [None, Some(30_080), Some(30_081)][random.below(3)];
        }
    }
}

fn change_endpoints(backends: &mut Vec<DesiredBackend>, place: usize, random: &mut Random) {
    if random.one_in(8) {
        backends.clear();
        return;
    }
    for _ in 0..=random.below(3) {
        let number = place * 10 + random.below(ENDPOINTS);
        let addr = if random.one_in(2) {
            v4([10, 244, 2, byte(number)])
        } else {
            v6([0xfd00, 0x10, 0x244, 2], number)
        };
        let before = backends.len();
        backends.retain(|backend| backend.addr != addr);
        if backends.len() < before && random.one_in(2) {
            continue;
        }
        let takes = match random.below(6) {
            0 => Takes::Terminating,
            1 => Takes::Draining,
            2 => Takes::NotReady,
            _ => Takes::New,
        };
        let weight = if takes == Takes::Draining { 0 } else { random.pick(&[1, 1, 2, 3]) };
        let local = random.one_in(2);
        backends.push(DesiredBackend { addr, port: 8080, takes, scopes: 0, local, weight });
    }
    backends.sort();
}

/// In which scopes endpoints take new flows. Nobody asks for those of this node
/// where no policy is Local.
fn choose(service: &mut DesiredService) {
    if service.policy.is_by_hash() {
        // Half as many tables.
        (service.internal_scope, service.external_scope) = (Scope::Cluster, Scope::Cluster);
    }
    let asked = [service.internal_scope, service.external_scope].contains(&Scope::Local);
    for backend in &mut service.backends {
        let local = if asked && backend.local { 1 << Scope::Local.number() } else { 0 };
        let takes = backend.takes == Takes::New;
        backend.scopes = if takes { 1 << Scope::Cluster.number() | local } else { 0 };
    }
}
