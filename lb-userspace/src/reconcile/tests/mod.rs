//! Any sequence of desired states, with a packet between any two writes, and
//! an agent that dies between any two writes.

mod cidrs;
mod crash;
mod drift;
mod keep;
mod kernel;
mod meaning;
mod weigh;

use super::adopt::adopt;
use super::change::Change;
use super::frontends::NetworkFacts;
use super::image::Image;
use super::plan::{Plan, plan};
use super::refusal::Refusal;
use super::state::Programmed;
use crate::desired::{
    Desired, DesiredBackend, DesiredService, Policy, Protocol, Scope, ServicePortKey, Takes,
};
use kernel::{Travellers, View, kernel, view, write};
use lb_common::Frontend;
use lb_common::key::place;
use lb_common::value::backend_state;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> ServicePortKey {
    ServicePortKey {
        namespace: "default".into(),
        name: name.into(),
        port_name: "http".into(),
        protocol: Protocol::Tcp,
    }
}

/// A backend that takes new flows in these scopes, and only keeps some in none.
fn backend(addr: &str, scopes: u8) -> DesiredBackend {
    let takes = if scopes == 0 { Takes::Terminating } else { Takes::New };
    DesiredBackend { addr: ip(addr), port: 8080, takes, scopes, local: false, weight: 1 }
}

fn service(name: &str, ips: &[&str], backends: &[&str]) -> DesiredService {
    DesiredService {
        cluster_ips: ips.iter().map(|addr| ip(addr)).collect(),
        backends: backends.iter().map(|addr| backend(addr, 1)).collect(),
        ..DesiredService::bare(key(name), 80)
    }
}

fn desired(services: impl IntoIterator<Item = DesiredService>) -> Desired {
    Desired { services: services.into_iter().map(|s| (s.key.clone(), Arc::new(s))).collect() }
}

fn facts() -> NetworkFacts {
    NetworkFacts {
        node_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        node_port_addresses: vec![ip("192.0.2.1"), ip("2001:db8::1")],
        spare_loopback: false,
        translation_addresses: vec![],
        pods: vec![],
        service_cidrs: vec![],
    }
}

/// A kernel with its agent.
struct World {
    kernel: Image,
    programmed: Programmed,
    now: Instant,
    travellers: Travellers,
    held: BTreeSet<ServicePortKey>,
}

impl World {
    fn new(kernel: Image) -> Self {
        let now = Instant::now();
        let (programmed, changes) = adopt(kernel.clone(), now);
        assert_eq!(changes, []);
        let (travellers, held) = Default::default();
        Self { kernel, programmed, now, travellers, held }
    }

    fn apply(&mut self, desired: &Desired) -> Plan {
        let mut changes = self.programmed.expire(self.now);
        let plan = self.plan(desired);
        changes.extend(plan.changes.iter().cloned());
        self.execute(&changes, changes.len());
        plan
    }

    /// The same writes must come out if nothing is known of last time.
    fn plan(&mut self, desired: &Desired) -> Plan {
        let mut scratch = Programmed { settled: None, ..self.programmed.clone() };
        let all = plan(&mut scratch, desired, &self.held, &facts(), self.now);
        let plan = plan(&mut self.programmed, desired, &self.held, &facts(), self.now);
        assert_eq!(plan.changes, all.changes);
        assert_eq!(plan.refused, all.refused);
        assert_eq!(plan.changed, all.changed);
        assert!(essence(&self.programmed) == essence(&scratch));
        plan
    }

    /// Does the first `count` writes, with packets between them.
    fn execute(&mut self, changes: &[Change], count: usize) {
        let before = view(&self.kernel);
        let mut finished = self.kernel.clone();
        for change in changes {
            write(&mut finished, change);
        }
        let after = view(&finished);
        let is_full =
            (0..2).any(|v6| both(&before, &after, v6) > self.kernel.frontend_capacity[v6]);
        self.travellers.depart(&self.kernel, self.now);
        for change in changes.iter().take(count) {
            if matches!(change, Change::Segment { .. }) {
                self.travellers.depart(&self.kernel, self.now);
            }
            write(&mut self.kernel, change);
            self.travellers.check(&self.kernel, self.now);
            complete(&view(&self.kernel), &before, &after, is_full);
        }
    }

    /// Another agent takes over; every other one can wait for packets.
    fn restart(&mut self) {
        self.kernel.rested = !self.kernel.rested;
        if self.kernel.rested {
            self.travellers.arrive();
        }
        let (programmed, changes) = adopt(self.kernel.clone(), self.now);
        self.programmed = programmed;
        self.execute(&changes, changes.len());
    }
}

