//! Sockets that are not the node's own: pods' and the outside's.

use crate::calls::{HTTP, echo_unconnected, udp_socket, web};
use anyhow::{Context as _, Result, ensure};
use lb_tests::client::Datagrams;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The calls of sockets that a node's agent gave a backend.
fn forwarded(cluster: &Cluster, node: usize) -> Result<u64> {
    let status = cluster.agents[node].status()?;
    status["verdicts"]["socket"]["forwarded"].as_u64().context("a number")
}

fn peer_of(netns: &Namespace, to: SocketAddr) -> Result<SocketAddr> {
    Ok(netns.run(|| TcpStream::connect(to)?.peer_addr())??)
}

#[test]
fn pods_are_translated_packet_by_packet_and_no_other_nodes_agent_minds() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let pod = cluster.pod(0, 0);
    for kind in Kind::ALL {
        for address in web().addresses.both() {
            let tally = Tally::of(&pod.netns, kind, (address, kind.port()).into(), 12)?;
            tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])?;
        }
    }
    Tally::of(
        &cluster.topology.client,
        Kind::Http,
        (cluster.node(0).addresses.v4, HTTP).into(),
        4,
    )?;
    ensure!(forwarded(&cluster, 0)? == 0, "{}", cluster.agents[0].status()?["verdicts"]);
    let services = cluster.agents[0].services()?;
    ensure!(services.iter().all(|service| service["packets_in"] != 0), "{services:?}");
    // A pod's loopback is its own.
    let own = pod.netns.run(|| TcpStream::connect(("127.0.0.1", HTTP)))?;
    ensure!(own.is_err(), "a node port answers on a pod's loopback");
    // A process of one node is nothing to the other node's agent.
    peer_of(&cluster.node(1).netns, web().http_addresses()[0])?;
    ensure!(forwarded(&cluster, 0)? == 0 && forwarded(&cluster, 1)? == 1);
    Ok(())
}

/// A Service that no other test has, without ports that every node has: these
/// agents serve the sockets of all namespaces of the machine.
fn shared() -> Service {
    Service::new("shared", 250).http(0).udp(0)
}

#[test]
fn on_demand_pods_are_translated_in_their_calls_too() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--socket-clients", "all"];
    let cluster = Cluster::new(setup, |topology| {
        let two = &topology.nodes[1];
        vec![shared().endpoint(two, &two.pods[0])]
    })?;
    let pod = cluster.pod(0, 0);
    for to in shared().http_addresses() {
        // Either agent may be the first that is asked, since pods of both
        // nodes are on this machine.
        let both = || Ok::<_, anyhow::Error>(forwarded(&cluster, 0)? + forwarded(&cluster, 1)?);
        let before = both()?;
        ensure!(peer_of(&pod.netns, to)? == to);
        Tally::of(&pod.netns, Kind::Http, to, 4)?.expect(&["pod-2a"])?;
        ensure!(both()? >= before + 5, "{before} calls before, {} after", both()?);
    }
    let sockets: Vec<_> = shared()
        .udp_addresses()
        .into_iter()
        .map(|to| {
            Ok((to, pod.netns.run(|| udp_socket(to, 0))??, pod.netns.run(|| Datagrams::open(to))??))
        })
        .collect::<Result<_>>()?;
    for (to, unconnected, connected) in &sockets {
        ensure!(echo_unconnected(unconnected, *to)? == "pod-2a");
        ensure!(connected.echo("before")?.backend == "pod-2a");
    }
    // Nobody in this namespace could tell a connected socket of a pod that its
    // backend is gone, so those have no need to be told.
    let one = cluster.node(0);
    cluster.publish(&[shared().endpoint(one, &one.pods[1])])?;
    for (to, unconnected, connected) in &sockets {
        deadline::until_ok("datagrams to the new backend", Duration::from_secs(2), || {
            ensure!(echo_unconnected(unconnected, *to)? == "pod-1b");
            Ok(())
        })?;
        ensure!(connected.echo("after")?.backend == "pod-1b");
    }
    Ok(())
}
