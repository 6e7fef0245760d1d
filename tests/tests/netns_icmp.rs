//! What hosts learn by ICMP: that a Service's address answers pings, that a
//! backend's port is closed, and how large packets may be, in both directions.

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::{CLOSED_PORT, Service};
use lb_tests::netns::Namespace;
use lb_tests::path::{Whole, ping};
use lb_tests::privilege::root_or_skip;
use lb_tests::server::{pattern, sum};
use lb_tests::topology::Wiring;
use lb_tests::traffic::Kind;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// An error takes microseconds.
const AT_ONCE: Duration = Duration::from_millis(500);
/// Within which a sender must have learnt the size of its path.
const SOON: Duration = Duration::from_secs(2);

const NODE_PORTS: (u16, u16) = (30080, 30053);
const CLOSED_NODE_PORT: u16 = 30054;

#[test]
fn a_cluster_ip_answers_pings() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        pings(Setup::tc(wiring), "on")?;
    }
    pings(Setup::xdp(Wiring::Routed, "native"), "on")
}

#[test]
fn a_cluster_ip_refuses_pings_if_told_so() -> Result<()> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--answer-ping", "off"];
    pings(setup, "off")
}

fn pings(setup: Setup, answers: &str) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        vec![Service::new("some", 1).http(0).endpoints(topology.pods())]
    })?;
    // Outside clients reach ClusterIPs where somebody routes them to a node.
    let [router, client] = [&cluster.topology.router, &cluster.topology.client];
    router.ip(&["route add 10.96.0.0/24 via 192.0.2.1".into()])?;
    router.ip(&["route add fd00:10:96::/64 via 2001:db8:2::1".into()])?;
    for netns in [&cluster.pod(0, 0).netns, client] {
        netns.sysctl("net.ipv4.ping_group_range", "0 0")?;
        for address in Service::new("", 1).addresses.both() {
            for length in [0, 56, 1400] {
                let begin = Instant::now();
                let answer = netns.run(|| ping(address, length))?;
                let took = begin.elapsed();
                let right = match (answers, &answer) {
                    ("on", Ok(echoed)) => *echoed == length,
                    ("off", Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
                    _ => false,
                };
                ensure!(right && took < AT_ONCE, "ping {address}: {answer:?} after {took:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn a_closed_port_of_a_backend_is_refused_at_once() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        closed(Setup::tc(wiring))?;
    }
    Ok(())
}

#[test]
fn a_closed_port_of_a_backend_is_refused_at_once_with_xdp() -> Result<()> {
    closed(Setup::xdp(Wiring::Routed, "native"))
}

fn closed(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
        vec![
            Service::new("itself", 1).closed(0).endpoint(one, &one.pods[0]),
            Service::new("near", 2).closed(CLOSED_NODE_PORT).endpoint(one, &one.pods[1]),
            Service::new("far", 3).closed(CLOSED_NODE_PORT + 1).endpoint(two, &two.pods[0]),
        ]
    })?;
    for pod in cluster.topology.pods() {
        // A host gives each of its peers an error a second.
        pod.1.netns.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        pod.1.netns.sysctl("net.ipv6.icmp.ratelimit", "0")?;
    }
    let pod = &cluster.pod(0, 0).netns;
    for number in 1..=3 {
        for address in Service::new("", number).addresses.both() {
            refused(pod, (address, CLOSED_PORT).into())
                .with_context(|| format!("from a pod, Service {number}"))?;
        }
    }
    for address in cluster.node(0).addresses.both() {
        for port in [CLOSED_NODE_PORT, CLOSED_NODE_PORT + 1] {
            for (who, netns) in [("outside", &cluster.topology.client), ("a pod", pod)] {
                refused(netns, (address, port).into()).with_context(|| format!("from {who}"))?;
            }
        }
    }
    Ok(())
}

fn refused(from: &Namespace, to: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    match from.run(|| Kind::Udp.ask(to))? {
        Ok(answer) => bail!("{} answered at {to}", answer.backend),
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
            bail!("{to}: {error}, instead of a refusal")
        }
        Err(_) => {
            let took = begin.elapsed();
            ensure!(took < AT_ONCE, "{to}: refused after {took:?}");
            Ok(())
        }
    }
}

#[test]
fn packets_shrink_to_the_path_through_tc() -> Result<()> {
    path_mtu(Setup::tc(Wiring::Routed))
}

#[test]
fn packets_shrink_to_the_path_through_tc_behind_a_bridge() -> Result<()> {
    path_mtu(Setup::tc(Wiring::Bridged))
}

