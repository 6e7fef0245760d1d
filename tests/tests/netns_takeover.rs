//! `lb agent --takeover`: another agent in the place of the one at work, or a
//! sentence that says why not, with the old one still at work.

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::agent::{Agent, SOCKETS, metric};
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::process::{Process, binary};
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use nix::sys::signal::Signal;
use std::fs::File;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn cluster(setup: Setup) -> Result<Cluster> {
    Cluster::new(setup, |topology| {
        vec![web().endpoint(&topology.nodes[1], &topology.nodes[1].pods[0])]
    })
}

/// Whoever answers as the agent.
fn pid(agent: &Agent) -> Result<u64> {
    agent.status()?["agent"]["pid"].as_u64().context("no process id")
}

#[test]
fn a_new_agent_takes_the_place_of_the_old_one() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut clsact = Setup::tc(Wiring::Bridged);
    clsact.agent.tc = "clsact";
    for setup in [Setup::xdp(Wiring::Routed, "native"), clsact] {
        let mut cluster = cluster(setup)?;
        let mut agent = cluster.agents.remove(0);
        let pod = &cluster.pod(0, 0).netns;
        let to = web().http_addresses();
        let mut open = pod.run(|| Connection::open(to[1]))??;
        ensure!(open.get()?.backend == "pod-2a");
        let (old, before) = (pid(&agent)?, agent.programs()?);

        agent.take_over()?;
        ensure!(pid(&agent)? != old && agent.pid().map(u64::from) == Some(pid(&agent)?));
        let after = agent.programs()?;
        ensure!(before.keys().eq(after.keys()), "{before:?} and then {after:?}");
        for (link, program) in &after {
            ensure!(before[link] != *program, "{link} still runs program {program}");
        }
        ensure!(open.get()?.backend == "pod-2a");
        Tally::of(pod, Kind::Http, to[0], 10)?.expect(&["pod-2a"])?;
        // It has the ports of the old one, too, and does its work.
        metric(&cluster.node(0).netns, "lb_flows_expired_total{reason=\"closed\"}")?;
        let status = agent.status()?;
        ensure!(status["agent"]["healthz"] == "0.0.0.0:10256", "{}", status["agent"]);
        let one = &cluster.topology.nodes[0];
        cluster.publish(&[web().endpoint(one, &one.pods[1])])?;
        deadline::until_ok("a change after the takeover", Duration::from_secs(2), || {
            Tally::of(pod, Kind::Http, to[0], 1)?.expect(&["pod-1b"])
        })?;

        // With nobody to replace, it is a start like any other.
        agent.kill();
        agent.take_over()?;
        Tally::of(pod, Kind::Http, to[0], 10)?.expect(&["pod-1b"])?;
        let log = std::fs::read_to_string(agent.log())?;
        ensure!(log.matches("took over from process").count() == 1, "{log}");
    }
    Ok(())
}

