//! Large transfers: segments that the kernel has yet to cut, checksums that it
//! has yet to complete, datagrams in fragments.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::server::{pattern, sum};
use lb_tests::topology::Wiring;
use std::net::SocketAddr;

const BYTES: usize = 6 << 20;

#[test]
fn bytes_arrive_unchanged_through_tc() -> Result<()> {
    transfers(Setup::tc(Wiring::Routed))
}

#[test]
fn bytes_arrive_unchanged_through_tc_behind_a_bridge() -> Result<()> {
    transfers(Setup::tc(Wiring::Bridged))
}

#[test]
fn bytes_arrive_unchanged_through_native_xdp() -> Result<()> {
    transfers(Setup::xdp(Wiring::Routed, "native"))
}

#[test]
fn bytes_arrive_unchanged_through_generic_xdp() -> Result<()> {
    transfers(Setup::xdp(Wiring::Routed, "generic"))
}

fn transfers(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
        vec![
            Service::new("near", 1).http(0).udp(0).endpoint(one, &one.pods[1]),
            Service::new("far", 2).http(30080).udp(30053).endpoint(two, &two.pods[0]),
        ]
    })?;
    let pod = &cluster.pod(0, 0).netns;
    let client = &cluster.topology.client;
    let [near, far] = [1, 2].map(|number| Service::new("", number).addresses.both());
    let node = cluster.node(0).addresses.both();
    for family in 0..2 {
        for (netns, address, http, udp) in [
            (pod, near[family], 80, 53),
            (pod, far[family], 80, 53),
            (client, node[family], 30080, 30053),
        ] {
            transfer(netns, (address, http).into())
                .with_context(|| format!("{BYTES} bytes to and from {address}:{http}"))?;
            datagrams(netns, (address, udp).into())
                .with_context(|| format!("datagrams to {address}:{udp}"))?;
        }
    }
    Ok(())
}

fn transfer(netns: &Namespace, to: SocketAddr) -> Result<()> {
    let body = pattern(BYTES);
    let mut connection = netns.run(|| Connection::open(to))??;
    let sent = connection.request("POST", "/", &body).context("send")?;
    ensure!(sent.header("x-sum") == Some(&sum(&body).to_string()), "sent bytes were changed");
    let received = connection.request("GET", &format!("/bytes/{BYTES}"), &[]).context("receive")?;
    ensure!(received.body == body, "received bytes were changed");
    Ok(())
}

/// Of one byte, of a full frame, and in two, three and many fragments.
fn datagrams(netns: &Namespace, to: SocketAddr) -> Result<()> {
    for length in [1, 1200, 1420, 2800, 4000, 20_000, 60_000] {
        let socket = netns.run(|| Datagrams::open(to))??;
        let payload = "x".repeat(length);
        for _ in 0..3 {
            socket.echo(&payload).with_context(|| format!("{length} bytes"))?;
        }
    }
    Ok(())
}
