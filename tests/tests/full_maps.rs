//! Full maps: what does not fit is refused by itself with the reason, all else is
//! served, how full the map is shows before it is, and room that is made is used.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use lb_common::names;
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege;
use lb_userspace::dataplane::maps::{Maps, fill};
use lb_userspace::dataplane::{HookOptions, Hooks, MapSizes, cleanup};
use lb_userspace::desired::{
    Desired, DesiredBackend, DesiredService, Policy, Protocol, Scope, ServicePortKey, Takes,
};
use lb_userspace::reconcile::{ApplyReport, NetworkFacts, Programmer};
use lb_userspace::view::services;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Maps with an agent over them; gone when dropped.
struct World {
    programmer: Programmer,
    facts: NetworkFacts,
    now: Instant,
    pins: PathBuf,
    _netns: Namespace,
}

/// Each is what one of the limits below needs, and enough for the others. The kernel
/// takes seconds to load the programs, so all have the same maps.
const SIZES: MapSizes = MapSizes {
    services: 6,
    backends: 64,
    slots: 20,
    frontends: 12,
    flows_v4: 1024,
    flows_v6: 1024,
    interfaces: 16,
    affinity: 64,
    prefixes: 5,
};

impl World {
    fn new() -> Self {
        let netns = Namespace::new(Naming::Unique, "full").unwrap();
        let pins = Path::new("/sys/fs/bpf").join(netns.name());
        let options = HookOptions { sizes: SIZES, ..HookOptions::new(&pins) };
        drop(netns.run(|| Hooks::open(&options).map_err(|error| error.to_string())).unwrap());
        let now = Instant::now();
        let programmer = Programmer::open(&pins, now).unwrap();
        Self { programmer, facts: NetworkFacts::default(), now, pins, _netns: netns }
    }

    fn apply(&mut self, services: &[DesiredService]) -> ApplyReport {
        let by_key = |service: &DesiredService| (service.key.clone(), Arc::new(service.clone()));
        let desired = Desired { services: services.iter().map(by_key).collect() };
        // What an earlier update freed has rested.
        self.now += Duration::from_secs(5);
        self.programmer.apply(&desired, &self.facts, self.now).unwrap()
    }

    /// Names of the Services in force, as anybody reads them from the kernel.
    fn served(&self) -> Vec<String> {
        let served = services(&Maps::open(&self.pins).unwrap()).unwrap();
        let mut names: Vec<String> = served.into_iter().map(|service| service.name).collect();
        names.sort();
        names
    }

    /// How much of a map is in use, and of how much, as the metrics and `lb status`
    /// say it.
    fn fill(&self, map: &str) -> (u32, u32) {
        let fill = fill(&self.pins, &Maps::open(&self.pins).unwrap()).unwrap();
        let fill = fill.into_iter().find(|fill| fill.map == map).unwrap();
        (fill.used.unwrap(), fill.max)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = cleanup(&self.pins);
    }
}

/// A Service of this number with as many endpoints, and a ClusterIP of either family.
fn service(number: u8, v6: bool, endpoints: u8) -> DesiredService {
    let backend = |last: u8| DesiredBackend {
        addr: address(v6, "10.1.0.", "fd01::", last),
        port: 8080,
        takes: Takes::New,
        scopes: 1,
        local: false,
        weight: 1,
    };
    DesiredService {
        key: ServicePortKey {
            namespace: "shop".into(),
            name: format!("s{number}"),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        },
        port: 80,
        policy: Policy::RoundRobin,
        cluster_ips: vec![address(v6, "10.96.0.", "fd00::", number)],
        node_port: None,
        load_balancer_ips: vec![],
        external_ips: vec![],
        source_ranges: vec![],
        internal_scope: Scope::Cluster,
        external_scope: Scope::Cluster,
        affinity: None,
        backends: (1..=endpoints).map(backend).collect(),
    }
}

fn address(v6: bool, v4_start: &str, v6_start: &str, last: u8) -> IpAddr {
    let text = if v6 { format!("{v6_start}{last:x}") } else { format!("{v4_start}{last}") };
    text.parse().unwrap()
}

/// A Service with three addresses, each of which is a row for the port and one for
/// all other ports.
fn many_addresses(number: u8, v6: bool) -> DesiredService {
    let addresses = [number, 100 + number, 200 + number];
    let cluster_ips = addresses.map(|last| address(v6, "10.96.0.", "fd00::", last)).to_vec();
    DesiredService { cluster_ips, ..service(number, v6, 1) }
}

/// A Service for few clients: a row for each range that they may come from.
fn guarded(number: u8, v6: bool, ranges: u8) -> DesiredService {
    let mut service = service(number, v6, 1);
    service.load_balancer_ips = std::mem::take(&mut service.cluster_ips);
    let range =
        |n: u8| if v6 { format!("2001:db8:{n:x}::/48") } else { format!("172.16.{n}.0/24") };
    service.source_ranges = (0..ranges).map(|n| range(n).parse().unwrap()).collect();
    service
}

/// A limit, and Services of which all but the last fit.
struct Limit {
    map: &'static str,
    services: Vec<DesiredService>,
    /// Entries that each of them takes.
    each: u32,
    /// One that fits beside them.
    small: Option<DesiredService>,
    reason: &'static str,
}

