//! Interfaces of every kind that this kernel has: pods behind an overlay,
//! uplinks that are ports of a bridge or that share a device with others,
//! clients behind a device without a link layer, nodes with several addresses
//! and ways. Each packet is translated once, on the right device.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::Datagrams;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use lb_tests::tunnel::Tunnel;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

const REQUESTS: u64 = 12;
const NODE_PORTS: (u16, u16) = (30_080, 30_053);
const EVERY: [&str; 4] = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];

fn web(topology: &Topology) -> Vec<Service> {
    vec![Service::new("web", 1).http(NODE_PORTS.0).udp(NODE_PORTS.1).endpoints(topology.pods())]
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or(IpAddr::from([0; 4]))
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn node_port(kind: Kind) -> u16 {
    if kind == Kind::Http { NODE_PORTS.0 } else { NODE_PORTS.1 }
}

/// Every client reaches every backend by every address; what backends see of a
/// pod is the pod.
fn everything_is_reached(cluster: &Cluster) -> Result<()> {
    let topology = &cluster.topology;
    let pod = cluster.pod(0, 0);
    for kind in Kind::ALL {
        for address in Service::new("", 1).addresses.both() {
            let to: SocketAddr = (address, kind.port()).into();
            let tally = Tally::of(&pod.netns, kind, to, 4 * REQUESTS)?;
            tally.expect(&EVERY).with_context(|| format!("{kind} to {to}"))?;
            ensure!(tally.peers.contains(&pod.addresses.like(address)), "{:?}", tally.peers);
        }
        for node in &topology.nodes {
            for address in node.addresses.both() {
                let to: SocketAddr = (address, node_port(kind)).into();
                let tally = Tally::of(&topology.client, kind, to, 4 * REQUESTS)?;
                tally.expect(&EVERY).with_context(|| format!("{kind} from outside to {to}"))?;
            }
        }
    }
    Ok(())
}

/// As flannel does it: pods of other nodes are behind a VXLAN device.
fn overlay(topology: &Topology) -> Result<()> {
    for (number, other) in [(1, 2), (2, 1)] {
        let node = &topology.nodes[number - 1].netns;
        node.ip(&lines(&format!(
            "link add flannel.1 address 02:00:00:00:0f:0{number} type vxlan id 1 dstport 8472 \
                 local 192.0.2.{number} dev eth0 nolearning
             addr add 10.244.{number}.0/32 dev flannel.1
             addr add fd00:10:244:{number}::/128 dev flannel.1 nodad
             link set flannel.1 up
             neigh add 10.244.{other}.0 lladdr 02:00:00:00:0f:0{other} dev flannel.1 nud permanent
             neigh add fd00:10:244:{other}:: lladdr 02:00:00:00:0f:0{other} dev flannel.1 \
                 nud permanent
             route replace 10.244.{other}.0/24 via 10.244.{other}.0 dev flannel.1 onlink
             route del fd00:10:244:{other}::/64
             route add fd00:10:244:{other}::/128 dev flannel.1
             route add fd00:10:244:{other}::/64 via fd00:10:244:{other}:: dev flannel.1",
        )))?;
        node.output(
            "bridge",
            &[
                "fdb",
                "append",
                &format!("02:00:00:00:0f:0{other}"),
                "dev",
                "flannel.1",
                "dst",
                &format!("192.0.2.{other}"),
            ],
        )?;
    }
    Ok(())
}

#[test]
fn pods_behind_an_overlay() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in [Setup::tc(Wiring::Bridged), Setup::xdp(Wiring::Bridged, "native")] {
        let mut cluster = Cluster::without_agents(setup)?;
        overlay(&cluster.topology)?;
        cluster.publish(&web(&cluster.topology))?;
        cluster.start_agents()?;
        everything_is_reached(&cluster)?;
    }
    Ok(())
}

/// The uplink is a port of a bridge that has the node's addresses.
#[test]
fn an_uplink_that_is_a_port_of_a_bridge() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--uplink", "eth0"];
    let mut cluster = Cluster::without_agents(setup)?;
    for (number, other) in [(1, 2), (2, 1)] {
        move_addresses(
            &cluster.topology,
            number,
            other,
            "br0",
            "link add br0 type bridge forward_delay 0 mcast_snooping 0",
        )?;
        cluster.topology.nodes[number - 1].netns.ip(&lines("link set eth0 master br0"))?;
    }
    cluster.publish(&web(&cluster.topology))?;
    cluster.start_agents()?;
    everything_is_reached(&cluster)
}