#[test]
fn what_the_old_agent_still_puts_in_force_stays() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = cluster(Setup::tc(Wiring::Routed))?;
    let mut agent = cluster.agents.remove(0);
    let beside = format!("{}.sock.", cluster.node(0).netns.name());
    let pod = &cluster.pod(0, 0).netns;
    let to = web().http_addresses()[0];
    std::thread::scope(|scope| {
        let takeover = scope.spawn(|| agent.take_over());
        deadline::until("the new agent to have read its manifests", LIMIT, || {
            let mut sockets = std::fs::read_dir(SOCKETS).ok()?.flatten();
            sockets.find(|file| file.file_name().to_string_lossy().starts_with(&beside))
        })?;
        let one = &cluster.topology.nodes[0];
        cluster.publish(&[web().endpoint(one, &one.pods[1])])?;
        deadline::until_ok("the change by the old agent", LIMIT, || {
            Tally::of(pod, Kind::Http, to, 1)?.expect(&["pod-1b"])
        })?;
        // From here on, never again another backend.
        while !takeover.is_finished() {
            Tally::of(pod, Kind::Http, to, 20)?.expect(&["pod-1b"])?;
        }
        takeover.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Tally::of(pod, Kind::Http, to, 20)?.expect(&["pod-1b"])
}

/// Runs `lb agent` on the pins of another, to its end.
fn try_start(cluster: &Cluster, manifests: &Path, more: &[&str]) -> Result<Output> {
    let (agent, netns) = (&cluster.agents[0], &cluster.node(0).netns);
    let mut command = netns.command(&binary("lb")?);
    command.arg("agent").arg("--pin-dir").arg(agent.pin_dir());
    command.arg("--manifests").arg(manifests).args(["--node-name", "n1"]).args(more);
    command.output().context("start an agent")
}

#[test]
fn an_agent_that_can_not_start_leaves_the_old_one_at_work() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster(Setup::tc(Wiring::Routed))?;
    let agent = &cluster.agents[0];
    let (old, programs) = (pid(agent)?, agent.programs()?);
    let manifests = cluster.manifests.path();
    let foreign = cluster.node(0).netns.run(|| TcpListener::bind(("127.0.0.1", 9999)))??;
    let taken = ["--takeover", "--metrics-addr", "127.0.0.1:9999"];
    let unhealthy = ["--takeover", "--healthz-addr", "127.0.0.1:9999"];
    let elsewhere = ["--takeover", "--socket", "/run/lb/no-agent.sock"];
    for (manifests, more, reason) in [
        (manifests, &[][..], "replace it with --takeover"),
        (Path::new("/no-such-directory"), &["--takeover"], "/no-such-directory"),
        (manifests, &taken, "metrics can't be served on 127.0.0.1:9999"),
        (manifests, &unhealthy, "/healthz can't be served on 127.0.0.1:9999"),
        (manifests, &elsewhere, "is not who answers on /run/lb/no-agent.sock"),
        (manifests, &["--takeover", "--snat-ports", "9-1"], "above the last"),
    ] {
        let output = try_start(&cluster, manifests, more)?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && told.contains(reason), "{more:?}: {told}");
        ensure!(pid(agent)? == old, "{more:?} ended the old agent: {told}");
    }
    drop(foreign);
    ensure!(agent.programs()? == programs, "the links have other programs");
    let sockets = std::fs::read_dir(SOCKETS)?.flatten();
    let left = sockets.filter(|file| {
        file.file_name().as_encoded_bytes().starts_with(cluster.node(0).netns.name().as_bytes())
    });
    ensure!(left.count() == 1, "sockets were left behind");
    let pod = &cluster.pod(0, 0).netns;
    let one = &cluster.topology.nodes[0];
    cluster.publish(&[web().endpoint(one, &one.pods[1])])?;
    deadline::until_ok("the old agent at work", Duration::from_secs(2), || {
        Tally::of(pod, Kind::Http, web().http_addresses()[0], 1)?.expect(&["pod-1b"])
    })
}

#[test]
fn whoever_else_has_the_pins_is_not_ended() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = cluster(Setup::tc(Wiring::Routed))?;
    cluster.agents[0].terminate()?;
    // As `lb cleanup` has them, and this very test would be ended.
    let pins = File::open(cluster.agents[0].pin_dir())?;
    pins.lock()?;
    let output = try_start(&cluster, cluster.manifests.path(), &["--takeover"])?;
    let told = String::from_utf8_lossy(&output.stderr);
    let own = format!("process {} uses the pin directory", std::process::id());
    ensure!(!output.status.success() && told.contains(&own), "{told}");
    Ok(())
}

#[test]
fn an_agent_that_hangs_is_replaced_by_force() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = cluster(Setup::tc(Wiring::Routed))?;
    let mut agent = cluster.agents.remove(0);
    agent.signal(Signal::SIGSTOP)?;
    let netns = &cluster.node(0).netns;
    let mut command = netns.command(&binary("lb")?);
    command.arg("agent").arg("--takeover").arg("--pin-dir").arg(agent.pin_dir());
    command.arg("--manifests").arg(cluster.manifests.path()).args(["--node-name", "n1"]);
    command.stderr(Stdio::null());
    let mut new = Process::start(&mut command)?;
    let status = deadline::until("the agent that hangs to end", LIMIT * 2, || {
        agent.ended().map(Ok).or_else(|| new.ended().map(Err))
    })?;
    let Ok(status) = status else { bail!("the new agent ended: {status:?}") };
    ensure!(!status.success(), "{status}");
    agent.ready()?;
    ensure!(pid(&agent)? == u64::from(new.id()));
    let pod = &cluster.pod(0, 0).netns;
    Tally::of(pod, Kind::Http, web().http_addresses()[0], 10)?.expect(&["pod-2a"])
}
