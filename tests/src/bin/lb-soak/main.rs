//! `cargo xtask soak`: three nodes, on which clients of all kinds ask Services
//! that change all the time, while agents are killed, replaced and absent and
//! other things go wrong. Each answer is judged, and nothing may grow.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

mod agents;
mod clients;
mod faults;
mod memory;
mod oracle;
mod report;
mod services;
mod tally;

use agents::{Addresses, Seat};
use anyhow::{Context as _, Result, bail};
use clients::Judge;
use lb_tests::agent::{Agent, Options};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::netns::Naming;
use lb_tests::prog::Random;
use lb_tests::topology::{Plan, Wiring};
use lb_tests::{deadline, interrupt, privilege};
use memory::Samples;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oracle::Oracle;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};
use tally::Tally;

const SETUP: Setup = Setup {
    plan: Plan {
        wiring: Wiring::Routed,
        nodes: 3,
        // A client, two backends, and one on which faults are tried.
        pods: 4,
        offload: false,
        naming: Naming::Unique,
    },
    agent: Options { xdp: "native", tc: "auto", more: &["--nodeport-addresses", "all"] },
};

/// Between two changes of the Services, in milliseconds.
const CHANGES: (usize, usize) = (100, 700);

/// How long it may take until everything is in force, at the start and at the end.
const SETTLED: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    if !privilege::root_or_skip() {
        eprintln!("error: this loads BPF programs, so it needs root");
        return ExitCode::FAILURE;
    }
    interrupt::install();
    match minutes().and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn minutes() -> Result<u64> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: lb-soak --minutes N";
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("--minutes"), Some(count)) => count.parse().context(usage),
        _ => bail!(usage),
    }
}

/// Everything that the threads share.
struct World {
    cluster: Cluster,
    seats: Vec<Seat>,
    addresses: Addresses,
    names: Vec<String>,
    oracle: Oracle,
    tally: Tally,
}

impl World {
    /// Makes the cluster, with the first version of the Services in force.
    fn new() -> Result<(Self, Vec<Agent>)> {
        let mut cluster = Cluster::without_agents(SETUP)?;
        let backends = services::backends(&cluster.topology);
        let pods = || backends.iter().map(|(node, pod)| cluster.pod(*node, *pod));
        let (addresses, names) = pods().map(|pod| (pod.addresses.both(), pod.name.clone())).unzip();
        let oracle = Oracle::new(cluster.topology.nodes.len());
        let first = services::first(backends.len());
        oracle.publish(0, first.clone(), Instant::now());
        cluster.publish(&services::manifests(&first, 0, &cluster.topology))?;
        cluster.start_agents()?;
        let agents = std::mem::take(&mut cluster.agents);
        let seats = agents.iter().enumerate().map(|(node, agent)| Seat::new(node, agent));
        let seats = seats.collect();
        let tally = Tally::default();
        Ok((Self { cluster, seats, addresses, names, oracle, tally }, agents))
    }

    /// Waits until a version is in force on all nodes.
    fn settle(&self, version: u64) -> Result<()> {
        for seat in &self.seats {
            let maps = agents::open(&seat.pin_dir)?;
            deadline::until("the Services to be in force", SETTLED, || {
                let seen = agents::in_force(&maps, &self.addresses, &self.oracle).ok()??;
                (seen == version).then_some(())
            })?;
        }
        Ok(())
    }

    /// Rows of the maps in which only what is desired has some, by node.
    fn rows(&self) -> Result<Vec<memory::Rows>> {
        self.seats.iter().map(|seat| Ok(memory::rows(&seat.pin_dir)?.0)).collect()
    }

    /// Writes one version after the other; the number of the last.
    fn change(&self, mut random: Random) -> Result<u64> {
        let count = self.names.len();
        let mut state = services::first(count);
        let mut version = 0;
        while self.tally.going() {
            services::change(&mut state, &mut random, count);
            version += 1;
            self.write(version, &state)?;
            self.tally.changes.one();
            let pause = CHANGES.0 + random.below(CHANGES.1 - CHANGES.0);
            self.tally.rest(Duration::from_millis(pause.try_into()?));
        }
        version += 1;
        self.write(version, &services::first(count))?;
        Ok(version)
    }

    fn write(&self, version: u64, state: &services::State) -> Result<()> {
        self.oracle.publish(version, state.clone(), Instant::now());
        self.cluster.publish(&services::manifests(state, version, &self.cluster.topology))
    }
}

fn run(minutes: u64) -> Result<bool> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    let mut random = Random::seeded();
    let (world, mut agents) = World::new()?;
    world.settle(0)?;
    let rows = world.rows()?;
    report::begin(&world.cluster, minutes);
    let mut samples = Samples::default();
    let version = AtomicU64::new(0);
    thread::scope(|scope| {
        start(scope, &world, &mut agents, &version, &mut random);
        let watched = catch_unwind(AssertUnwindSafe(|| follow(&world, minutes, &mut samples)));
        // Whatever becomes of it, the threads must end.
        world.tally.stop();
        watched.unwrap_or_else(|panic| resume_unwind(panic))
    })?;
    world.settle(version.into_inner())?;
    samples.take(&world.seats)?;
    // Ids and slots rest for a while before they are free again.
    let same = deadline::until("the maps to be as at the start", SETTLED, || {
        (world.rows().ok()? == rows).then_some(())
    });
    let grown = match same {
        Ok(()) => None,
        Err(_late) => Some(memory::difference(&rows, &world.rows()?)),
    };
    Ok(report::end(&world.tally, &samples, grown.as_deref()))
}

/// Starts all that goes on at once.
fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    world: &'scope World,
    agents: &'scope mut [Agent],
    version: &'scope AtomicU64,
    random: &mut Random,
) {
    let World { cluster, seats, addresses, names, oracle, tally } = world;
    let mut work =
        |name: &'static str, work: Box<dyn FnOnce(Random) -> Result<()> + Send + 'scope>| {
            let random = random.fork();
            scope.spawn(move || {
                // What can't go on ends the soak.
                if let Err(error) = work(random) {
                    tally.note(&tally.lasting, format!("{name}: {error:#}"));
                    tally.stop();
                }
            });
        };
    for place in clients::places(cluster) {
        let judge = Judge { oracle, tally, names };
        work("short", Box::new(move |random| place.enter(|| place.short(&judge, random))));
        work("long", Box::new(move |random| place.enter(|| place.long(&judge, random))));
    }
    for seat in seats {
        work("watch", Box::new(move |_| agents::watch(seat, addresses, oracle, tally)));
        work(
            "faults",
            Box::new(move |random| {
                faults::inject(cluster, seat.node, &seat.pin_dir, tally, random)
            }),
        );
    }
    // The last agent lives as long as the soak: its memory tells.
    let disturbed = seats.len() - 1;
    for (agent, seat) in agents.iter_mut().zip(seats).take(disturbed) {
        work("agents", Box::new(move |random| agents::disturb(agent, seat, tally, random)));
    }
    work(
        "changes",
        Box::new(move |random| {
            version.store(world.change(random)?, Ordering::Relaxed);
            Ok(())
        }),
    );
}

/// Tells each minute how it goes, until the time is over.
fn follow(world: &World, minutes: u64, samples: &mut Samples) -> Result<()> {
    let tally = &world.tally;
    for minute in 1..=minutes {
        tally.rest(Duration::from_mins(1));
        if interrupt::seen() {
            bail!("interrupted");
        }
        if !tally.going() {
            return Ok(());
        }
        samples.take(&world.seats)?;
        report::minute(minute, tally, samples);
    }
    Ok(())
}
