//! Floods of made-up clients: who is there goes on, and who comes gets in.

use anyhow::{Context as _, Result, ensure};
use lb_common::proto;
use lb_tests::agent::metric;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::flood::{self, Target};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::{quick, root_or_skip};
use lb_tests::streams::Stream;
use lb_tests::topology::Wiring;
use lb_tests::traffic::Kind;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections that are there before.
const CONNECTIONS: usize = 1000;
/// Of them, how many are used between two new ones.
const ROUND: usize = 25;

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

/// How long a newcomer waits at most. A first segment that is lost is sent again
/// after a second, and after two more.
const SLOWEST: Duration = Duration::from_secs(8);

/// How long it lasts: `LB_FLOOD_SECONDS`, or a few.
fn length() -> Duration {
    let asked = std::env::var("LB_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(if quick() { 3 } else { 8 }))
}

/// One flood is enough for a machine: what two at once lose says nothing.
static ALONE: Mutex<()> = Mutex::new(());

/// A connection that stays, and who answers on it.
struct Client {
    stream: Stream,
    backend: String,
}

impl Client {
    fn open(to: SocketAddr) -> Result<Self> {
        let mut stream = Stream::open(Kind::Http, to).context("connect")?;
        let backend = stream.ask().context("ask")?.backend;
        Ok(Self { stream, backend })
    }

    fn ask(&mut self) -> Result<()> {
        let backend = self.stream.ask().context("a connection that was there broke")?.backend;
        ensure!(backend == self.backend, "{} answered for {}", backend, self.backend);
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Seen {
    requests: usize,
    rounds: usize,
    connections: usize,
    slowest_answer: Duration,
    slowest_newcomer: Duration,
}

/// Asks on every connection in turns, and opens new ones in between, until the
/// time is over and each was asked at least once.
fn use_them(clients: &mut [Client], fresh: &[SocketAddr]) -> Result<Seen> {
    let (begin, mut seen) = (Instant::now(), Seen::default());
    let mut next = fresh.iter().cycle();
    while begin.elapsed() < length() || seen.rounds == 0 {
        for some in clients.chunks_mut(ROUND) {
            for client in some {
                let asked = Instant::now();
                client.ask().with_context(|| format!("{seen:?}"))?;
                seen.requests += 1;
                seen.slowest_answer = seen.slowest_answer.max(asked.elapsed());
            }
            let to = *next.next().context("nowhere to connect to")?;
            let asked = Instant::now();
            Client::open(to).with_context(|| format!("a new client of {to}, {seen:?}"))?;
            seen.connections += 1;
            seen.slowest_newcomer = seen.slowest_newcomer.max(asked.elapsed());
        }
        seen.rounds += 1;
    }
    Ok(seen)
}

/// Connections from outside to `outside`, and from a pod to `inside`, are used
/// while first packets to `targets` come in; what became of the flows.
#[expect(clippy::print_stdout, reason = "figures that a reader of the log wants")]
fn flooded(
    cluster: &Cluster,
    [outside, inside]: [Vec<SocketAddr>; 2],
    targets: &[Target],
) -> Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (topology, node) = (&cluster.topology, cluster.node(0));
    let open = |netns: &Namespace, to: &[SocketAddr]| -> Result<Vec<Client>> {
        netns
            .run(|| to.iter().cycle().take(CONNECTIONS / 2).copied().map(Client::open).collect())?
    };
    let pod = &cluster.pod(0, 0).netns;
    let (mut from_outside, mut from_pod) = (open(&topology.client, &outside)?, open(pod, &inside)?);
    let counter = |name: &str| metric(&node.netns, name);
    let begin = Instant::now();
    let (seen, sent) =
        flood::during((&topology.router, "n1"), (&node.netns, "eth0"), targets, || {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| pod.run(|| use_them(&mut from_pod, &inside))?);
                let own = topology.client.run(|| use_them(&mut from_outside, &outside))?;
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok([own?, other?])
            })
        })?;
    let took = begin.elapsed();
    let gave_way = counter("lb_flows_gave_way_total")?;
    let ports = counter("lb_snat_ports_gave_way_total")?;
    let renewed = counter("lb_flow_rows_renewed_total")?;
    println!("{sent} packets in {took:.1?}; outside {:?}, pod {:?}", seen[0], seen[1]);
    println!("{gave_way} flows and {ports} ports gave way, {renewed} rows were made again");
    ensure!(sent > 100_000, "{sent} packets are no flood");
    ensure!(gave_way > sent / 4, "only {gave_way} flows gave way");
    ensure!(renewed == 0, "{renewed} rows of live flows were evicted");
    for seen in seen {
        ensure!(seen.slowest_newcomer < SLOWEST, "a newcomer waited: {seen:?}");
    }
    Ok(())
}

fn at_node_port(cluster: &Cluster, port: u16) -> Vec<SocketAddr> {
    cluster.node(0).addresses.both().map(|address| (address, port).into()).into()
}

fn flooded_web(setup: Setup) -> Result<()> {
    let cluster = Cluster::new(setup, |topology| vec![web().endpoints(topology.pods())])?;
    let clients = [at_node_port(&cluster, 30080), web().http_addresses().into()];
    let mut targets = Vec::new();
    for to in at_node_port(&cluster, 30080) {
        let datagrams = SocketAddr::new(to.ip(), 30053);
        targets.extend([(proto::TCP, to), (proto::TCP, to), (proto::UDP, datagrams)]);
    }
    let targets: Vec<Target> =
        targets.into_iter().map(|(proto, to)| Target { proto, to }).collect();
    flooded(&cluster, clients, &targets)
}

#[test]
fn a_flood_of_made_up_clients_cuts_nobody_off() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    flooded_web(Setup::tc(Wiring::Routed))
}

#[test]
fn nor_through_xdp() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    flooded_web(Setup::xdp(Wiring::Routed, "native"))
}

/// This node has only some thousand ports towards it, and replies need one each.
#[test]
fn nor_from_the_one_backend_on_another_node() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in [Setup::tc(Wiring::Routed), Setup::xdp(Wiring::Routed, "native")] {
        let cluster = Cluster::new(setup, |topology| {
            let two = &topology.nodes[1];
            vec![web().endpoint(two, &two.pods[0])]
        })?;
        let clients = [at_node_port(&cluster, 30080), web().http_addresses().into()];
        let target = |to| Target { proto: proto::TCP, to };
        let targets: Vec<Target> = at_node_port(&cluster, 30080).into_iter().map(target).collect();
        flooded(&cluster, clients, &targets)?;
        ensure!(metric(&cluster.node(0).netns, "lb_snat_ports_gave_way_total")? > 10_000);
    }
    Ok(())
}
