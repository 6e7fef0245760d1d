//! Datagrams in fragments that arrive in another order than they were sent in.

use anyhow::{Context as _, Result, bail, ensure};
use lb_common::names;
use lb_tests::agent::{Agent, metric};
use lb_tests::client::PATIENCE;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::until_ok;
use lb_tests::fragments::{self, cut, send};
use lb_tests::manifest::{Service, UDP_TARGET};
use lb_tests::netns::Namespace;
use lb_tests::packet::Packet;
use lb_tests::privilege::root_or_skip;
use lb_tests::process::stay_on;
use lb_tests::topology::{Addresses, Wiring};
use lb_tests::tunnel::Tunnel;
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// In three fragments.
const BYTES: usize = 4_000;
/// In 42.
const MANY_BYTES: usize = 60_000;
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
/// How many are met by two CPUs, in each family.
const DATAGRAMS: u16 = 500;
const NODE_PORT: u16 = 30_053;

#[test]
fn a_datagram_arrives_whatever_the_order_of_its_fragments() -> Result<()> {
    arrive(Setup::tc(Wiring::Routed))
}

#[test]
fn a_datagram_arrives_whatever_the_order_of_its_fragments_behind_a_bridge() -> Result<()> {
    arrive(Setup::tc(Wiring::Bridged))
}

#[test]
fn a_datagram_arrives_whatever_the_order_of_its_fragments_through_xdp() -> Result<()> {
    arrive(Setup::xdp(Wiring::Routed, "native"))
}

#[test]
fn a_datagram_arrives_whatever_the_order_of_its_fragments_through_clsact() -> Result<()> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.tc = "clsact";
    arrive(setup)
}

/// A client, what it sends to, and who answers there.
struct Way<'a> {
    client: &'a Namespace,
    from: Addresses,
    to: SocketAddr,
    backend: Option<(&'a Namespace, Addresses)>,
}

fn arrive(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(setup, |topology| {
        let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
        vec![
            Service::new("near", 1).udp(NODE_PORT).endpoint(one, &one.pods[1]),
            Service::new("far", 2).udp(NODE_PORT + 1).endpoint(two, &two.pods[0]),
        ]
    })?;
    let node = cluster.node(0).addresses;
    cluster.serve_in(|topology| &topology.nodes[0].netns, "node", node)?;
    let pod = cluster.pod(0, 0);
    let inside = (&pod.netns, pod.addresses);
    let outside = (&cluster.topology.client, cluster.topology.client_addresses);
    let [near, far] =
        [cluster.pod(0, 1), cluster.pod(1, 0)].map(|pod| Some((&pod.netns, pod.addresses)));
    let mut id = 1_000;
    for family in 0..2 {
        let [vip_near, vip_far] = [1, 2]
            .map(|number| SocketAddr::new(Service::new("", number).addresses.both()[family], 53));
        let at = |port| SocketAddr::new(node.both()[family], port);
        for ((client, from), to, backend) in [
            (inside, vip_near, near),
            (inside, vip_far, far),
            (inside, at(NODE_PORT), near),
            (inside, at(UDP_TARGET), None),
            (outside, at(NODE_PORT), near),
            (outside, at(NODE_PORT + 1), far),
            (outside, at(UDP_TARGET), None),
        ] {
            for order in ORDERS {
                id += 1;
                let way = Way { client, from, to, backend };
                exchange(&way, BYTES, &order, id)
                    .with_context(|| format!("fragments {order:?} to {to}"))?;
            }
        }
    }
    for hook in ["tc_ingress", "tc_egress"] {
        let verdicts = &cluster.agents[0].status()?["verdicts"][hook];
        ensure!(verdicts["held_fragment"].as_u64() > Some(0), "{hook}: {verdicts}");
        ensure!(verdicts["dropped_fragment"] == 0, "{hook}: {verdicts}");
    }
    Ok(())
}

/// The datagram, and a reply of the same length.
fn exchange(way: &Way<'_>, bytes: usize, order: &[usize], id: u16) -> Result<()> {
    let to = way.to;
    let socket = way.client.run(|| open(to))??;
    let from = SocketAddr::new(way.from.like(to.ip()), socket.local_addr()?.port());
    let text = "abcdefghijklmnopqrstuvw".repeat(bytes.div_ceil(23));
    let payload = &text.as_bytes()[..bytes];
    way.client.run(|| sent(&cut(from, to, payload, id), order))??;
    let (answer, answerer) = receive(&socket).context("the datagram")?;
    ensure!(answerer == to, "{answerer} answered, not {to}");
    let text = String::from_utf8(answer).context("read the answer")?;
    let mut parts = text.splitn(3, ' ');
    let (Some(_name), Some(peer), Some(echo)) = (parts.next(), parts.next(), parts.next()) else {
        bail!("the answer has no echo");
    };
    ensure!(echo.as_bytes() == payload, "the datagram was changed");
    let Some((backend, addresses)) = way.backend else { return Ok(()) };
    let here = SocketAddr::new(addresses.like(to.ip()), UDP_TARGET);
    let peer: SocketAddr = peer.parse().context("the peer's address")?;
    backend.run(|| sent(&cut(here, peer, payload, id), order))??;
    let (reply, replier) = receive(&socket).context("the reply")?;
    ensure!(replier == to, "{replier} replied, not {to}");
    ensure!(reply == payload, "the reply was changed");
    Ok(())
}

