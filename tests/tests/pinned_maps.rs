//! The agent's view of the real, pinned maps: what it writes is what everyone
//! else reads, and what the next agent continues with.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use aya::maps::{Array, HashMap, Map, MapData};
use lb_common::{Backend, Frontend, FrontendKey, Service, ServiceName, V4, names};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::dataplane::{HookOptions, Hooks, MapSizes, cleanup};
use lb_userspace::desired::{
    Desired, DesiredBackend, DesiredService, Policy, Protocol, Scope, ServicePortKey, Takes,
};
use lb_userspace::reconcile::{NetworkFacts, Programmer};
use lb_userspace::view::{ServiceView, services};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Loaded maps, removed when dropped.
struct Pins {
    _netns: Namespace,
    path: PathBuf,
}

impl Pins {
    fn load(sizes: MapSizes) -> Self {
        let netns = Namespace::new(Naming::Unique, "maps").unwrap();
        let path = Path::new("/sys/fs/bpf").join(netns.name());
        let options = HookOptions { sizes, ..HookOptions::new(&path) };
        drop(netns.run(|| Hooks::open(&options).map_err(|error| error.to_string())).unwrap());
        Self { _netns: netns, path }
    }

    fn map(&self, name: &str) -> Map {
        let data = MapData::from_pin(self.path.join("maps").join(name)).unwrap();
        Map::from_map_data(data).unwrap()
    }

    fn services(&self) -> Vec<ServiceView> {
        services(&Maps::open(&self.path).unwrap()).unwrap()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = cleanup(&self.path);
    }
}

fn sizes() -> MapSizes {
    MapSizes {
        services: 64,
        backends: 64,
        slots: 256,
        frontends: 64,
        flows_v4: 1024,
        flows_v6: 1024,
        interfaces: 16,
        affinity: 64,
        prefixes: 64,
    }
}