/// A picture without the notes of how empty slots came about.
fn essence(programmed: &Programmed) -> Programmed {
    let mut programmed = programmed.clone();
    for slots in programmed.services.values_mut().flat_map(|service| &mut service.slots) {
        if slots.ids.is_empty() {
            slots.recipe = None;
        }
    }
    programmed
}

/// How many frontends of a family two states have together.
fn both(before: &View, after: &View, family: usize) -> u32 {
    let ids: BTreeSet<_> = before.frontends.keys().chain(after.frontends.keys()).collect();
    u32::try_from(ids.iter().filter(|id| id.family() == family).count()).unwrap()
}

/// A packet finds complete sets: those from before, or those from after.
fn complete(now: &View, before: &View, after: &View, is_full: bool) {
    for (id, old) in &before.frontends {
        let Some(new) = after.frontends.get(id) else { continue };
        let Some(found) = now.frontends.get(id) else { panic!("{id} vanished for a moment") };
        assert!(found == old || found == new, "{id} leads elsewhere for a moment");
        for local in [false, true] {
            let answers = |view: &View, row: &Frontend| !view.answers(id, *row, local).is_empty();
            let always = answers(before, old) && answers(after, new);
            assert!(answers(now, found) || !always, "nobody answers at {id} for a moment");
        }
    }
    // Who is somewhere before and after is so at any time, if there is a place
    // for it to go that was nobody's.
    let fresh = |view: &View| view.ports(|id| !before.frontends.contains_key(id));
    for service in before.ports(|_| true).intersection(&fresh(after)) {
        let found = now.ports(|_| true).contains(service);
        assert!(found || is_full, "service {service} is nowhere for a moment");
    }
    for (id, row) in &now.frontends {
        let known = before.frontends.contains_key(id) || after.frontends.contains_key(id);
        assert!(known, "{id} appeared for a moment");
        for segment in (0..4).map(|index| (row.service, index)) {
            let set = now.sets.get(&segment);
            // Also what the Service had while it was nowhere.
            let known = [&before.sets, &before.idle, &after.sets];
            let complete = known.iter().any(|sets| sets.get(&segment) == set);
            assert!(id.is_address() || complete, "{id} has half a set: {set:?}");
        }
        if id.is_address() && !before.frontends.contains_key(id) {
            let ports = after.frontends.keys().filter(|port| port.addr == id.addr);
            let missing = ports.filter(|port| !now.frontends.contains_key(port)).count();
            assert_eq!(missing, 0, "{id} refuses ports that are about to be served");
        }
    }
}

fn any_service(index: usize) -> impl Strategy<Value = DesiredService> {
    let backends =
        proptest::collection::btree_map(0_u8..6, (any::<bool>(), 0_u8..4, 1_u16..4), 0..6);
    // A few addresses for many Services, so that they take over and collide.
    let addresses = (0_u8..4, any::<bool>(), 80_u16..83);
    let node_port = proptest::option::of(30000_u16..30002);
    // Load balancer's address, source ranges, local policies.
    let outside = (0_u8..4, 0_u8..3, any::<[bool; 2]>());
    (addresses, backends, node_port, any::<bool>(), outside).prop_map(
        move |((addr, dual, port), backends, node_port, random, (vip, ranges, local))| {
            let scope = |local| if local { Scope::Local } else { Scope::Cluster };
            let mut cluster_ips = vec![IpAddr::from([10, 96, 0, addr])];
            cluster_ips.extend(dual.then(|| ip(&format!("fd00::{addr}"))));
            let backends = backends.into_iter().map(|(host, (v6, state, weight))| DesiredBackend {
                addr: if v6 {
                    ip(&format!("fd01::{host}"))
                } else {
                    IpAddr::from([10, 1, 0, host])
                },
                port: 8080,
                takes: if state == 0 { Takes::Terminating } else { Takes::New },
                scopes: state,
                local: false,
                weight,
            });
            let mut backends: Vec<_> = backends.collect();
            backends.sort();
            DesiredService {
                port,
                policy: if random { Policy::Random } else { Policy::RoundRobin },
                cluster_ips,
                node_port,
                // Some are also a ClusterIP.
                load_balancer_ips: (vip > 0)
                    .then(|| IpAddr::from([10, 96, 0, vip + 2]))
                    .into_iter()
                    .collect(),
                // The node's own, whose other ports are not ours.
                external_ips: (ranges == 2).then(|| ip("192.0.2.1")).into_iter().collect(),
                source_ranges: (0..ranges)
                    .map(|n| format!("198.51.{n}.0/24").parse().unwrap())
                    .collect(),
                internal_scope: scope(local[0]),
                external_scope: scope(local[1]),
                affinity: random.then_some(60),
                backends,
                ..service(&format!("s{index}"), &[], &[])
            }
        },
    )
}