#[test]
fn packets_shrink_to_the_path_through_native_xdp() -> Result<()> {
    path_mtu(Setup::xdp(Wiring::Routed, "native"))
}

/// A client, and where it finds a Service that is far away.
struct Way<'a> {
    client: &'a Namespace,
    http: SocketAddr,
    udp: SocketAddr,
}

fn path_mtu(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let two = &topology.nodes[1];
        let far = Service::new("far", 1).http(NODE_PORTS.0).udp(NODE_PORTS.1);
        vec![far.endpoint(two, &two.pods[0])]
    })?;
    let [near, far] = [cluster.node(0), cluster.node(1)];
    let router = &cluster.topology.router;
    let backend = cluster.pod(1, 0);
    let vip = Service::new("", 1).addresses.both();
    for (family, backend) in backend.addresses.both().into_iter().enumerate() {
        let pod = cluster.pod(0, 0);
        let (node, gateway) = (near.addresses.both()[family], far.addresses.both()[family]);
        let ways = [
            Way {
                client: &pod.netns,
                http: (vip[family], 80).into(),
                udp: (vip[family], 53).into(),
            },
            Way {
                client: &cluster.topology.client,
                http: (node, NODE_PORTS.0).into(),
                udp: (node, NODE_PORTS.1).into(),
            },
        ];
        // The node that balances says so, then one beyond it: the sizes fall,
        // so that what was learnt before does not help.
        let host = host_route(backend);
        near.netns.ip(&[format!("route replace {host} via {gateway} mtu lock 1460")])?;
        for way in &ways {
            forth(way, 1460).context("this node's path to the backend is narrow")?;
        }
        let device = if setup.plan.wiring == Wiring::Routed {
            cluster.pod(1, 0).outer_end.as_str()
        } else {
            "cni0"
        };
        far.netns.ip(&[format!("route replace {host} dev {device} mtu 1420")])?;
        for way in &ways {
            forth(way, 1420).context("the backend's node's path to it is narrow")?;
        }
        // The other way round: back to the clients.
        let own = pod.addresses.both()[family];
        let outside = cluster.topology.client_addresses.both()[family];
        let wire = if family == 0 { "192.0.2.254" } else { "2001:db8:2::fe" };
        let device =
            if setup.plan.wiring == Wiring::Routed { pod.outer_end.as_str() } else { "cni0" };
        near.netns.ip(&[
            format!("route replace {} dev {device} mtu 1400", host_route(own)),
            format!("route replace {} via {wire} mtu lock 1400", host_route(outside)),
        ])?;
        for way in &ways {
            back(way).context("this node's path to the client is narrow")?;
        }
        router.ip(&[format!("route replace {} dev out mtu 1340", host_route(outside))])?;
        back(&ways[1]).context("the router's path to the client is narrow")?;
    }
    Ok(())
}

fn host_route(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// From the client to the backend: a datagram that must not be cut, then many
/// bytes.
fn forth(way: &Way<'_>, expected: usize) -> Result<()> {
    let probe = way.client.run(|| Whole::open(way.udp))??;
    deadline::until_ok("the client to learn the path's size", SOON, || {
        if let Err(error) = probe.send(expected + 1) {
            let too_long = error.raw_os_error() == Some(libc::EMSGSIZE);
            ensure!(too_long, "{} bytes to {}: {error}", expected + 1, way.udp);
        }
        let mtu = probe.mtu()?;
        ensure!(mtu == expected, "{} has {mtu}, not {expected}", way.udp);
        Ok(())
    })?;
    // The news may still wake the socket up.
    deadline::until_ok("a datagram that just fits", SOON, || Ok(probe.send(expected)?))?;
    let body = pattern(1 << 20);
    let mut connection = way.client.run(|| Connection::open(way.http))??;
    let sent = connection.request("POST", "/", &body).context("many bytes to the backend")?;
    ensure!(sent.header("x-sum") == Some(&sum(&body).to_string()), "sent bytes were changed");
    Ok(())
}

/// From the backend to the client.
fn back(way: &Way<'_>) -> Result<()> {
    let mut connection = way.client.run(|| Connection::open(way.http))??;
    let path = format!("/bytes/{}", 1 << 20);
    let received = connection.request("GET", &path, &[]).context("many bytes to the client")?;
    ensure!(received.body == pattern(1 << 20), "received bytes were changed");
    // The first echo may be lost, and tell the backend by that.
    let socket = way.client.run(|| Datagrams::open(way.udp))??;
    socket.patience(AT_ONCE)?;
    let payload = "x".repeat(1300);
    deadline::until_ok("an echo that is cut on its way back", SOON, || {
        socket.echo(&payload).context("no echo")
    })?;
    Ok(())
}
