//! Policies and weights on their way to slots.

use super::{World, desired, kernel::kernel, key, service};
use crate::desired::{DesiredService, Policy, Takes};
use crate::reconcile::change::Change;
use lb_common::value::{backend_reason, backend_state};
use std::time::Duration;

#[test]
fn a_weight_and_a_policy_change_only_the_slots() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let mut web = service("web", &["10.96.0.1"], &["10.1.0.1", "10.1.0.2"]);
    world.apply(&desired([web.clone()]));
    let [one, two] = world.programmed.services[&web.key].slots[0].ids[..] else { panic!("two") };
    web.backends[1].weight = 2;
    world.apply(&desired([web.clone()]));
    assert_eq!(world.programmed.services[&web.key].slots[0].ids, [two, one, two]);
    assert_eq!(world.kernel.backends[two as usize].weight, 2);
    assert_eq!(world.kernel.backends[two as usize].generation, 1);
    // The same turns, otherwise walked.
    web.policy = Policy::LeastConnections;
    let plan = world.apply(&desired([web.clone()]));
    assert!(matches!(plan.changes[..], [Change::Header { .. }]), "{:?}", plan.changes);
    // Drained: it keeps what it has, and the other one takes all.
    (web.backends[1].weight, web.backends[1].scopes) = (0, 0);
    web.backends[1].takes = Takes::Draining;
    world.apply(&desired([web.clone()]));
    assert_eq!(world.programmed.services[&web.key].slots[0].ids, [one]);
    let row = world.kernel.backends[two as usize];
    assert_eq!((row.state, row.weight), (backend_state::TERMINATING, 0));
    assert_eq!(row.reason, backend_reason::DRAINING);
}

#[test]
fn a_hash_table_keeps_its_size_also_for_the_next_agent_while_there_is_room() {
    let mut world = World::new(kernel(10, 20, 11_000, 10));
    let addrs = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4"];
    let web = |number: usize, policy| DesiredService {
        policy,
        ..service("web", &["10.96.0.1"], &addrs[..number])
    };
    let ids = |world: &World| world.programmed.services[&key("web")].slots[0].ids.clone();
    world.apply(&desired([web(4, Policy::Maglev)]));
    let before = ids(&world);
    world.restart();
    world.apply(&desired([web(3, Policy::SourceHash)]));
    let after = ids(&world);
    assert_eq!((before.len(), after.len()), (8_171, 8_171));
    let leaves = before.iter().filter(|id| !after.contains(id)).count();
    let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
    assert!(moved - leaves < 8_171 * 15 / 1_000, "{moved} of them moved, {leaves} had to");
    // Another Service leaves no room for as much again.
    let other = DesiredService {
        policy: Policy::Maglev,
        ..service("other", &["10.96.0.2"], &["10.1.0.5", "10.1.0.6"])
    };
    world.now += Duration::from_secs(3);
    let fill = service("fill", &["10.96.0.3"], &["10.1.0.7"]);
    world.apply(&desired([web(3, Policy::Maglev), other.clone(), fill.clone()]));
    let wide = world.programmed.extents.allocate(4_000, world.now);
    assert!(wide.is_some());
    let plan = world.apply(&desired([web(2, Policy::Maglev), other, fill]));
    assert_eq!((plan.refused.len(), ids(&world).len()), (0, 2_039));
}
