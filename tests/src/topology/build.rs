//! Namespace by namespace: links, addresses, routes.

use super::{Addresses, Node, Plan, Pod};
use crate::netns::Namespace;
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The router, with the wire as a bridge in it. The bridge must not learn who
/// listens to which multicast group: it would lose neighbour discovery.
pub(super) fn router(plan: Plan) -> Result<Namespace> {
    let router = Namespace::new(plan.naming, "router")?;
    forward(&router)?;
    router.ip(&lines(
        "link add wire type bridge forward_delay 0 mcast_snooping 0
         addr add 192.0.2.254/24 dev wire
         addr add 2001:db8:2::fe/64 dev wire nodad
         link set wire up",
    ))?;
    router.ip(&lines(plan.wiring.layout().router))?;
    Ok(router)
}

/// Connects the client to the router.
pub(super) fn client(router: &Namespace, client: &Namespace) -> Result<()> {
    router.ip(&lines(&format!(
        "link add out type veth peer name eth0 netns {}
         addr add 198.51.100.1/24 dev out
         addr add 2001:db8:100::1/64 dev out nodad
         link set out up",
        client.name()
    )))?;
    client.ip(&lines(
        "addr add 198.51.100.10/24 dev eth0
         addr add 2001:db8:100::10/64 dev eth0 nodad
         link set eth0 up
         route add default via 198.51.100.1
         route add default via 2001:db8:100::1",
    ))
}

/// A node on the wire, with routes to the others' pods.
pub(super) fn node(router: &Namespace, number: u8, plan: Plan) -> Result<Node> {
    let name = format!("n{number}");
    let netns = Namespace::new(plan.naming, &name)?;
    forward(&netns)?;
    let addresses = Addresses {
        v4: Ipv4Addr::new(192, 0, 2, number),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, number.into()),
    };
    router.ip(&lines(&format!(
        "link add n{number} type veth peer name eth0 netns {}
         link set n{number} master wire up",
        netns.name()
    )))?;
    netns.ip(&lines(&format!(
        "addr add {}/24 dev eth0
         addr add {}/64 dev eth0 nodad
         link set eth0 up
         route add default via 192.0.2.254
         route add default via 2001:db8:2::fe",
        addresses.v4, addresses.v6
    )))?;
    let layout = plan.wiring.layout();
    let fill = |text: &str| text.replace("{n}", &number.to_string()).replace("{ns}", netns.name());
    router.ip(&lines(&fill(layout.router_node)))?;
    netns.ip(&lines(&fill(layout.node)))?;
    for (name, value) in layout.node_sysctls {
        netns.sysctl(name, value)?;
    }
    for other in (1..=plan.nodes).filter(|other| *other != number) {
        let fill = |text: &str| fill(text).replace("{o}", &other.to_string());
        netns.ip(&lines(&fill(layout.peer)))?;
        let entry = fill(layout.forwarding);
        let entry: Vec<&str> = entry.split_whitespace().collect();
        if !entry.is_empty() {
            netns.output("bridge", &[&["fdb", "append"], &entry[..]].concat())?;
        }
    }
    for rules in layout.rules {
        rules.load(&netns, fill)?;
    }
    Ok(Node { netns, name, addresses, pods: Vec::new(), number })
}

/// A second link from a node to the router: `eth1` to `second`.
pub(super) fn second_link(router: &Namespace, node: &Namespace) -> Result<()> {
    router.ip(&lines(&format!(
        "link add second type veth peer name eth1 netns {}
         addr add 198.18.0.254/24 dev second
         addr add 2001:db8:3::fe/64 dev second nodad
         link set second up",
        node.name()
    )))?;
    node.ip(&lines(
        "addr add 198.18.0.1/24 dev eth1
         addr add 2001:db8:3::1/64 dev eth1 nodad
         link set eth1 up",
    ))
}

/// A pod behind its node.
pub(super) fn pod(node: &Node, host: u8, plan: Plan) -> Result<Pod> {
    let number = node.number;
    let name = format!("pod-{number}{}", letter(node.pods.len()));
    let netns = Namespace::new(plan.naming, &name)?;
    let digits = u16::from(host / 10 * 16 + host % 10);
    let addresses = Addresses {
        v4: Ipv4Addr::new(10, 244, number, host),
        v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, number.into(), 0, 0, 0, digits),
    };
    let layout = plan.wiring.layout();
    let outer_end = format!("{}{host}", layout.link);
    let fill = |text: &str| {
        text.replace("{n}", &number.to_string())
            .replace("{h}", &host.to_string())
            .replace("{link}", &outer_end)
            .replace("{ns}", netns.name())
    };
    node.netns.ip(&lines(&fill(layout.outer)))?;
    for (name, value) in layout.pod_sysctls {
        node.netns.sysctl(&fill(name), value)?;
    }
    netns.ip(&lines(&fill(layout.inner)))?;
    keep_in_order(&netns)?;
    Ok(Pod { netns, name, addresses, outer_end })
}

/// Has one processor take all packets of a pod, as a network card's queue has one
/// for each flow. Between veths any may, and before Linux 6.19 a segment that
/// meets its connection while another processor completes the handshake finds
/// neither request nor socket: the pod resets it.
fn keep_in_order(pod: &Namespace) -> Result<()> {
    pod.set_device("eth0/queues/rx-0/rps_cpus", "1")
}

/// Pods of a node are told apart by letters, as in `pod-1b`.
fn letter(place: usize) -> char {
    ('a'..='z').cycle().nth(place).unwrap_or('a')
}

/// Routing, with the strict check that a reply would go back where the packet
/// came from: a translation at the wrong place fails it.
fn forward(netns: &Namespace) -> Result<()> {
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.default.rp_filter", "1"),
    ] {
        netns.sysctl(name, value)?;
    }
    Ok(())
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}
