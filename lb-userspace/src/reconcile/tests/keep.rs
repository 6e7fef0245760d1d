//! What must stay although it is not, or not so, desired.

use super::*;

#[test]
fn other_ports_of_the_nodes_own_addresses_are_not_refused() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    world.apply(&desired([service("web", &["192.0.2.1"], &["10.1.0.1"])]));
    let view = view(&world.kernel);
    let frontends: Vec<String> = view.frontends.keys().map(ToString::to_string).collect();
    assert_eq!(frontends, ["192.0.2.1:80 TCP"]);
}
