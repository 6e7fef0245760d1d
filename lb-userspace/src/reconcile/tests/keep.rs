//! What must stay although it is not, or not so, desired.

use super::*;

#[test]
fn a_held_service_port_stays_until_it_is_desired_with_backends_or_released() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let one = service("one", &["10.96.0.1"], &["10.1.0.1"]);
    let two = service("two", &["10.96.0.2"], &["10.1.0.2"]);
    world.apply(&desired([one.clone(), two.clone()]));
    world.restart();
    let before = view(&world.kernel);
    world.held = [one.key.clone(), two.key.clone()].into();

    // One is in no manifest, and the EndpointSlice of the other in none.
    let empty = DesiredService { backends: Vec::new(), ..two.clone() };
    let plan = world.apply(&desired([empty]));
    assert_eq!((plan.changed, plan.refused.len()), (0, 0));
    assert!(view(&world.kernel) == before);

    let moved = service("two", &["10.96.0.2"], &["10.1.0.3"]);
    assert_eq!(world.apply(&desired([moved.clone()])).changed, 1);
    world.held.clear();
    assert_eq!(world.apply(&desired([moved])).changed, 1);
    let view = view(&world.kernel);
    let frontends: Vec<String> = view.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(frontends, ["address 10.96.0.2", "10.96.0.2:80 TCP"]);
}

#[test]
fn other_ports_of_the_nodes_own_addresses_are_not_refused() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    world.apply(&desired([service("web", &["192.0.2.1"], &["10.1.0.1"])]));
    let view = view(&world.kernel);
    let frontends: Vec<String> = view.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(frontends, ["192.0.2.1:80 TCP"]);
}