/// Nor does it take an agent.
#[test]
fn a_datagram_of_many_fragments_arrives_backwards() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![Service::new("far", 1).udp(NODE_PORT).endpoint(two, &two.pods[0])]
    })?;
    cluster.agents.iter_mut().for_each(Agent::kill);
    let (pod, backend) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let backwards: Vec<usize> = (0..(8 + MANY_BYTES).div_ceil(fragments::LENGTH)).rev().collect();
    for to in Service::new("", 1).udp(0).udp_addresses() {
        let backend = Some((&backend.netns, backend.addresses));
        let way = Way { client: &pod.netns, from: pod.addresses, to, backend };
        for id in 1..=10 {
            exchange(&way, MANY_BYTES, &backwards, id).with_context(|| format!("to {to}"))?;
        }
    }
    Ok(())
}

/// A client, and a Service whose one backend is on the same node.
fn near() -> Result<Cluster> {
    Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let one = &topology.nodes[0];
        vec![Service::new("near", 1).udp(0).endpoint(one, &one.pods[1])]
    })
}

/// The first fragment and the others come in on two CPUs at the same moment, as
/// they do behind an interface with several queues.
#[test]
fn a_datagram_that_two_processors_meet_arrives() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = near()?;
    let pod = cluster.pod(0, 0);
    let payload = [b'x'; BYTES];
    for to in Service::new("", 1).udp(0).udp_addresses() {
        let socket = pod.netns.run(|| open(to))??;
        let from = SocketAddr::new(pod.addresses.like(to.ip()), socket.local_addr()?.port());
        for id in 1..=DATAGRAMS {
            let fragments = cut(from, to, &payload, id);
            let (first, others) = fragments.split_at(1);
            let ready = AtomicUsize::new(0);
            let half = |cpu, part| {
                pod.netns.run(|| {
                    ensure!(stay_on(cpu), "this needs processor {cpu}");
                    ready.fetch_add(1, Ordering::SeqCst);
                    while ready.load(Ordering::SeqCst) < 2 {
                        std::hint::spin_loop();
                    }
                    send(part).context("send fragments")
                })?
            };
            std::thread::scope(|scope| {
                let other = scope.spawn(|| half(1, others));
                half(0, first)?;
                other.join().expect("a thread that sends")
            })?;
            receive(&socket).with_context(|| format!("datagram {id} to {to}"))?;
        }
    }
    Ok(())
}

/// The client is behind a device whose packets begin with the IP header.
#[test]
fn a_datagram_arrives_whatever_the_order_of_its_fragments_without_a_link_layer() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let one = &topology.nodes[0];
        vec![Service::new("near", 1).udp(0).endpoint(one, &one.pods[0])]
    })?;
    let (node, client) = (&cluster.node(0).netns, &cluster.topology.client);
    let tunnel = Tunnel::new(node, client, "vpn0")?;
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
    node.ip(&lines(&[
        "addr add 198.18.1.1 peer 198.18.1.2 dev vpn0",
        "addr add 2001:db8:4::1/64 dev vpn0 nodad",
        "link set vpn0 up",
    ]))?;
    client.ip(&lines(&[
        "addr add 198.18.1.2 peer 198.18.1.1 dev vpn0",
        "addr add 2001:db8:4::2/64 dev vpn0 nodad",
        "link set vpn0 up",
        "route add 10.96.0.0/16 via 198.18.1.1",
        "route add fd00:10:96::/64 via 2001:db8:4::1",
    ]))?;
    let from = Addresses { v4: "198.18.1.2".parse()?, v6: "2001:db8:4::2".parse()? };
    let pod = cluster.pod(0, 0);
    let backend = Some((&pod.netns, pod.addresses));
    for to in Service::new("", 1).udp(0).udp_addresses() {
        let way = Way { client, from, to, backend };
        // The device's programs are not there at once.
        until_ok("a datagram in order", Duration::from_secs(10), || {
            exchange(&way, BYTES, &ORDERS[0], 1)
        })?;
        for (order, id) in ORDERS.into_iter().zip(2..) {
            exchange(&way, BYTES, &order, id)
                .with_context(|| format!("fragments {order:?} to {to}"))?;
        }
    }
    drop(tunnel);
    Ok(())
}

#[test]
fn a_fragment_whose_first_never_comes_is_counted_and_forgotten() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = near()?;
    let pod = cluster.pod(0, 0);
    let (node, agent) = (&cluster.node(0).netns, &cluster.agents[0]);
    ensure!(metric(node, LOST)? == 0);
    for to in Service::new("", 1).udp(0).udp_addresses() {
        let from = SocketAddr::new(pod.addresses.like(to.ip()), 4_000);
        let fragments = cut(from, to, &[b'x'; BYTES], 7);
        pod.netns.run(|| send(&fragments[1..]))??;
    }
    let status = agent.status()?;
    let held = &status["verdicts"]["tc_ingress"]["held_fragment"];
    ensure!(held == 4, "{}", status["verdicts"]);
    ensure!(waiting(&status)? == 4, "{}", status["maps"]);
    until_ok("fragments are forgotten", Duration::from_secs(30), || {
        ensure!(metric(node, LOST)? == 4, "too few are lost");
        Ok(())
    })?;
    ensure!(waiting(&agent.status()?)? == 0, "some still wait");
    Ok(())
}

const LOST: &str = "lb_fragments_lost_total";

/// How many wait, by the status.
fn waiting(status: &Value) -> Result<u64> {
    let maps = status["maps"].as_array().context("a list of maps")?;
    let held = maps.iter().find(|map| map["map"] == names::MAP_HELD).context("the map")?;
    held["used"].as_u64().context("how full it is")
}

fn open(to: SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr =
        if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).context("bind")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn sent(fragments: &[Packet], order: &[usize]) -> Result<()> {
    ensure!(fragments.len() == order.len(), "{} fragments", fragments.len());
    send(order.iter().map(|index| &fragments[*index])).context("send fragments")
}

fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 65_536];
    let (length, from) = socket.recv_from(&mut buffer).context("receive")?;
    buffer.truncate(length);
    Ok((buffer, from))
}
