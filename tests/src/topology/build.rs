//! Namespace by namespace: links, addresses, routes.

use super::{Addresses, Node, Plan, Pod, Wiring};
use crate::netns::{Namespace, Naming};
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The router, with the wire as a bridge in it. The bridge must not learn who
/// listens to which multicast group: it would lose neighbour discovery.
pub(super) fn router(naming: Naming) -> Result<Namespace> {
    let router = Namespace::new(naming, "router")?;
    forward(&router)?;
    router.ip(&lines(
        "link add wire type bridge forward_delay 0 mcast_snooping 0
         addr add 192.0.2.254/24 dev wire
         addr add 2001:db8:2::fe/64 dev wire nodad
         link set wire up",
    ))?;
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
    let mut setup = lines(&format!(
        "addr add {}/24 dev eth0
         addr add {}/64 dev eth0 nodad
         link set eth0 up
         route add default via 192.0.2.254
         route add default via 2001:db8:2::fe",
        addresses.v4, addresses.v6
    ));
    for other in (1..=plan.nodes).filter(|other| *other != number) {
        setup.extend(lines(&format!(
            "route add 10.244.{other}.0/24 via 192.0.2.{other}
             route add fd00:10:244:{other}::/64 via 2001:db8:2::{other}"
        )));
    }
    if plan.wiring == Wiring::Bridged {
        setup.extend(lines(&format!(
            "link add cni0 type bridge forward_delay 0 mcast_snooping 0
             addr add 10.244.{number}.1/24 dev cni0
             addr add fd00:10:244:{number}::1/64 dev cni0 nodad
             link set cni0 up"
        )));
    }
    netns.ip(&setup)?;
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
    let Addresses { v4, v6 } = addresses;
    let (gateway4, gateway6) = (format!("10.244.{number}.1"), format!("fd00:10:244:{number}::1"));
    let outer_end = format!("veth{host}");
    let inside = netns.name();
    let (outer, inner) = match plan.wiring {
        Wiring::Routed => (
            format!(
                "link add {outer_end} type veth peer name eth0 netns {inside}
                 addr add {gateway4}/32 dev {outer_end}
                 addr add {gateway6}/128 dev {outer_end} nodad
                 link set {outer_end} up
                 route add {v4}/32 dev {outer_end}
                 route add {v6}/128 dev {outer_end}"
            ),
            format!(
                "addr add {v4}/32 dev eth0
                 addr add {v6}/128 dev eth0 nodad
                 link set eth0 up
                 route add {gateway4}/32 dev eth0
                 route add {gateway6}/128 dev eth0"
            ),
        ),
        Wiring::Bridged => (
            format!(
                "link add {outer_end} type veth peer name eth0 netns {inside}
                 link set {outer_end} master cni0 up"
            ),
            format!(
                "addr add {v4}/24 dev eth0
                 addr add {v6}/64 dev eth0 nodad
                 link set eth0 up"
            ),
        ),
    };
    node.netns.ip(&lines(&outer))?;
    netns.ip(&lines(&format!(
        "{inner}
         route add default via {gateway4} dev eth0
         route add default via {gateway6} dev eth0"
    )))?;
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
    text.lines().map(|line| line.trim().to_owned()).collect()
}
