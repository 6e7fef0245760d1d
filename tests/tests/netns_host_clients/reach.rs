//! Every way to a Service, and every "no".

use crate::calls::{echo_unconnected, mapped, places, udp_socket, web};
use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// `IPPROTO_MPTCP`.
const MPTCP: i32 = 262;
const EVERY: [&str; 4] = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];

#[test]
fn the_node_reaches_every_backend_by_every_address() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        let cluster =
            Cluster::new(Setup::tc(wiring), |topology| vec![web().endpoints(topology.pods())])?;
        let node = cluster.node(0);
        for (address, http, udp) in places(node.addresses) {
            let name = |kind: &str| format!("{wiring:?}: {kind} to {address}");
            let to = SocketAddr::new(address, http);
            let tally = Tally::of(&node.netns, Kind::Http, to, 16)?;
            tally.expect(&EVERY).with_context(|| name("TCP"))?;
            let to = SocketAddr::new(address, udp);
            let tally = Tally::of(&node.netns, Kind::Udp, to, 16)?;
            // That the echo arrives at all shows that its source is right: the
            // socket is connected.
            tally.expect(&EVERY).with_context(|| name("connected UDP"))?;
            let ask = || echo_unconnected(&udp_socket(to, 0)?, to);
            let all = || (0..16).map(|_| ask()).collect::<Result<BTreeSet<String>>>();
            let seen = node.netns.run(all)?.with_context(|| name("unconnected UDP"))?;
            ensure!(seen.len() == EVERY.len(), "{}: answered by {seen:?}", name("UDP"));
        }
    }
    Ok(())
}

#[test]
fn the_peers_name_is_what_was_dialled() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let node = cluster.node(0);
    for (address, http, udp) in places(node.addresses) {
        node.netns.run(|| -> Result<()> {
            let to = SocketAddr::new(address, http);
            let peer = TcpStream::connect(to)?.peer_addr()?;
            ensure!(peer == to, "a TCP socket that dialled {to} has the peer {peer}");
            let to = SocketAddr::new(address, udp);
            let socket = udp_socket(to, 0)?;
            socket.connect(to)?;
            let peer = socket.peer_addr()?;
            ensure!(peer == to, "a UDP socket that dialled {to} has the peer {peer}");
            // Straight to a backend, nothing is put in its place.
            let pod = cluster.pod(1, 0).addresses.like(address.to_canonical());
            let pod = if to.is_ipv4() { pod } else { mapped(pod) };
            let straight = SocketAddr::new(pod, 5353);
            socket.connect(straight)?;
            ensure!(socket.peer_addr()? == straight, "{:?}", socket.peer_addr());
            socket.send(b"hello")?;
            let (_, from) = socket.recv_from(&mut [0; 512])?;
            ensure!(from == straight, "the echo of {straight} comes from {from}");
            Ok(())
        })??;
    }
    Ok(())
}

#[test]
fn cluster_addresses_need_no_route() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let node = &cluster.node(0).netns;
    let gateways = ["192.0.2.254", "2001:db8:2::fe"];
    node.ip(&gateways.map(|gateway| format!("route del default via {gateway}")))?;
    for kind in Kind::ALL {
        for address in web().addresses.both() {
            Tally::of(node, kind, (address, kind.port()).into(), 16)?.expect(&EVERY)?;
        }
    }
    let unconnected = web().udp_addresses();
    for to in unconnected {
        node.run(|| echo_unconnected(&udp_socket(to, 0)?, to))??;
    }
    Ok(())
}

#[test]
fn without_endpoints_or_with_an_unknown_port_the_call_is_refused_at_once() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |_| vec![web()])?;
    let node = cluster.node(0);
    let mut calls = 0;
    for (address, http, udp) in places(node.addresses) {
        node.netns.run(|| -> Result<()> {
            refused("connect of TCP", || TcpStream::connect((address, http)).map(drop))?;
            let to = SocketAddr::new(address, udp);
            let socket = udp_socket(to, 0)?;
            refused("connect of UDP", || socket.connect(to))?;
            refused("send", || socket.send_to(b"hello", to).map(drop))
        })??;
        calls += 1;
    }
    let services = cluster.agents[0].services()?;
    for (protocol, per_place) in [("TCP", 1), ("UDP", 2)] {
        let service = services
            .iter()
            .find(|service| service["protocol"] == protocol)
            .with_context(|| format!("no {protocol} port in {services:?}"))?;
        ensure!(service["packets_refused"] == calls * per_place, "{service}");
        ensure!(service["connections"] == 0, "{service}");
    }
    for address in web().addresses.both() {
        for address in [address, mapped(address)] {
            node.netns.run(|| -> Result<()> {
                refused("an unknown port", || TcpStream::connect((address, 81)).map(drop))?;
                let to = SocketAddr::new(address, 81);
                refused("an unknown port", || udp_socket(to, 0)?.send_to(b"", to).map(drop))
            })??;
        }
    }
    let status = cluster.agents[0].status()?;
    ensure!(status["verdicts"]["socket"]["refused_unknown_port"] == 8, "{}", status["verdicts"]);
    Ok(())
}