fn any_desired() -> impl Strategy<Value = Desired> {
    let services: Vec<_> = (0..5).map(|index| proptest::option::of(any_service(index))).collect();
    services.prop_map(|services| desired(services.into_iter().flatten()))
}

/// Desired states of which each keeps some of the one before.
fn any_sequence() -> impl Strategy<Value = Vec<(Desired, Mishap)>> {
    let mishap = (0_u64..3000, 0_u8..4, any::<proptest::sample::Index>());
    let step = (any_desired(), any::<[bool; 5]>(), mishap);
    proptest::collection::vec(step, 1..12).prop_map(|steps| {
        let mut before = Desired::default();
        let mut sequence = Vec::new();
        for (mut desired, keep, mishap) in steps {
            for (index, _) in keep.into_iter().enumerate().filter(|(_, keep)| *keep) {
                let key = key(&format!("s{index}"));
                desired.services.remove(&key);
                let kept = before.services.get(&key);
                desired.services.extend(kept.map(|kept| (key, Arc::clone(kept))));
            }
            before = desired.clone();
            sequence.push((desired, mishap));
        }
        sequence
    })
}

/// How long nothing happens before, what then goes wrong, and where.
type Mishap = (u64, u8, proptest::sample::Index);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn packets_find_complete_sets_and_nothing_leaks(
        small in any::<bool>(),
        steps in any_sequence(),
    ) {
        let empty = if small { kernel(5, 12, 8, 12) } else { kernel(40, 200, 1_000, 100) };
        let mut world = World::new(empty);
        let free = |p: &Programmed| (p.service_ids.free(), p.backend_ids.free(), p.extents.free());
        let at_first = free(&world.programmed);
        for (desired, (wait, mishap, index)) in steps {
            world.now += Duration::from_millis(wait);
            let ids = world.programmed.clone();
            if mishap == 0 {
                // The agent dies between two writes; the next one finds the rest.
                let mut dying = world.programmed.clone();
                let mut changes = dying.expire(world.now);
                changes.extend(plan(&mut dying, &desired, &world.held, &facts(), world.now).changes);
                world.execute(&changes, index.index(changes.len() + 1));
                world.restart();
            }
            let plan = world.apply(&desired);
            for (key, service) in &world.programmed.services {
                let Some(old) = ids.services.get(key) else { continue };
                prop_assert!(mishap == 0 || old.id == service.id, "{} changed its id", key);
                for (endpoint, backend) in &service.backends {
                    let old = old.backends.get(endpoint);
                    let kept = old.is_none_or(|old| {
                        old.id == backend.id || old.removed.is_some()
                    });
                    prop_assert!(mishap == 0 || kept, "{:?} changed its id", endpoint);
                }
            }
            if !small {
                let full = |refusal: &Refusal| !matches!(refusal, Refusal::Taken { .. });
                prop_assert!(!plan.refused.iter().any(|(_, refusal)| full(refusal)));
            }
            if mishap == 1 {
                world.restart();
            }
            // What is in force needs no write, also for another agent.
            if plan.refused.is_empty() {
                let again = world.plan(&desired);
                prop_assert_eq!(again.changes, vec![]);
                prop_assert_eq!(again.changed, 0);
            }
        }
        world.apply(&Desired::default());
        world.now += Duration::from_secs(10);
        world.apply(&Desired::default());
        prop_assert_eq!(free(&world.programmed), at_first);
        prop_assert!(world.kernel.names.is_empty() && world.kernel.frontends.is_empty());
        prop_assert_eq!(world.kernel.prefixes, vec![]);
        let used = |row: &lb_common::Backend| row.state != backend_state::FREE;
        prop_assert!(!world.kernel.backends.iter().any(used));
    }
}

