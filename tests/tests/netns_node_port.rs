//! Node ports: from outside to nodes with and without a backend, and from pods,
//! through TC alone and with XDP on the uplinks.

use anyhow::{Result, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::{HTTP_TARGET, Service, UDP_TARGET};
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use std::time::Duration;

const REQUESTS: u64 = 12;
const HTTP: u16 = 30080;
const UDP: u16 = 30053;

#[test]
fn through_tc_alone_to_routed_pods() -> Result<()> {
    node_ports(Setup::tc(Wiring::Routed))
}

#[test]
fn through_tc_alone_to_bridged_pods() -> Result<()> {
    node_ports(Setup::tc(Wiring::Bridged))
}

#[test]
fn through_clsact() -> Result<()> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.tc = "clsact";
    node_ports(setup)
}

#[test]
fn through_native_xdp_to_routed_pods() -> Result<()> {
    node_ports(Setup::xdp(Wiring::Routed, "native"))
}

#[test]
fn through_native_xdp_to_bridged_pods() -> Result<()> {
    node_ports(Setup::xdp(Wiring::Bridged, "native"))
}

#[test]
fn through_generic_xdp() -> Result<()> {
    node_ports(Setup::xdp(Wiring::Routed, "generic"))
}

fn node_ports(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let two = &topology.nodes[1];
        vec![
            Service::new("far", 1).http(HTTP).udp(UDP).endpoint(two, &two.pods[0]),
            Service::new("all", 2).http(HTTP + 1).udp(UDP + 1).endpoints(topology.pods()),
        ]
    })?;
    let topology = &cluster.topology;
    let every = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];
    let clients = [
        (&topology.client, topology.client_addresses, "outside"),
        (&cluster.pod(0, 0).netns, cluster.pod(0, 0).addresses, "pod-1a"),
    ];
    for (netns, own, client) in clients {
        for (index, node) in topology.nodes.iter().enumerate() {
            for kind in Kind::ALL {
                let port = if kind == Kind::Http { HTTP } else { UDP };
                for address in node.addresses.both() {
                    let name = format!("{client} to {} {kind} {address}", node.name);
                    let far = Tally::of(netns, kind, (address, port).into(), REQUESTS)?;
                    far.expect(&["pod-2a"]).map_err(|error| error.context(name.clone()))?;
                    // Where the backend's node is the client's edge too, or the
                    // client is a pod, nothing hides the client.
                    if index == 1 && client == "outside" {
                        let own = own.like(address);
                        ensure!(far.peers == [own].into(), "{name}: peers {:?}", far.peers);
                    }
                    let all = Tally::of(netns, kind, (address, port + 1).into(), REQUESTS * 4)?;
                    all.expect(&every).map_err(|error| error.context(name.clone()))?;
                }
            }
        }
    }
    Ok(())
}

/// As with kube-proxy, the Service has the port, whoever else listens there.
#[test]
fn a_node_port_comes_before_a_process_that_listens_there() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![Service::new("far", 1).http(HTTP).udp(UDP).endpoint(two, &two.pods[0])]
    })?;
    let topology = &cluster.topology;
    let node = &topology.nodes[0];
    let _listener = node.netns.run(|| std::net::TcpListener::bind(("::", HTTP)))??;
    let _socket = node.netns.run(|| std::net::UdpSocket::bind(("::", UDP)))??;
    for address in node.addresses.both() {
        for (kind, port) in [(Kind::Http, HTTP), (Kind::Udp, UDP)] {
            let tally = Tally::of(&topology.client, kind, (address, port).into(), REQUESTS)?;
            tally.expect(&["pod-2a"])?;
        }
    }
    Ok(())
}

/// A port is the Service's for clients; what the node itself dials from there,
/// it dials itself.
#[test]
fn connections_of_the_node_from_a_node_port_are_its_own() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in [Setup::tc(Wiring::Routed), Setup::xdp(Wiring::Routed, "native")] {
        let mut cluster = Cluster::new(setup, |topology| {
            let two = &topology.nodes[1];
            vec![Service::new("far", 1).http(HTTP).udp(UDP).endpoint(two, &two.pods[0])]
        })?;
        let outside = cluster.topology.client_addresses;
        cluster.serve_in(|topology| &topology.client, "outside", outside)?;
        let node = &cluster.node(0).netns;
        for address in outside.both() {
            let to = (address, HTTP_TARGET).into();
            let mut connection = node.run(|| Connection::open_from(HTTP, to))??;
            let to = (address, UDP_TARGET).into();
            let datagrams = node.run(|| Datagrams::open_from(UDP, to))??;
            for _ in 0..3 {
                ensure!(connection.get()?.backend == "outside", "HTTP from {HTTP} to {address}");
                ensure!(datagrams.echo("own")?.backend == "outside", "UDP from {UDP} to {address}");
            }
        }
        // The port is still the Service's for others.
        for address in cluster.node(0).addresses.both() {
            let to = (address, HTTP).into();
            let tally = Tally::of(&cluster.topology.client, Kind::Http, to, REQUESTS)?;
            tally.expect(&["pod-2a"])?;
        }
    }
    Ok(())
}

/// Row 29: a Service that comes to a port where something listens gets new
/// connections only.
#[test]
fn connections_that_were_there_before_the_service_stay() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), |_| Vec::new())?;
    let own = cluster.node(0).addresses;
    cluster.serve_in(|topology| &topology.nodes[0].netns, "node", own)?;
    let mut before = Vec::new();
    for address in own.both() {
        let to = (address, HTTP_TARGET).into();
        for netns in [&cluster.topology.client, &cluster.pod(0, 0).netns] {
            before.push(netns.run(|| Connection::open(to))??);
        }
    }
    let two = &cluster.topology.nodes[1];
    cluster.publish(&[Service::new("far", 1).http(HTTP_TARGET).endpoint(two, &two.pods[0])])?;
    for address in own.both() {
        let to = (address, HTTP_TARGET).into();
        deadline::until("the Service", Duration::from_secs(5), || {
            let answer = cluster.topology.client.run(|| Kind::Http.ask(to)).ok()?.ok()?;
            (answer.backend == "pod-2a").then_some(())
        })?;
    }
    for connection in &mut before {
        for _ in 0..3 {
            ensure!(connection.get()?.backend == "node", "moved to the Service");
        }
    }
    Ok(())
}