/// Nothing but the call itself says no, so it takes no time.
fn refused(what: &str, call: impl Fn() -> io::Result<()>) -> Result<()> {
    let begin = Instant::now();
    match call() {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        other => bail!("{what}: {other:?} instead of a refusal"),
    }
    ensure!(begin.elapsed() < Duration::from_millis(200), "{what}: {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_connection_and_a_flow_count_once() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![web().endpoint(two, &two.pods[0])]
    })?;
    let node = &cluster.node(0).netns;
    let (http, udp) = (web().http_addresses(), web().udp_addresses());
    let mut open = node.run(|| Connection::open(http[0]))??;
    let connected = node.run(|| Datagrams::open(udp[0]))??;
    let unconnected = node.run(|| udp_socket(udp[1], 0))??;
    for _ in 0..5 {
        open.get()?;
        connected.echo("again")?;
        echo_unconnected(&unconnected, udp[1])?;
    }
    let services = cluster.agents[0].services()?;
    for (protocol, connections) in [("TCP", 1), ("UDP", 2)] {
        let service: Vec<_> = services.iter().filter(|s| s["protocol"] == protocol).collect();
        ensure!(service[0]["connections"] == connections, "{}", service[0]);
        let backends = service[0]["backends"].as_array().context("backends")?;
        let sum: u64 = backends.iter().filter_map(|b| b["connections"].as_u64()).sum();
        ensure!(sum == connections, "{}", service[0]);
    }
    let verdicts = &cluster.agents[0].status()?["verdicts"]["socket"];
    ensure!(verdicts["forwarded"] == 1 + 1 + 5, "{verdicts}");
    // Who sends straight to the backend is answered by the backend.
    let straight = SocketAddr::new(cluster.pod(1, 0).addresses.v6.into(), 5353);
    echo_unconnected(&unconnected, straight)?;
    echo_unconnected(&unconnected, udp[1])?;
    Ok(())
}

/// Nobody sees their packets end, but sockets are closed.
#[test]
fn least_connections_follows_sockets_of_the_node() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![web().policy("least-connections").endpoints(two.pods.iter().map(|pod| (two, pod)))]
    })?;
    let node = &cluster.node(0).netns;
    for to in web().http_addresses() {
        let open = |count: u32| -> Result<Vec<(String, Connection)>> {
            let one = |_| -> io::Result<(String, Connection)> {
                let mut connection = Connection::open(to)?;
                Ok((connection.get()?.backend, connection))
            };
            Ok(node.run(|| (0..count).map(one).collect::<io::Result<Vec<_>>>())??)
        };
        let mut held = open(40)?;
        held.retain(|(backend, _)| backend == "pod-2a");
        let of_one = held.len();
        ensure!((16..=24).contains(&of_one), "{to}: {of_one} of 40");
        // The other one has none left: it catches up. If the closed ones still
        // counted, new ones would go to both alike.
        held.extend(open(40)?);
        let of_one = held.iter().filter(|(backend, _)| backend == "pod-2a").count();
        let of_other = held.len() - of_one;
        ensure!(of_one.abs_diff(of_other) <= 8, "{to}: {of_one} and {of_other}");
    }
    Ok(())
}

#[test]
fn only_the_cluster_address_minds_where_backends_are() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let local = || json!({ "spec": { "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local" } });
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let far = Service::new("far", 2).http(30081).with(local());
        let two = &topology.nodes[1];
        vec![web().with(local()).endpoints(topology.pods()), far.endpoint(two, &two.pods[0])]
    })?;
    let node = cluster.node(0);
    for (address, http, udp) in places(node.addresses) {
        let expected: &[&str] = if http == 80 { &["pod-1a", "pod-1b"] } else { &EVERY };
        for (kind, port) in [(Kind::Http, http), (Kind::Udp, udp)] {
            let tally = Tally::of(&node.netns, kind, (address, port).into(), 12)?;
            tally.expect(expected).with_context(|| format!("{kind} to {address}"))?;
        }
    }
    // Nowhere but elsewhere: not given away.
    for to in Service::new("far", 2).http_addresses() {
        let limit = Duration::from_millis(300);
        let answer = node.netns.run(|| TcpStream::connect_timeout(&to, limit))?;
        ensure!(answer.is_err(), "{to}: {answer:?}");
    }
    let own = (node.addresses.v4, 30081).into();
    Tally::of(&node.netns, Kind::Http, own, 4)?.expect(&["pod-2a"])
}

#[test]
fn the_node_is_one_client_to_session_affinity() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let sticky = json!({ "spec": { "sessionAffinity": "ClientIP" } });
        vec![web().with(sticky).endpoints(topology.pods())]
    })?;
    let node = cluster.node(0);
    for (kind, port) in [(Kind::Http, 80), (Kind::Udp, 53)] {
        for address in web().addresses.both() {
            let tally = Tally::of(&node.netns, kind, (address, port).into(), 15)?;
            ensure!(tally.failures.is_empty() && tally.backends.len() == 1, "{tally}");
        }
    }
    Ok(())
}

#[test]
fn a_port_of_loopback_that_is_no_node_port_is_not_ours() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        vec![Service::new("web", 1).http(0).endpoints(topology.pods())]
    })?;
    // No node port: a listener of the node's own is reached as ever.
    let node = &cluster.node(0).netns;
    let listener = node.run(|| std::net::TcpListener::bind("127.0.0.1:30080"))??;
    let stream = node.run(|| TcpStream::connect("127.0.0.1:30080"))??;
    ensure!(stream.peer_addr()? == listener.local_addr()?);
    Ok(())
}

#[test]
fn multipath_tcp_is_connected_like_tcp() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let node = cluster.node(0);
    for (address, http, _) in places(node.addresses) {
        node.netns.run(|| -> Result<()> {
            let to = SocketAddr::new(address, http);
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(MPTCP.into()));
            let socket = match socket {
                // A kernel without it.
                Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(()),
                socket => socket?,
            };
            socket.connect(&to.into()).with_context(|| format!("connect to {to}"))?;
            Ok(())
        })??;
    }
    Ok(())
}
