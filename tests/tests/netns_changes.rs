//! Endpoints that come and go: in force at once, and without harm to what is
//! established.

use anyhow::{Result, ensure};
use lb_tests::client::{Answer, Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// From the write of a manifest to the first request by the new rule.
const IN_FORCE: Duration = Duration::from_millis(200);

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn on(topology: &Topology, node: usize, pod: usize) -> Service {
    let node = &topology.nodes[node];
    web().endpoint(node, &node.pods[pod])
}

#[test]
fn changes_are_in_force_within_200_ms() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![on(topology, 0, 1)])?;
    let pod = &cluster.pod(0, 0).netns;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        let (node, index) = (round % 2, round / 2 % 2);
        let target = &cluster.pod(node, index).name;
        let kind = Kind::ALL[round % 2];
        let to = (web().addresses.both()[round / 2 % 2], kind.port()).into();
        let begin = Instant::now();
        cluster.publish(&[on(&cluster.topology, node, index)])?;
        deadline::until("a change in force", Duration::from_secs(3), || {
            let answer = pod.run(|| kind.ask(to)).ok()?.ok()?;
            (answer.backend == *target).then_some(())
        })?;
        slowest = slowest.max(begin.elapsed());
    }
    println!("slowest of 20 changes: {slowest:?}");
    ensure!(slowest < IN_FORCE, "a change took {slowest:?}");
    Ok(())
}

#[test]
fn established_tcp_stays_and_udp_moves_when_its_backend_leaves() -> Result<()> {
    for setup in [Setup::tc(Wiring::Routed), Setup::xdp(Wiring::Routed, "native")] {
        if !root_or_skip() {
            return Ok(());
        }
        let cluster = Cluster::new(setup, |topology| vec![on(topology, 1, 0)])?;
        let topology = &cluster.topology;
        let inside = web().addresses.both().map(|address| (address, 80, 53));
        let outside = topology.nodes[0].addresses.both().map(|address| (address, 30080, 30053));
        let clients = [(&cluster.pod(0, 0).netns, inside), (&topology.client, outside)];
        let mut open = Vec::new();
        for (netns, targets) in clients {
            for (address, http, udp) in targets {
                let mut tcp = netns.run(|| Connection::open((address, http).into()))??;
                let datagrams = netns.run(|| Datagrams::open((address, udp).into()))??;
                ensure!(tcp.get()?.backend == "pod-2a");
                ensure!(datagrams.echo("before")?.backend == "pod-2a");
                open.push((tcp, datagrams, (address, http).into()));
            }
        }
        cluster.publish(&[on(topology, 0, 1)])?;
        for (index, (tcp, datagrams, to)) in open.iter_mut().enumerate() {
            let netns = clients[index / 2].0;
            deadline::until("new connections to the new backend", Duration::from_secs(2), || {
                let answer = netns.run(|| Kind::Http.ask(*to)).ok()?.ok()?;
                (answer.backend == "pod-1b").then_some(())
            })?;
            // The rule is in force, so that the very next datagram must obey.
            let moved = datagrams.echo("after")?;
            ensure!(moved.backend == "pod-1b", "UDP stays on {}", moved.backend);
            for _ in 0..5 {
                let kept = tcp.get()?;
                ensure!(kept.backend == "pod-2a", "the connection went to {}", kept.backend);
            }
        }
    }
    Ok(())
}

#[test]
fn a_terminating_endpoint_keeps_what_it_has_and_gets_nothing_new() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![on(topology, 1, 0)])?;
    let topology = &cluster.topology;
    let pod = &cluster.pod(0, 0).netns;
    let to = web().http_addresses()[0];
    let mut open = pod.run(|| Connection::open(to))??;
    ensure!(open.get()?.backend == "pod-2a");
    let two = &topology.nodes[1];
    cluster.publish(&[on(topology, 0, 1).terminating(two, &two.pods[0])])?;
    deadline::until("new connections to the ready endpoint", Duration::from_secs(2), || {
        let answer = pod.run(|| Kind::Http.ask(to)).ok()?.ok()?;
        (answer.backend == "pod-1b").then_some(())
    })?;
    Tally::of(pod, Kind::Http, to, 20)?.expect(&["pod-1b"])?;
    ensure!(open.get()?.backend == "pod-2a");
    // The last one standing serves new ones again.
    cluster.publish(&[web().terminating(two, &two.pods[0])])?;
    deadline::until("the terminating endpoint as the last", Duration::from_secs(2), || {
        let answer = pod.run(|| Kind::Http.ask(to)).ok()?.ok()?;
        (answer.backend == "pod-2a").then_some(())
    })
}

#[test]
fn a_pod_that_starts_is_served_and_serves_within_a_second() -> Result<()> {
    for wiring in [Wiring::Routed, Wiring::Bridged] {
        if !root_or_skip() {
            return Ok(());
        }
        let mut cluster = Cluster::new(Setup::tc(wiring), |topology| vec![on(topology, 1, 0)])?;
        let index = cluster.add_pod(0)?;
        let begin = Instant::now();
        let pod = cluster.pod(0, index);
        // Datagrams, since a SYN that comes too early is repeated after a second.
        for to in web().udp_addresses() {
            deadline::until("the new pod as a client", Duration::from_secs(1), || {
                pod.netns.run(|| quick_echo(to)).ok()?.ok()
            })?;
        }
        println!("a new pod is served after {:?}", begin.elapsed());
        for to in web().http_addresses() {
            Tally::of(&pod.netns, Kind::Http, to, 5)?.expect(&["pod-2a"])?;
        }
        cluster.publish(&[on(&cluster.topology, 0, index)])?;
        for to in web().http_addresses() {
            deadline::until_ok("the new pod as a backend", Duration::from_secs(1), || {
                Tally::of(&cluster.pod(1, 0).netns, Kind::Http, to, 1)?.expect(&["pod-1c"])
            })?;
        }
    }
    Ok(())
}

fn quick_echo(to: SocketAddr) -> std::io::Result<Answer> {
    let socket = Datagrams::open(to)?;
    socket.patience(Duration::from_millis(100))?;
    socket.echo("hello")
}
