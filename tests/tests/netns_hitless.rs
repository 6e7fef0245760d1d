//! What becomes of the agents is no flow's concern: a thousand TCP streams and
//! a thousand UDP flows go on, with the same backends, while agents are killed,
//! upgraded and away, and clients open new ones all the time.
//!
//! `LB_AWAY_SECONDS` sets for how long no agent runs. In short, the same with the
//! node's own processes as clients, and with clsact in the place of tcx.

use anyhow::{Result, ensure};
use lb_tests::agent::{Agent, Options};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::path::ping;
use lb_tests::privilege::root_or_skip;
use lb_tests::streams::{Stream, is_reset};
use lb_tests::topology::Wiring;
use lb_tests::traffic::Kind;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How much is done.
#[derive(Clone, Copy)]
struct Amount {
    /// Streams of each protocol to each address.
    streams: usize,
    /// Over both nodes.
    kills: u64,
    /// Likewise.
    upgrades: u64,
    /// How long no agent runs at least.
    away: Duration,
}

const LONG: Amount = Amount { streams: 250, kills: 50, upgrades: 10, away: Duration::from_secs(5) };
const SHORT: Amount = Amount { streams: 20, kills: 6, upgrades: 2, away: Duration::ZERO };

/// New clients that must have come while no agent ran.
const ALONE: u64 = 100;
/// Between two requests of a thread, so that the machine keeps up: what is lost
/// for want of processor time is nobody's fault.
const PACE: Duration = Duration::from_millis(2);

#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    open: AtomicU64,
    requests: AtomicU64,
    /// Connections and flows that are asked once.
    fresh: AtomicU64,
    repeated: AtomicU64,
    resets: AtomicU64,
    failed: AtomicU64,
    moved: AtomicU64,
    first: Mutex<Vec<String>>,
}

impl Counts {
    fn add(count: &AtomicU64, by: u32) {
        count.fetch_add(by.into(), Ordering::Relaxed);
    }

    fn get(count: &AtomicU64) -> u64 {
        count.load(Ordering::Relaxed)
    }

    fn note(&self, text: String) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < 5 {
            first.push(text);
        }
    }

    fn failure(&self, what: &str, to: SocketAddr, error: &io::Error) {
        Self::add(if is_reset(error) { &self.resets } else { &self.failed }, 1);
        self.note(format!("{what} to {to}: {error}"));
    }

    fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Keeps streams busy until told to stop, and asks each once more then.
    fn keep(&self, count: usize, kind: Kind, to: SocketAddr) {
        let mut streams = Vec::new();
        for _ in 0..count {
            match Stream::open(kind, to).and_then(|mut stream| Ok((stream.ask()?.backend, stream)))
            {
                Ok(stream) => streams.push(stream),
                Err(error) => self.failure("a new stream", to, &error),
            }
            Self::add(&self.open, 1);
        }
        loop {
            let last = !self.going();
            streams.retain_mut(|(backend, stream)| {
                thread::sleep(PACE);
                match stream.ask() {
                    Ok(reply) => {
                        Self::add(&self.requests, 1);
                        Self::add(&self.repeated, reply.repeated);
                        if reply.backend != *backend {
                            Self::add(&self.moved, 1);
                            self.note(format!("{kind} to {to}: {backend}, then {}", reply.backend));
                        }
                        true
                    }
                    Err(error) => {
                        self.failure("a stream", to, &error);
                        false
                    }
                }
            });
            if last {
                return;
            }
        }
    }

    /// Opens one connection or flow after the other.
    fn open(&self, to: [SocketAddr; 2]) {
        while self.going() {
            for (kind, to) in Kind::ALL.into_iter().zip(to) {
                thread::sleep(PACE * 2);
                match Stream::open(kind, to).and_then(|mut stream| stream.ask()) {
                    Ok(reply) => {
                        Self::add(&self.fresh, 1);
                        Self::add(&self.repeated, reply.repeated);
                    }
                    Err(error) => self.failure("a new client", to, &error),
                }
            }
        }
    }
}

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

/// Where requests begin, and where HTTP and UDP go from there.
type Way<'a> = (&'a Namespace, [SocketAddr; 2]);

/// Four ways in: both families, from a pod to the cluster addresses and from
/// outside to node ports; HTTP and UDP each.
fn ways(cluster: &Cluster) -> Vec<Way<'_>> {
    let inside = web()
        .addresses
        .both()
        .map(|address| (&cluster.pod(0, 0).netns, [(address, 80).into(), (address, 53).into()]));
    let outside = cluster.node(0).addresses.both().map(|address| {
        (&cluster.topology.client, [(address, 30080).into(), (address, 30053).into()])
    });
    inside.into_iter().chain(outside).collect()
}

/// From processes of a node, too, by cluster addresses and by a node port on
/// loopback.
fn ways_of_the_node(cluster: &Cluster) -> Vec<Way<'_>> {
    let node = &cluster.node(0).netns;
    let loopback = Ipv6Addr::LOCALHOST;
    let own = web().addresses.both().map(|address| [(address, 80).into(), (address, 53).into()]);
    let own = own.into_iter().chain([[(loopback, 30080).into(), (loopback, 30053).into()]]);
    ways(cluster).into_iter().chain(own.map(|to| (node, to))).collect()
}

/// Kills an agent at a moment of its life: before it has done anything, on its
/// way, or when it has everything in force.
fn kill(agent: &mut Agent, round: u64) -> Result<()> {
    if round.is_multiple_of(3) {
        agent.ready()?;
    } else {
        thread::sleep(Duration::from_millis(round * 97 % 700));
    }
    agent.kill();
    agent.run()
}

