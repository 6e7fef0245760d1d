//! The agent ends, dies, starts again and cleans up, while packets keep
//! flowing until they must not.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Load, Tally};
use lb_tests::{deadline, ip};
use std::collections::BTreeSet;
use std::time::Duration;

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn setups() -> [Setup; 3] {
    let mut clsact = Setup::tc(Wiring::Routed);
    clsact.agent.tc = "clsact";
    [Setup::tc(Wiring::Bridged), Setup::xdp(Wiring::Routed, "native"), clsact]
}

#[test]
fn requests_go_on_while_agents_end_die_and_start_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in setups() {
        let mut cluster = Cluster::new(setup, |topology| {
            let two = &topology.nodes[1];
            vec![web().endpoint(two, &two.pods[0]).endpoint(two, &two.pods[1])]
        })?;
        let mut agents = std::mem::take(&mut cluster.agents);
        let pod = &cluster.pod(0, 0).netns;
        let to = web().http_addresses();
        let mut open = pod.run(|| Connection::open(to[1]))??;
        let backend = open.get()?.backend;
        let node = cluster.node(0).addresses.both();
        let targets = [
            (pod, Kind::Http, to[0]),
            (pod, Kind::Udp, web().udp_addresses()[1]),
            (&cluster.topology.client, Kind::Http, (node[0], 30080).into()),
        ];
        let ((), tally) = Load::run(&targets, |load| {
            let some_requests = || {
                let goal = load.requests() + 200;
                deadline::until("requests to go on", Duration::from_secs(20), || {
                    (load.requests() >= goal).then_some(())
                })
            };
            some_requests()?;
            for agent in &mut agents {
                agent.terminate()?;
            }
            some_requests()?;
            for agent in &mut agents {
                agent.run()?;
                agent.ready()?;
            }
            some_requests()?;
            for agent in &mut agents {
                agent.kill();
            }
            some_requests()?;
            for agent in &mut agents {
                agent.run()?;
                agent.ready()?;
            }
            some_requests()
        })?;
        tally.expect(&["pod-2a", "pod-2b"]).with_context(|| format!("{setup:?}"))?;
        ensure!(open.get()?.backend == backend, "the open connection moved");
        // The new agents do their work: a change gets through.
        let one = &cluster.topology.nodes[0];
        cluster.publish(&[web().endpoint(one, &one.pods[1])])?;
        deadline::until_ok("a change after the restart", Duration::from_secs(2), || {
            Tally::of(pod, Kind::Http, to[0], 1)?.expect(&["pod-1b"])
        })?;
        drop(agents);
    }
    Ok(())
}

#[test]
fn changes_made_while_the_agent_was_away_are_made_up_for() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![web().endpoint(two, &two.pods[0]), Service::new("old", 2).http(0)]
    })?;
    cluster.agents[0].terminate()?;
    let one = &cluster.topology.nodes[0];
    let fresh = Service::new("new", 3).http(0).endpoint(one, &one.pods[1]);
    cluster.publish(&[web().endpoint(one, &one.pods[1]), fresh.clone()])?;
    let index = cluster.add_pod(0)?;
    cluster.agents[0].run()?;
    cluster.agents[0].ready()?;
    // The pod that started meanwhile is a client like any other.
    let pod = &cluster.pod(0, index).netns;
    for to in web().http_addresses().into_iter().chain(fresh.http_addresses()) {
        Tally::of(pod, Kind::Http, to, 4)?.expect(&["pod-1b"])?;
    }
    let names: Vec<_> = cluster.agents[0].services()?.iter().map(|s| s["name"].clone()).collect();
    ensure!(!names.contains(&"old".into()), "the removed Service is still listed: {names:?}");
    Ok(())
}

#[test]
fn cleanup_leaves_nothing_behind() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in setups() {
        let mut cluster = Cluster::new(setup, |topology| vec![web().endpoints(topology.pods())])?;
        let mut agent = cluster.agents.remove(0);
        let netns = &cluster.node(0).netns;
        let ids = program_ids(netns, &agent)?;
        ensure!(ids.len() >= 2, "bpftool sees too few of our programs: {ids:?}");
        agent.terminate()?;
        agent.cleanup()?;
        ensure!(!agent.pin_dir().exists(), "{} is still there", agent.pin_dir().display());
        let attached = netns.output("bpftool", &["net"])?;
        ensure!(!attached.contains("lb_"), "still attached: {attached}");
        let qdiscs = netns.output("tc", &["qdisc", "show"])?;
        ensure!(!qdiscs.contains("clsact"), "still there: {qdiscs}");
        // The kernel frees programs a moment after the last reference is gone.
        deadline::until("our programs to go", Duration::from_secs(5), || {
            let loaded = ip::command("bpftool", &["prog"]).ok()?;
            let ours = |id: &String| loaded.lines().any(|line| line.starts_with(&format!("{id}:")));
            (!ids.iter().any(ours)).then_some(())
        })?;
        // Once more, with nothing to do.
        agent.cleanup()?;
        // And it is no obstacle to a new start.
        agent.run()?;
        agent.ready()?;
        let to = web().http_addresses()[0];
        Tally::of(&cluster.pod(0, 0).netns, Kind::Http, to, 8)?;
    }
    Ok(())
}

/// The programs that are attached, by pinned links and by what bpftool sees.
fn program_ids(netns: &Namespace, agent: &Agent) -> Result<BTreeSet<String>> {
    let mut ids: BTreeSet<_> = agent.programs()?.values().map(u64::to_string).collect();
    let attached = netns.output("bpftool", &["net"])?;
    let words: Vec<&str> = attached.split_whitespace().collect();
    ids.extend(words.windows(2).filter(|pair| pair[0] == "id").map(|pair| pair[1].to_owned()));
    Ok(ids)
}
