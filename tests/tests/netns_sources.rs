//! Which backends a client gets and whose address they see: the 27 flows of
//! Appendix A of the behaviour table, three kinds of clients to three addresses
//! of three Services, in both ways of masquerading, over both families.
//!
//! Every Service has an endpoint on the node under test (L) and one on the
//! other (R).

use anyhow::{Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::IpAddr;

const REQUESTS: u64 = 12;
const LOCAL: &str = "pod-1b";
const REMOTE: &str = "pod-2a";

/// The three Services of the table.
const SERVICES: [&str; 3] = ["both-cluster", "external-local", "internal-local"];

const NUMBERS: std::ops::Range<u8> = 0..3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Pod,
    Node,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    ClusterIp,
    NodePort,
    Vip,
}

/// What the table says of one flow.
struct Expected {
    remote_too: bool,
    masqueraded: bool,
}

/// The table, for `--masquerade kube-proxy`.
fn kube_proxy(client: Client, target: Target, service: u8) -> Expected {
    let (external_local, internal_local) = (service == 1, service == 2);
    let internal = target == Target::ClusterIp;
    let remote_too = match client {
        Client::Outside => !(internal && internal_local || !internal && external_local),
        Client::Pod | Client::Node => !(internal && internal_local),
    };
    let masqueraded = match client {
        Client::Node => true,
        Client::Pod => !internal && !external_local,
        Client::Outside => internal || !external_local,
    };
    Expected { remote_too, masqueraded }
}

fn vip(service: u8) -> Addresses {
    let number = service + 1;
    Addresses {
        v4: [203, 0, 113, number].into(),
        v6: [0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, u16::from(number)].into(),
    }
}

fn node_port(service: u8, kind: Kind) -> u16 {
    let base = if kind == Kind::Http { 30_080 } else { 30_180 };
    base + u16::from(service)
}

fn services(topology: &Topology) -> Vec<Service> {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    let service = |index: u8| {
        let base = Service::new(SERVICES[usize::from(index)], index + 1)
            .http(node_port(index, Kind::Http))
            .udp(node_port(index, Kind::Udp))
            .load_balancer(vip(index))
            .endpoint(one, &one.pods[1])
            .endpoint(two, &two.pods[0]);
        match index {
            1 => base.with(json!({ "spec": { "externalTrafficPolicy": "Local" } })),
            2 => base.with(json!({ "spec": { "internalTrafficPolicy": "Local" } })),
            _ => base,
        }
    };
    NUMBERS.map(service).collect()
}

/// Whatever the cluster's addresses are, the outside reaches node 1 with them.
fn route_to_node_1(topology: &Topology) -> Result<()> {
    let lines = [
        "route add 10.96.0.0/16 via 192.0.2.1",
        "route add fd00:10:96::/64 via 2001:db8:2::1",
        "route add 203.0.113.0/24 via 192.0.2.1",
        "route add 2001:db8:aaaa::/64 via 2001:db8:2::1",
    ];
    topology.router.ip(&lines.map(str::to_owned))
}

fn table(setup: Setup, kube_proxy_way: bool) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, services)?;
    let topology = &cluster.topology;
    route_to_node_1(topology)?;
    let node = &topology.nodes[0];
    let pod = cluster.pod(0, 0);
    let clients: [(Client, &Namespace, Addresses); 3] = [
        (Client::Pod, &pod.netns, pod.addresses),
        (Client::Node, &node.netns, node.addresses),
        (Client::Outside, &topology.client, topology.client_addresses),
    ];
    for service in NUMBERS {
        let cluster_ips = Service::new("", service + 1).addresses;
        for target in [Target::ClusterIp, Target::NodePort, Target::Vip] {
            for kind in Kind::ALL {
                let (addresses, port) = match target {
                    Target::ClusterIp => (cluster_ips, kind.port()),
                    Target::NodePort => (node.addresses, node_port(service, kind)),
                    Target::Vip => (vip(service), kind.port()),
                };
                for address in addresses.both() {
                    for (client, netns, own) in clients {
                        let name =
                            format!("{client:?} to {target:?} {address} {kind}, Service {service}");
                        let expected = kube_proxy(client, target, service);
                        let tally = Tally::of(netns, kind, (address, port).into(), REQUESTS)?;
                        let mut backends = vec![LOCAL];
                        backends.extend(expected.remote_too.then_some(REMOTE));
                        tally.expect(&backends).map_err(|error| error.context(name.clone()))?;
                        let peers =
                            peers(&expected, client, own.like(address), node, kube_proxy_way);
                        ensure!(tally.peers == peers, "{name}: {:?}, not {peers:?}", tally.peers);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whom the backends must see.
fn peers(
    expected: &Expected,
    client: Client,
    own: IpAddr,
    node: &lb_tests::topology::Node,
    kube_proxy_way: bool,
) -> BTreeSet<IpAddr> {
    // Towards its pods the node has the address of their gateway.
    let towards_pods =
        Addresses { v4: [10, 244, 1, 1].into(), v6: [0xfd00, 0x10, 0x244, 1, 0, 0, 0, 1].into() };
    let masqueraded = expected.masqueraded && (kube_proxy_way || client == Client::Node);
    // The other node's pod would answer a client from outside past us.
    let would_miss = client == Client::Outside && expected.remote_too;
    let local = if masqueraded { towards_pods.like(own) } else { own };
    let remote = if masqueraded || would_miss { node.addresses.like(own) } else { own };
    if expected.remote_too { [local, remote].into() } else { [local].into() }
}

#[test]
fn as_little_masquerading_as_possible() -> Result<()> {
    table(Setup::tc(Wiring::Routed), false)
}

#[test]
fn as_little_masquerading_as_possible_with_xdp() -> Result<()> {
    table(Setup::xdp(Wiring::Routed, "native"), false)
}

#[test]
fn masquerading_as_kube_proxy() -> Result<()> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--masquerade", "kube-proxy"];
    table(setup, true)
}

#[test]
fn masquerading_as_kube_proxy_with_xdp_and_pods_told_by_address() -> Result<()> {
    let mut setup = Setup::xdp(Wiring::Routed, "native");
    setup.agent.more = &[
        "--masquerade",
        "kube-proxy",
        "--detect-local",
        "ClusterCIDR",
        "--cluster-cidr",
        "10.244.0.0/16,fd00:10:244::/48",
    ];
    table(setup, true)
}