#[test]
fn a_terminating_backend_gets_nothing_new_and_a_removed_one_is_freed_later() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let mut web = service("web", &["10.96.0.1"], &["10.1.0.1", "10.1.0.2", "10.1.0.3"]);
    world.apply(&desired([web.clone()]));
    let ids: Vec<u32> = world.programmed.services[&web.key].slots[0].ids.clone();
    web.backends[0] = backend("10.1.0.1", 0);
    web.backends.pop();
    world.apply(&desired([web.clone()]));
    let state = |world: &World, id: u32| world.kernel.backends[id as usize].state;
    assert_eq!(world.programmed.services[&web.key].slots[0].ids, [ids[1]]);
    assert_eq!(state(&world, ids[0]), backend_state::TERMINATING);
    assert_eq!(state(&world, ids[2]), backend_state::REMOVED);
    world.now += Duration::from_secs(3);
    world.apply(&desired([web]));
    assert_eq!(state(&world, ids[2]), backend_state::FREE);
    assert_eq!(world.kernel.backends[ids[2] as usize].generation, 1);
}

#[test]
fn a_backend_that_comes_back_at_once_is_the_same_one() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let web = service("web", &["10.96.0.1"], &["10.1.0.1", "10.1.0.2"]);
    let without = service("web", &["10.96.0.1"], &["10.1.0.1"]);
    world.apply(&desired([web.clone()]));
    let ids = world.programmed.services[&web.key].slots[0].ids.clone();
    world.apply(&desired([without]));
    world.apply(&desired([web.clone()]));
    assert_eq!(world.programmed.services[&web.key].slots[0].ids, ids);
    world.now += Duration::from_secs(10);
    world.apply(&desired([web]));
    assert!(world.kernel.backends[ids[1] as usize].state == backend_state::ACTIVE);
}

#[test]
fn a_full_map_refuses_the_one_service_port_that_does_not_fit() {
    let mut world = World::new(kernel(10, 4, 10, 10));
    let fits = service("a", &["10.96.0.1"], &["10.1.0.1", "10.1.0.2"]);
    let big = service("b", &["10.96.0.2"], &["10.1.0.3", "10.1.0.4"]);
    let after = service("c", &["10.96.0.3"], &["10.1.0.5"]);
    let plan = world.apply(&desired([fits.clone(), big.clone(), after.clone()]));
    let full = Refusal::NoBackend { needed: 1, max: 3 };
    assert_eq!(plan.refused, [(big.key.clone(), full.clone())]);
    assert_eq!(
        full.to_string(),
        "the backend map is full: it needs 1 more, and all 3 ids are in use"
    );
    assert!(world.programmed.services.contains_key(&after.key));

    // What was freed is not used again at once.
    let plan = world.apply(&desired([big.clone(), after.clone()]));
    assert!(plan.refused.iter().all(|(_, refusal)| refusal.is_temporary()), "{plan:?}");
    assert_eq!(plan.refused.len(), 1);
    world.now += Duration::from_secs(3);
    let plan = world.apply(&desired([big, after]));
    assert_eq!(plan.refused, []);
}

#[test]
fn a_service_port_that_would_take_anothers_frontend_is_refused_and_says_which() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let one = service("one", &["10.96.0.1"], &["10.1.0.1"]);
    let two = service("two", &["10.96.0.1"], &["10.1.0.2"]);
    let plan = world.apply(&desired([one, two.clone()]));
    assert_eq!(plan.refused.len(), 1);
    assert_eq!(plan.refused[0].0, two.key);
    assert_eq!(
        plan.refused[0].1.to_string(),
        "10.96.0.1:80 TCP already belongs to another Service port"
    );
}

#[test]
fn node_ports_answer_on_every_address_of_the_services_families() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let v4 = DesiredService {
        node_port: Some(30080),
        ..service("web", &["10.96.0.1"], &["10.1.0.1", "fd01::1"])
    };
    world.apply(&desired([v4]));
    let view = view(&world.kernel);
    let frontends: Vec<String> = view.frontends.keys().map(ToString::to_string).collect();
    let loopback = "127.0.0.1:30080 TCP";
    let expected = ["address 10.96.0.1", "10.96.0.1:80 TCP", loopback, "192.0.2.1:30080 TCP"];
    assert_eq!(frontends, expected);
    assert_eq!(view.frontends.keys().filter(|id| id.place == place::LOOPBACK).count(), 1);
}

#[test]
fn node_ports_leave_loopback_addresses_alone_where_they_are_told_to() {
    let service = DesiredService { node_port: Some(30080), ..service("web", &["10.96.0.1"], &[]) };
    for spare_loopback in [false, true] {
        let facts = NetworkFacts { spare_loopback, ..facts() };
        let rows = super::frontends::rows_of(&service, 1, &facts);
        let loopback = rows.iter().filter(|(id, _)| id.place == place::LOOPBACK).count();
        assert_eq!((loopback, rows.len()), if spare_loopback { (0, 3) } else { (1, 4) });
    }
}
