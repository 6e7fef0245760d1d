//! SCTP through Services: whole associations, chunk by chunk, whose ends check
//! every checksum.

use anyhow::{Context as _, Result, ensure};
use lb_common::sctp::chunk;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::{SCTP_PORT, SCTP_TARGET, Service};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::sctp::{Arrived, End};
use lb_tests::topology::Wiring;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

const NODE_PORT: u16 = 30_412;
const CLIENT_PORT: u16 = 4_000;

const DATA: u8 = 0;
const SACK: u8 = 3;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

#[test]
fn sctp_through_tc() -> Result<()> {
    associations(Setup::tc(Wiring::Routed))
}

#[test]
fn sctp_through_native_xdp_to_bridged_pods() -> Result<()> {
    associations(Setup::xdp(Wiring::Bridged, "native"))
}

fn associations(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let two = &topology.nodes[1];
        vec![Service::new("amf", 1).sctp(NODE_PORT).endpoint(two, &two.pods[0])]
    })?;
    let topology = &cluster.topology;
    let backend = &topology.nodes[1].pods[0];
    let clients = [
        (&topology.client, topology.client_addresses, "outside"),
        (&cluster.pod(0, 0).netns, cluster.pod(0, 0).addresses, "pod-1a"),
        (&backend.netns, backend.addresses, "the backend itself"),
    ];
    let vip = Service::new("amf", 1).addresses;
    for family in 0..2 {
        let server = End::open(
            &backend.netns,
            SocketAddr::new(backend.addresses.both()[family], SCTP_TARGET),
        )?;
        for (netns, own, name) in &clients {
            let own = own.both()[family];
            let mut fronts: Vec<SocketAddr> = topology
                .nodes
                .iter()
                .map(|node| SocketAddr::new(node.addresses.both()[family], NODE_PORT))
                .collect();
            if *name != "outside" {
                fronts.push(SocketAddr::new(vip.both()[family], SCTP_PORT));
            }
            for (front, port) in fronts.into_iter().zip(CLIENT_PORT..) {
                let client = End::open(netns, SocketAddr::new(own, port))?;
                association(&client, front, &server)
                    .with_context(|| format!("{name} to {front}"))?;
            }
        }
    }
    Ok(())
}

/// A whole association: each packet arrives as it was sent, from whom it should
/// come.
fn association(client: &End, front: SocketAddr, server: &End) -> Result<()> {
    let long: Vec<u8> = (0..1_400_u16).map(|n| n.to_be_bytes()[1]).collect();
    let exchange = [
        (chunk::INIT, chunk::INIT_ACK, &b"tags, windows, streams.."[..]),
        (COOKIE_ECHO, COOKIE_ACK, b"cookie.."),
        (DATA, SACK, b"a message..."),
        (DATA, SACK, &long),
        (chunk::SHUTDOWN, chunk::SHUTDOWN_ACK, b"tsn."),
    ];
    let mut peer = None;
    for (request, answer, payload) in exchange {
        client.send(front, request, payload)?;
        let Arrived { from, chunk, payload: arrived } = server.receive()?;
        ensure!(chunk == request && arrived == payload, "chunk {request} arrived as {chunk}");
        ensure!(*peer.get_or_insert(from) == from, "the client's address changed to {from}");
        server.send(from, answer, payload)?;
        let Arrived { from, chunk, payload: arrived } = client.receive()?;
        ensure!(chunk == answer && arrived == payload, "chunk {answer} arrived as {chunk}");
        ensure!(from == front, "the answer to chunk {request} came from {from}");
    }
    client.send(front, chunk::SHUTDOWN_COMPLETE, &[])?;
    ensure!(server.receive()?.chunk == chunk::SHUTDOWN_COMPLETE, "the last chunk");
    Ok(())
}

/// Row 27: port unreachable, as for UDP.
#[test]
fn sctp_without_backends_is_refused() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |_| vec![Service::new("amf", 1).sctp(NODE_PORT)])?;
    let topology = &cluster.topology;
    let vip = Service::new("amf", 1).addresses;
    let pod = cluster.pod(0, 0);
    for family in 0..2 {
        let front = SocketAddr::new(vip.both()[family], SCTP_PORT);
        refused(&pod.netns, pod.addresses.both()[family], front)?;
        let front = SocketAddr::new(topology.nodes[0].addresses.both()[family], NODE_PORT);
        refused(&topology.client, topology.client_addresses.both()[family], front)?;
    }
    Ok(())
}

fn refused(netns: &Namespace, own: IpAddr, front: SocketAddr) -> Result<()> {
    let client = End::open(netns, SocketAddr::new(own, CLIENT_PORT))?;
    client.connect(front.ip())?;
    client.send(front, chunk::INIT, b"tags, windows, streams..")?;
    let Err(error) = client.receive() else { anyhow::bail!("{front} answered") };
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(ErrorKind::ConnectionRefused), "{front}: {error:#}");
    Ok(())
}