fn limits() -> Vec<Limit> {
    let small = |v6| Some(service(9, v6, 1));
    vec![
        Limit {
            map: names::MAP_SERVICES,
            services: (1..=6).map(|number| service(number, false, 1)).collect(),
            each: 1,
            small: None,
            reason: "the service map is full: all 5 ids are in use",
        },
        Limit {
            map: names::MAP_FRONTENDS_V4,
            services: (1..=3).map(|number| many_addresses(number, false)).collect(),
            each: 6,
            small: small(true),
            reason: "the IPv4 frontend map is full: all 12 rows are in use",
        },
        Limit {
            map: names::MAP_FRONTENDS_V6,
            services: (1..=3).map(|number| many_addresses(number, true)).collect(),
            each: 6,
            small: small(false),
            reason: "the IPv6 frontend map is full: all 12 rows are in use",
        },
        Limit {
            map: names::MAP_SLOTS,
            services: (1..=3).map(|number| service(number, false, 8)).collect(),
            each: 8,
            small: small(false),
            reason: "the slot map is full: no run of 8 free slots is left",
        },
        Limit {
            map: names::MAP_PREFIXES_V4,
            services: (1..=3).map(|number| guarded(number, false, 2)).collect(),
            each: 2,
            small: Some(guarded(9, false, 1)),
            reason: "the IPv4 range map is full: it needs 2 more, and it has 5 rows",
        },
        Limit {
            map: names::MAP_PREFIXES_V6,
            services: (1..=3).map(|number| guarded(number, true, 2)).collect(),
            each: 2,
            small: Some(guarded(9, true, 1)),
            reason: "the IPv6 range map is full: it needs 2 more, and it has 5 rows",
        },
    ]
}

#[test]
fn what_does_not_fit_is_refused_by_name_and_nothing_else_waits_for_it() {
    if !privilege::root_or_skip() {
        return;
    }
    let mut world = World::new();
    for limit in limits() {
        limit.holds(&mut world);
        world.apply(&[]);
        assert_eq!(world.fill(limit.map).0, 0, "{}", limit.map);
    }
    ranges_of_the_node_and_the_cluster(&mut world);
}

impl Limit {
    fn holds(&self, world: &mut World) {
        let Self { map, services, each, small, reason } = self;
        let (last, fit) = services.split_last().unwrap();
        // How full it is shows before it is.
        for count in 1..=fit.len() {
            assert!(world.apply(&fit[..count]).refused.is_empty(), "{map}");
            assert_eq!(world.fill(map).0, each * u32::try_from(count).unwrap(), "{map}");
        }
        let report = world.apply(services);
        let refused: Vec<_> =
            report.refused.iter().map(|(key, why)| (key.clone(), why.to_string())).collect();
        assert_eq!(refused, [(last.key.clone(), (*reason).to_owned())]);
        assert!(!report.wants_retry(), "{map}: nothing will be freed by itself");
        assert_eq!(world.served(), names_of(fit), "{map}");
        // Others are served beside it, also those that come later.
        if let Some(small) = small {
            let all = [services, std::slice::from_ref(small)].concat();
            assert_eq!(world.apply(&all).refused.len(), 1, "{map}");
            assert_eq!(world.served(), names_of(fit.iter().chain([small])), "{map}");
            world.apply(services);
        }
        // What others give up is its own, once nobody uses it any more.
        world.apply(&services[1..]);
        assert!(world.apply(&services[1..]).refused.is_empty(), "{map}");
        assert_eq!(world.served(), names_of(&services[1..]), "{map}");
        assert_eq!(world.fill(map).0, each * u32::try_from(fit.len()).unwrap(), "{map}");
    }
}

fn names_of<'a>(services: impl IntoIterator<Item = &'a DesiredService>) -> Vec<String> {
    services.into_iter().map(|service| service.key.name.clone()).collect()
}

/// Ranges that are no Service's are named, too, and no Service waits for them.
fn ranges_of_the_node_and_the_cluster(world: &mut World) {
    let ranges = |first: u8| (0..6).map(move |n| format!("10.{}.0.0/16", first + n));
    world.facts.pods = ranges(1).map(|range| range.parse().unwrap()).collect();
    world.facts.service_cidrs = ranges(96).map(|range| range.parse().unwrap()).collect();
    let web = [service(1, false, 1)];
    let report = world.apply(&web);
    let unfit: Vec<String> =
        report.unfit.iter().map(|(what, why)| format!("the {what}: {why}")).collect();
    let reason = "the IPv4 range map is full: it needs 6 more, and it has 5 rows";
    let named =
        ["local pods", "Services' addresses"].map(|of| format!("the ranges of {of}: {reason}"));
    assert_eq!(unfit, named);
    assert_eq!((report.refused.len(), world.served().len()), (0, 1));
    assert_eq!(world.fill(names::MAP_PREFIXES_V4), (0, 5));
    world.facts.pods.truncate(3);
    world.facts.service_cidrs.truncate(2);
    assert!(world.apply(&web).unfit.is_empty());
    assert_eq!(world.fill(names::MAP_PREFIXES_V4), (5, 5));
}