/// Upgrades an agent to one whose programs were made with another constant, and
/// sees that every link runs them.
fn upgrade(agent: &mut Agent, round: u64, pod: &Namespace) -> Result<()> {
    agent.ready()?;
    let before = agent.programs()?;
    let answers = round % 2 == 1;
    agent.set_more(if answers { &["--answer-ping", "on"] } else { &["--answer-ping", "off"] });
    agent.take_over()?;
    let after = agent.programs()?;
    ensure!(before.keys().eq(after.keys()), "{before:?} and then {after:?}");
    for (link, program) in &after {
        ensure!(before[link] != *program, "{link} still runs program {program}");
    }
    if agent.node() == "n1" {
        let pinged = pod.run(|| ping(web().addresses.v4.into(), 8))?;
        ensure!(pinged.is_ok() == answers, "the old programs are in force: {pinged:?}");
    }
    Ok(())
}

/// What becomes of one agent; nothing is waited for that the flows depend on.
fn life(agent: &mut Agent, pod: &Namespace, amount: Amount) -> Result<()> {
    for round in 0..amount.kills / 2 {
        kill(agent, round)?;
    }
    for round in 0..amount.upgrades / 2 {
        upgrade(agent, round, pod)?;
    }
    agent.terminate()
}

#[test]
fn agents_killed_upgraded_and_away_disturb_no_flow() -> Result<()> {
    let away = std::env::var("LB_AWAY_SECONDS").ok().and_then(|text| text.parse().ok());
    let away = away.map_or(LONG.away, Duration::from_secs);
    undisturbed(Setup::xdp(Wiring::Routed, "native"), Amount { away, ..LONG }, ways)
}

/// The programs at clsact are no links: nothing but the agent's own care replaces
/// them in one step.
#[test]
fn neither_the_nodes_own_clients_nor_those_behind_clsact_are_disturbed() -> Result<()> {
    let setup = Setup::tc(Wiring::Routed);
    let setup = Setup { agent: Options { tc: "clsact", ..setup.agent }, ..setup };
    undisturbed(setup, SHORT, ways_of_the_node)
}

#[expect(clippy::print_stdout, reason = "its figures are for whoever runs it by hand")]
fn undisturbed(setup: Setup, amount: Amount, ways: fn(&Cluster) -> Vec<Way<'_>>) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut cluster =
        Cluster::new(setup, |topology| vec![web().endpoints(topology.pods().skip(1))])?;
    let mut agents = std::mem::take(&mut cluster.agents);
    let pod = &cluster.pod(0, 0).netns;
    pod.sysctl("net.ipv4.ping_group_range", "0 0")?;
    let ways = ways(&cluster);
    let counts = &Counts::default();
    let begin = Instant::now();
    let alone = thread::scope(|scope| {
        for (netns, targets) in &ways {
            for (kind, to) in Kind::ALL.into_iter().zip(*targets) {
                scope.spawn(move || netns.run(|| counts.keep(amount.streams, kind, to)));
            }
            scope.spawn(move || netns.run(|| counts.open(*targets)));
        }
        // Should it panic, the threads must still end.
        let result =
            catch_unwind(AssertUnwindSafe(|| disturb(&mut agents, pod, amount, &ways, counts)));
        counts.stop.store(true, Ordering::Relaxed);
        result
    })
    .unwrap_or_else(|panic| resume_unwind(panic))?;
    let [requests, fresh, repeated, resets, failed, moved] = [
        &counts.requests,
        &counts.fresh,
        &counts.repeated,
        &counts.resets,
        &counts.failed,
        &counts.moved,
    ]
    .map(Counts::get);
    let streams = amount.streams * ways.len();
    let Amount { kills, upgrades, .. } = amount;
    println!(
        "{streams} TCP streams and {streams} UDP flows: {requests} requests; {fresh} more \
         connections and flows, {alone} of them while no agent ran; {kills} kills, {upgrades} \
         upgrades; {resets} resets, {failed} failed, {moved} changed their backend, \
         {repeated} datagrams sent again; {:.0?}",
        begin.elapsed()
    );
    let first = counts.first.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(resets + failed + moved == 0, "{}", first.join("; "));
    // A path that loses packets must not hide behind repetition.
    ensure!(repeated * 1000 <= requests, "{repeated} datagrams were sent again");
    Ok(())
}

/// Waits for the streams, then disturbs the agents and leaves none; how many
/// new clients there were without any.
fn disturb(
    agents: &mut [Agent],
    pod: &Namespace,
    amount: Amount,
    ways: &[Way<'_>],
    counts: &Counts,
) -> Result<u64> {
    let all = u64::try_from(2 * ways.len() * amount.streams)?;
    deadline::until("the streams to open", Duration::from_mins(2), || {
        (Counts::get(&counts.open) == all).then_some(())
    })?;
    thread::scope(|scope| {
        let lives: Vec<_> =
            agents.iter_mut().map(|agent| scope.spawn(|| life(agent, pod, amount))).collect();
        lives
            .into_iter()
            .try_for_each(|life| life.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    let before = Counts::get(&counts.fresh);
    thread::sleep(amount.away);
    let alone = deadline::until("new clients while no agent runs", Duration::from_mins(1), || {
        Some(Counts::get(&counts.fresh) - before).filter(|alone| *alone > ALONE)
    })?;
    for agent in agents.iter_mut() {
        agent.run()?;
        agent.ready()?;
    }
    Ok(alone)
}
