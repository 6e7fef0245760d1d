//! Agents are killed again and again, whatever they are just doing, while
//! endpoints come and go and requests never stop.
//!
//! `LB_CRASH_KILLS` sets the number of kills; `LB_SEED` repeats their times.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::{self, patient};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::{quick, root_or_skip};
use lb_tests::prog::Random;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Load, Tally};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How many kills, and in which time: a busy machine does fewer, unless it is
/// told how many.
fn kills() -> (usize, Duration) {
    let asked = std::env::var("LB_CRASH_KILLS").ok().and_then(|number| number.parse().ok());
    match asked {
        Some(kills) => (kills, Duration::MAX),
        None if quick() => (100, Duration::from_secs(10)),
        None => (100, Duration::from_secs(40)),
    }
}

/// How long an agent lives at most that is killed while it starts, in
/// milliseconds.
const LONGEST: usize = 600;

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn api() -> Service {
    Service::new("api", 2).http(0).udp(0)
}

/// The Services at one time: each of the first two has one of two endpoints of
/// its own or both, and others come and go.
fn services(topology: &Topology, random: &mut Random) -> Vec<Service> {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    let some = |service: Service, pod: usize, random: &mut Random| match random.below(3) {
        0 => service.endpoint(one, &one.pods[pod]),
        1 => service.endpoint(two, &two.pods[pod]),
        _ => service.endpoint(one, &one.pods[pod]).endpoint(two, &two.pods[pod]),
    };
    let policy = random.pick(&["round-robin", "random", "source-hash", "least-connections"]);
    let mut services = vec![some(web(), 1, random).policy(policy), some(api(), 0, random)];
    for (number, name) in (3..).zip(["a", "b", "c", "d"]) {
        if random.one_in(2) {
            services.push(some(Service::new(name, number).http(0), random.below(2), random));
        }
    }
    services
}

/// How agents were killed.
#[derive(Debug, Default)]
struct Lives {
    kills: usize,
    /// Those at some moment of the start.
    starting: usize,
}

/// Runs an agent for a moment, in which what is desired changes.
fn live(
    agent: &mut Agent,
    random: &mut Random,
    lives: &mut Lives,
    publish: &mut impl FnMut(&mut Random) -> Result<()>,
) -> Result<()> {
    let found = std::fs::read_to_string(agent.log()).unwrap_or_default().matches(FOUND).count();
    agent.run()?;
    // Half of them die while they start, the others while they write.
    if random.one_in(2) {
        deadline::until("an agent at work", patient(Duration::from_secs(20)), || {
            let log = std::fs::read_to_string(agent.log()).ok()?;
            (log.matches(FOUND).count() > found).then_some(())
        })?;
        publish(random)?;
        pass(Duration::from_micros(u64::try_from(random.below(40_000))?));
    } else {
        publish(random)?;
        pass(Duration::from_millis(u64::try_from(random.below(LONGEST))?));
        lives.starting += 1;
    }
    agent.kill();
    lives.kills += 1;
    Ok(())
}

/// Lets time pass: nothing is waited for, any moment will do.
fn pass(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::thread::yield_now();
    }
}

/// What an agent says when it has adopted what is there.
const FOUND: &str = "Service ports found in force";

#[test]
fn requests_go_on_while_agents_are_killed_at_any_moment() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut random = Random::seeded();
    let mut setup = Setup::tc(Wiring::Routed);
    // Nobody lives for long enough to remove flows that are over.
    setup.agent.more = &["--flows-v4", "524288", "--flows-v6", "524288"];
    let mut cluster = Cluster::new(setup, |topology| services(topology, &mut random))?;
    let mut agents = std::mem::take(&mut cluster.agents);
    agents.iter_mut().for_each(Agent::kill);
    let pod = &cluster.pod(0, 0).netns;
    let client = &cluster.topology.client;
    let node = cluster.node(0).addresses.both();
    let mut targets: Vec<Target<'_>> = vec![
        (pod, Kind::Http, web().http_addresses()[0]),
        (pod, Kind::Udp, web().udp_addresses()[1]),
        (client, Kind::Http, (node[0], 30080).into()),
        // No datagrams: each would hold one of this node's ports for half a minute,
        // and there are more of them than ports.
        (client, Kind::Http, (node[1], 30080).into()),
    ];
    let begin = Instant::now();
    let (lives, tally) = Load::run(&targets, |load| {
        let mut lives = Lives::default();
        let mut publish =
            |random: &mut Random| cluster.publish(&services(&cluster.topology, random));
        let (most, limit) = kills();
        while lives.kills < most && begin.elapsed() < limit {
            let index = lives.kills % agents.len();
            live(&mut agents[index], &mut random, &mut lives, &mut publish)?;
        }
        let goal = load.requests() + 50;
        deadline::until("requests to go on", Duration::from_secs(20), || {
            (load.requests() >= goal).then_some(())
        })?;
        Ok(lives)
    })?;
    let requests = tally.total();
    println!("{lives:?}, {requests} requests, {:?}: {tally}", begin.elapsed());
    for failure in &tally.failures {
        println!("{failure}");
    }
    tally.expect(&["pod-1b", "pod-2b"]).context("the first Service's endpoints")?;

    // The next agents make it exact.
    cluster.publish(&[web().endpoint(cluster.node(1), cluster.pod(1, 1)), api()])?;
    for agent in &mut agents {
        agent.run()?;
        agent.ready()?;
        let names: Vec<_> = agent.services()?.iter().map(|one| one["name"].clone()).collect();
        ensure!(names == ["api", "api", "web", "web"], "left behind: {names:?}");
    }
    targets.truncate(2);
    let asked = |targets: &[Target<'_>]| -> Result<()> {
        for (netns, kind, to) in targets {
            Tally::of(netns, *kind, *to, 20)?.expect(&["pod-2b"])?;
        }
        Ok(())
    };
    asked(&targets)?;

    // A first start that is killed on its way is no obstacle, either.
    let agent = &mut agents[0];
    agent.terminate()?;
    agent.cleanup()?;
    let mut first = Lives::default();
    while first.kills < 5 {
        live(agent, &mut random, &mut first, &mut |_| Ok(()))?;
    }
    agent.run()?;
    agent.ready()?;
    asked(&targets)
}

/// Whom a client asks.
type Target<'a> = (&'a Namespace, Kind, SocketAddr);