fn web(backends: &[&str]) -> DesiredService {
    let backend = |addr: &&str| DesiredBackend {
        addr: addr.parse().unwrap(),
        port: 8080,
        takes: Takes::New,
        scopes: 1,
        local: false,
        weight: 1,
    };
    DesiredService {
        key: ServicePortKey {
            namespace: "shop".into(),
            name: "web".into(),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        policy: Policy::Random,
        cluster_ips: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        node_port: Some(30080),
        load_balancer_ips: vec![],
        external_ips: vec![],
        source_ranges: vec![],
        internal_scope: Scope::Cluster,
        external_scope: Scope::Cluster,
        affinity: None,
        backends: backends.iter().map(backend).collect(),
    }
}

fn desired(service: DesiredService) -> Desired {
    Desired { services: [(service.key.clone(), Arc::new(service))].into_iter().collect() }
}

fn facts() -> NetworkFacts {
    NetworkFacts {
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        node_port_addresses: vec!["192.0.2.1".parse().unwrap()],
        pods: vec![],
        service_cidrs: vec![],
        spare_loopback: false,
        translation_addresses: vec![],
    }
}

#[test]
fn what_is_written_through_memory_is_what_system_calls_read() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::load(sizes());
    let mut programmer = Programmer::open(&pins.path, Instant::now()).unwrap();
    let web = web(&["10.1.0.1", "10.1.0.2", "10.1.0.3", "fd01::1"]);
    let report = programmer.apply(&desired(web), &facts(), Instant::now()).unwrap();
    assert_eq!((report.changed, report.refused.len()), (1, 0));

    let frontends: HashMap<_, FrontendKey<V4>, Frontend> =
        pins.map(names::MAP_FRONTENDS_V4).try_into().unwrap();
    let vip = V4::from("10.96.0.1".parse::<std::net::Ipv4Addr>().unwrap());
    let key = FrontendKey::new(vip, lb_common::BePort::new(80), 6);
    let id = frontends.get(&key, 0).unwrap().service;
    assert!(frontends.get(&FrontendKey::address(vip), 0).is_ok());
    let services: Array<_, Service> = pins.map(names::MAP_SERVICES).try_into().unwrap();
    let service = services.get(&id, 0).unwrap();
    assert_eq!((service.used, service.policy, service.proto), (1, 1, 6));
    let segment = service.segments[Service::segment_index(0, 0)];
    assert_eq!(segment.len, 3);
    assert_eq!(service.segments[Service::segment_index(1, 0)].len, 1);
    let slots: Array<_, u64> = pins.map(names::MAP_SLOTS).try_into().unwrap();
    let backends: Array<_, Backend> = pins.map(names::MAP_BACKENDS).try_into().unwrap();
    let addresses = (segment.base..segment.base + segment.len).map(|slot| {
        let word = slots.get(&(slot / 2), 0).unwrap();
        let backend = u32::try_from((word >> (32 * (slot % 2))) & 0xffff_ffff).unwrap();
        let row = backends.get(&backend, 0).unwrap();
        assert_eq!((row.service, row.port.get(), row.generation), (id, 8080, 1));
        std::net::Ipv4Addr::from(V4(row.addr[0])).to_string()
    });
    assert_eq!(addresses.collect::<Vec<_>>(), ["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    let named: HashMap<_, u32, ServiceName> = pins.map(names::MAP_NAMES).try_into().unwrap();
    assert_eq!(&named.get(&id, 0).unwrap().name[..4], b"web\0");
}

#[test]
fn another_agent_continues_and_people_read_the_same() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = Pins::load(sizes());
    let now = Instant::now();
    let mut first = Programmer::open(&pins.path, now).unwrap();
    first.apply(&desired(web(&["10.1.0.1", "10.1.0.2"])), &facts(), now).unwrap();
    drop(first);
    let seen = pins.services();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].node_port, seen[0].policy), (Some(30080), "random"));
    assert_eq!(seen[0].cluster_ips.len(), 2);

    let mut second = Programmer::open(&pins.path, now).unwrap();
    assert_eq!(second.services(), 1);
    let report = second.apply(&desired(web(&["10.1.0.1", "10.1.0.2"])), &facts(), now).unwrap();
    assert_eq!(report.changed, 0);
    assert_eq!(pins.services(), seen);

    let report = second.apply(&desired(web(&["10.1.0.2"])), &facts(), now).unwrap();
    assert_eq!(report.changed, 1);
    assert_eq!(pins.services()[0].backends.len(), 1);
    second.apply(&Desired::default(), &facts(), now).unwrap();
    assert_eq!(pins.services(), []);
    second.expire(now + Duration::from_secs(10)).unwrap();
    assert_eq!(second.next_expiry(), None);
}

#[test]
fn counters_of_a_new_owner_start_at_zero() {
    if !privilege::root_or_skip() {
        return;
    }
    // One id of each kind besides the reserved one.
    let pins = Pins::load(MapSizes { services: 2, backends: 2, ..sizes() });
    let mut now = Instant::now();
    let mut programmer = Programmer::open(&pins.path, now).unwrap();
    let mut web = web(&["10.1.0.1"]);
    programmer.apply(&desired(web.clone()), &facts(), now).unwrap();
    for name in [names::MAP_SERVICE_TRAFFIC, names::MAP_BACKEND_TRAFFIC] {
        let mut traffic: aya::maps::PerCpuArray<_, lb_common::Traffic> =
            pins.map(name).try_into().unwrap();
        let row = lb_common::Traffic { connections: 5, ..Default::default() };
        let cpus = aya::util::nr_cpus().unwrap();
        traffic.set(1, vec![row; cpus].try_into().unwrap(), 0).unwrap();
    }
    let before = &pins.services()[0];
    assert!(before.counters.connections > 0 && before.backends[0].counters.connections > 0);

    programmer.apply(&Desired::default(), &facts(), now).unwrap();
    web.key.name = "other".into();
    let report = programmer.apply(&desired(web.clone()), &facts(), now).unwrap();
    assert!(report.wants_retry(), "{:?}", report.refused);
    now += Duration::from_secs(5);
    programmer.apply(&desired(web), &facts(), now).unwrap();
    let after = &pins.services()[0];
    assert_eq!(after.name, "other");
    assert_eq!(after.counters.connections, 0);
    assert_eq!(after.backends[0].counters.connections, 0);
}
