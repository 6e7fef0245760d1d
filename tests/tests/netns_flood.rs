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
use std::time::{Duration, Instant};

/// Connections that are there before.
const CONNECTIONS: usize = 1000;
/// Of them, how many are used between two new ones.
const ROUND: usize = 25;

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

/// How long it lasts: `LB_FLOOD_SECONDS`, or a few.
fn length() -> Duration {
    let asked = std::env::var("LB_FLOOD_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(if quick() { 3 } else { 8 }))
}

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
    slowest: Duration,
}

/// Asks on every connection in turns, and opens new ones in between, until the
/// time is over and each was asked at least once.
fn use_them(clients: &mut [Client], fresh: &[SocketAddr]) -> Result<Seen> {
    let (begin, mut seen) = (Instant::now(), Seen::default());
    let mut next = fresh.iter().cycle();
    while begin.elapsed() < length() || seen.rounds == 0 {
        for some in clients.chunks_mut(ROUND) {
            for client in some {
                client.ask().with_context(|| format!("{seen:?}"))?;
                seen.requests += 1;
            }
            let to = *next.next().context("nowhere to connect to")?;
            let asked = Instant::now();
            Client::open(to).with_context(|| format!("a new client of {to}, {seen:?}"))?;
            seen.connections += 1;
            seen.slowest = seen.slowest.max(asked.elapsed());
        }
        seen.rounds += 1;
    }
    Ok(seen)
}

#[expect(clippy::print_stdout, reason = "figures that a reader of the log wants")]
fn flooded(setup: Setup) -> Result<()> {
    let cluster = Cluster::new(setup, |topology| vec![web().endpoints(topology.pods())])?;
    let topology = &cluster.topology;
    let node = cluster.node(0);
    let [outside, inside]: [Vec<SocketAddr>; 2] = [
        node.addresses.both().map(|address| (address, 30080).into()).into(),
        web().http_addresses().into(),
    ];
    let open = |netns: &Namespace, to: &[SocketAddr]| -> Result<Vec<Client>> {
        netns
            .run(|| to.iter().cycle().take(CONNECTIONS / 2).copied().map(Client::open).collect())?
    };
    let pod = &cluster.pod(0, 0).netns;
    let (mut from_outside, mut from_pod) = (open(&topology.client, &outside)?, open(pod, &inside)?);
    let mut targets = Vec::new();
    for address in node.addresses.both() {
        targets.push(Target { proto: proto::TCP, to: (address, 30080).into() });
        targets.push(Target { proto: proto::TCP, to: (address, 30080).into() });
        targets.push(Target { proto: proto::UDP, to: (address, 30053).into() });
    }
    let counter = |name: &str| metric(&node.netns, name);
    let begin = Instant::now();
    let (seen, sent) =
        flood::during((&topology.router, "n1"), (&node.netns, "eth0"), &targets, || {
            std::thread::scope(|scope| {
                let other = scope.spawn(|| pod.run(|| use_them(&mut from_pod, &inside))?);
                let own = topology.client.run(|| use_them(&mut from_outside, &outside))?;
                let other = other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                Ok([own?, other?])
            })
        })?;
    let took = begin.elapsed();
    let gave_way = counter("lb_flows_gave_way_total")?;
    let renewed = counter("lb_flow_rows_renewed_total")?;
    println!("{sent} packets in {took:.1?}; outside {:?}, pod {:?}", seen[0], seen[1]);
    println!("{gave_way} flows gave way, {renewed} rows were made again");
    ensure!(sent > 100_000, "{sent} packets are no flood");
    ensure!(gave_way > sent / 4, "only {gave_way} flows gave way");
    ensure!(renewed == 0, "{renewed} rows of live flows were evicted");
    Ok(())
}

#[test]
fn a_flood_of_made_up_clients_cuts_nobody_off() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    flooded(Setup::tc(Wiring::Routed))
}

#[test]
fn nor_through_xdp() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    flooded(Setup::xdp(Wiring::Routed, "native"))
}
