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

mod build;
mod layout;

use crate::agent::BPF_FS;
use crate::netns::{Namespace, Naming};
use crate::xdp_pass::XdpPass;
use anyhow::{Context as _, Result};
pub use layout::{BRIDGED, Layout, ROUTED};
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
    /// As a CNI does, with its rules.
    Like(&'static Layout),
}

impl Wiring {
    /// It as data.
    const fn layout(self) -> &'static Layout {
        match self {
            Self::Routed => &ROUTED,
            Self::Bridged => &BRIDGED,
            Self::Like(layout) => layout,
        }
    }
}

/// What the network is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// How pods are connected.
    pub wiring: Wiring,
    /// How many nodes.
    pub nodes: u8,
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
    /// The node's end of its wire.
    pub outer_end: String,
}

impl Pod {
    /// The node's addresses on the pod's wire.
    pub fn gateways(&self) -> Addresses {
        let [a, b, c, _] = self.addresses.v4.octets();
        let mut v6 = self.addresses.v6.segments();
        v6[7] = 1;
        Addresses { v4: Ipv4Addr::new(a, b, c, 1), v6: v6.into() }
    }
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

impl Topology {
    /// Makes the namespaces, links, addresses and routes.
    pub fn new(plan: Plan) -> Result<Self> {
        let router = build::router(plan)?;
        let client = Namespace::new(plan.naming, "client")?;
        build::client(&router, &client)?;
        let client_addresses = Addresses {
            v4: Ipv4Addr::new(198, 51, 100, 10),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10),
        };
        let nodes = (1..=plan.nodes)
            .map(|number| build::node(&router, number, plan))
            .collect::<Result<_>>()?;
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
        let pod = build::pod(node, host, plan)?;
        node.pods.push(pod);
        Ok(node.pods.len() - 1)
    }

    /// Connects a node to the router once more, by its `eth1`, 198.18.0.1 and
    /// 2001:db8:3::1, and the router's `second`, 198.18.0.254 and 2001:db8:3::fe.
    pub fn second_link(&self, node: usize) -> Result<()> {
        build::second_link(&self.router, &self.nodes[node].netns)
    }

    /// Every pod with its node.
    pub fn pods(&self) -> impl Iterator<Item = (&Node, &Pod)> {
        self.nodes.iter().flat_map(|node| node.pods.iter().map(move |pod| (node, pod)))
    }

    /// Lets every sender on the wire complete its checksums, and every far end
    /// take what XDP programs of nodes send back.
    fn make_fit_for_xdp(&mut self) -> Result<()> {
        let ends = self.nodes.iter().map(|node| (&node.netns, "eth0".to_owned()));
        let ports: Vec<String> = self.nodes.iter().map(|node| node.name.clone()).collect();
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
            let cluster = Topology::new(Plan {
                wiring,
                nodes: 2,
                pods: 2,
                offload: false,
                naming: Naming::Unique,
            })?;
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