/// The node's addresses are on a device that shares the wire's with others:
/// frames for it pass the lower device as another host's.
#[test]
fn an_uplink_on_top_of_another_device() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
    for (number, other) in [(1, 2), (2, 1)] {
        move_addresses(
            &cluster.topology,
            number,
            other,
            "mv0",
            "link add mv0 link eth0 type macvlan mode bridge",
        )?;
    }
    cluster.publish(&web(&cluster.topology))?;
    cluster.start_agents()?;
    everything_is_reached(&cluster)
}

/// Makes a device and gives it what the node's `eth0` had.
fn move_addresses(
    topology: &Topology,
    number: usize,
    other: usize,
    device: &str,
    made_by: &str,
) -> Result<()> {
    topology.nodes[number - 1].netns.ip(&lines(&format!(
        "{made_by}
         addr flush dev eth0
         link set eth0 up
         link set {device} up
         addr add 192.0.2.{number}/24 dev {device}
         addr add 2001:db8:2::{number}/64 dev {device} nodad
         route replace default via 192.0.2.254
         route replace default via 2001:db8:2::fe
         route replace 10.244.{other}.0/24 via 192.0.2.{other}
         route replace fd00:10:244:{other}::/64 via 2001:db8:2::{other}",
    )))
}

/// A second wire between the nodes and the router: what comes in by one may
/// leave by the other.
#[test]
fn replies_that_leave_by_another_uplink() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), web)?;
    let topology = &cluster.topology;
    let node = &topology.nodes[0].netns;
    topology.second_link(0)?;
    node.ip(&lines(
        "route add 198.51.100.0/24 via 198.18.0.254
         route add 2001:db8:100::/64 via 2001:db8:3::fe",
    ))?;
    // Asymmetric on purpose.
    for name in ["all", "eth0", "eth1"] {
        node.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
    }
    for name in ["all", "second", "wire"] {
        topology.router.sysctl(&format!("net.ipv4.conf.{name}.rp_filter"), "0")?;
    }
    everything_is_reached(&cluster)
}

/// A client behind a device whose packets begin with the IP header.
#[test]
fn a_client_behind_a_device_without_a_link_layer() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), web)?;
    let topology = &cluster.topology;
    let tunnel = Tunnel::new(&topology.nodes[0].netns, &topology.client, "vpn0")?;
    topology.nodes[0].netns.ip(&lines(
        "addr add 198.18.1.1 peer 198.18.1.2 dev vpn0
         addr add 2001:db8:4::1/64 dev vpn0 nodad
         link set vpn0 up",
    ))?;
    topology.client.ip(&lines(
        "addr add 198.18.1.2 peer 198.18.1.1 dev vpn0
         addr add 2001:db8:4::2/64 dev vpn0 nodad
         link set vpn0 up
         route add 10.96.0.0/16 via 198.18.1.1
         route add fd00:10:96::/64 via 2001:db8:4::1",
    ))?;
    // Datagrams, since a SYN that comes too early is repeated after a second.
    deadline::until("the device's programs", Duration::from_secs(3), || {
        let to = (Service::new("", 1).addresses.v4, 53).into();
        topology.client.run(|| quick_echo(to)).ok()?.ok()
    })?;
    for kind in Kind::ALL {
        for address in Service::new("", 1).addresses.both() {
            let to: SocketAddr = (address, kind.port()).into();
            let tally = Tally::of(&topology.client, kind, to, 4 * REQUESTS)?;
            tally.expect(&EVERY).with_context(|| format!("{kind} to {to}"))?;
            // Local backends see the client itself.
            let own = if address.is_ipv4() { ip("198.18.1.2") } else { ip("2001:db8:4::2") };
            ensure!(tally.peers.contains(&own), "{:?}", tally.peers);
        }
    }
    drop(tunnel);
    Ok(())
}

fn quick_echo(to: SocketAddr) -> std::io::Result<()> {
    let socket = Datagrams::open(to)?;
    socket.patience(Duration::from_millis(100))?;
    socket.echo("hello").map(drop)
}
