//! The network of a small cluster, made of namespaces: nodes on one wire, pods
//! behind each node, and a client outside, behind a router.
//!
//! ```text
//! client 198.51.100.10 -- router 192.0.2.254 (wire) -+- n1 192.0.2.1 -- pods 10.244.1.0/24
//!                                                    +- n2 192.0.2.2 -- pods 10.244.2.0/24
//! ```
//!
//! Names and addresses are those of `tests/data/cluster.yaml`, the dump of a
//! real cluster, so that it describes this one.
//!
//! The router knows neither pods nor Services, as routers outside clusters
//! don't: a reply that leaves a node with a pod's address is lost.

use crate::agent::BPF_FS;
use crate::netns::{Namespace, Naming};
use crate::xdp_pass::XdpPass;
use anyhow::{Context as _, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// How pods are connected to their node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiring {
    /// Each by a link of its own, with a route, as kindnet and ptp do.
    Routed,
    /// As ports of one bridge, as flannel and the bridge plugin do.
    Bridged,
}

/// What the network is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How pods are connected.
    pub wiring: Wiring,
    /// Pods of each node.
    pub pods: usize,
    /// Whether packets on the wire carry checksums that no one has completed,
    /// as between veths. XDP can't work with those, and no real wire has them.
    /// Without, the wire is fit for XDP in other ways, too.
    pub offload: bool,
    /// What the namespaces are called.
    pub naming: Naming,
}

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both, to try one after the other.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The one of the same family as another address.
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<15} {}", self.v4.to_string(), self.v6)
    }
}

/// A pod: a namespace with one interface.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub netns: Namespace,
    /// Its name, also that of its servers.
    pub name: String,
    /// Its addresses.
    pub addresses: Addresses,
}

/// A node: a namespace that routes for its pods.
#[derive(Debug)]
pub struct Node {
    /// Its namespace.
    pub netns: Namespace,
    /// Its name.
    pub name: String,
    /// Its addresses on the wire.
    pub addresses: Addresses,
    /// Its pods.
    pub pods: Vec<Pod>,
    number: u8,
}

/// All namespaces of the cluster.
#[derive(Debug)]
pub struct Topology {
    /// The client outside.
    pub client: Namespace,
    /// Its addresses.
    pub client_addresses: Addresses,
    /// The router with the wire.
    pub router: Namespace,
    /// The nodes.
    pub nodes: Vec<Node>,
    plan: Plan,
    far_ends: Vec<XdpPass>,
}

const NODES: [u8; 2] = [1, 2];

impl Topology {
    /// Makes the namespaces, links, addresses and routes.
    pub fn new(plan: Plan) -> Result<Self> {
        let router = router(plan.naming)?;
        let client = Namespace::new(plan.naming, "client")?;
        connect_client(&router, &client)?;
        let client_addresses = Addresses {
            v4: Ipv4Addr::new(198, 51, 100, 10),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10),
        };
        let nodes =
            NODES.iter().map(|number| node(&router, *number, plan)).collect::<Result<_>>()?;
        let mut topology =
            Self { client, client_addresses, router, nodes, plan, far_ends: Vec::new() };
        if !plan.offload {
            topology.make_fit_for_xdp()?;
        }
        for index in 0..topology.nodes.len() {
            for _ in 0..plan.pods {
                topology.add_pod(index)?;
            }
        }
        Ok(topology)
    }

    /// Starts one more pod on a node; its place among the node's pods.
    pub fn add_pod(&mut self, node: usize) -> Result<usize> {
        let count = u8::try_from(self.nodes[node].pods.len()).context("too many pods")?;
        self.add_pod_at(node, 11 + count)
    }

    /// Starts a pod whose addresses end in this number, as digits in both
    /// families; its place among the node's pods.
    pub fn add_pod_at(&mut self, node: usize, host: u8) -> Result<usize> {
        let plan = self.plan;
        let node = &mut self.nodes[node];
        let pod = pod(node, host, plan)?;
        node.pods.push(pod);
        Ok(node.pods.len() - 1)
    }

    /// Every pod with its node.
    pub fn pods(&self) -> impl Iterator<Item = (&Node, &Pod)> {
        self.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    /// Lets every sender on the wire complete its checksums, and every far end
    /// take what XDP programs of nodes send back.
    fn make_fit_for_xdp(&mut self) -> Result<()> {
        let ends = self.nodes.iter().map(|node| (&node.netns, "eth0".to_owned()));
        let ports: Vec<String> = NODES.iter().map(|number| format!("n{number}")).collect();
        let outside = [(&self.client, "eth0".to_owned()), (&self.router, "out".to_owned())];
        let far = ports.iter().map(|port| (&self.router, port.clone()));
        for (netns, device) in ends.chain(far).chain(outside) {
            netns.output("ethtool", &["-K", &device, "tx", "off"])?;
        }
        for port in &ports {
            self.far_ends.push(self.router.run(|| XdpPass::attach(port))??);
        }
        Ok(())
    }

    /// Leaves it standing when dropped.
    pub fn keep(&mut self) -> Result<()> {
        let pins = Path::new(BPF_FS).join(self.router.name());
        std::fs::create_dir_all(&pins).with_context(|| format!("make {}", pins.display()))?;
        for (index, far_end) in self.far_ends.iter().enumerate() {
            far_end.pin(&pins.join(format!("pass{index}")))?;
        }
        self.client.keep();
        self.router.keep();
        for node in &mut self.nodes {
            node.netns.keep();
            node.pods.iter_mut().for_each(|pod| pod.netns.keep());
        }
        Ok(())
    }
}

/// The router, with the wire as a bridge in it. The bridge must not learn who
/// listens to which multicast group: it would lose neighbour discovery.
fn router(naming: Naming) -> Result<Namespace> {
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

fn connect_client(router: &Namespace, client: &Namespace) -> Result<()> {
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

fn node(router: &Namespace, number: u8, plan: Plan) -> Result<Node> {
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
    for other in NODES.iter().filter(|other| **other != number) {
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

fn pod(node: &Node, host: u8, plan: Plan) -> Result<Pod> {
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
    Ok(Pod { netns, name, addresses })
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

#[cfg(test)]
mod tests {
    use super::{Plan, Topology, Wiring};
    use crate::netns::Naming;
    use crate::{deadline, ip, privilege};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn pods_of_all_nodes_reach_each_other_and_the_client_reaches_nodes() -> anyhow::Result<()> {
        if !privilege::root_or_skip() {
            return Ok(());
        }
        for wiring in [Wiring::Routed, Wiring::Bridged] {
            let cluster =
                Topology::new(Plan { wiring, pods: 2, offload: false, naming: Naming::Unique })?;
            let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
            for (from, to, netns) in [
                (&first.pods[0].netns, second.pods[1].addresses, &second.pods[1].netns),
                (&first.pods[0].netns, first.pods[1].addresses, &first.pods[1].netns),
                (&cluster.client, second.addresses, &second.netns),
            ] {
                for address in to.both() {
                    let listener = netns.run(|| TcpListener::bind((address, 9000)))??;
                    from.run(|| {
                        TcpStream::connect_timeout(&(address, 9000).into(), Duration::from_secs(2))
                    })??;
                    drop(listener);
                }
            }
            let name = cluster.client.name().to_owned();
            drop(cluster);
            deadline::until("the namespaces to go", Duration::from_secs(2), || {
                (!ip::output(&["netns", "list"]).ok()?.contains(&format!("{name}\n"))).then_some(())
            })?;
        }
        Ok(())
    }
}
