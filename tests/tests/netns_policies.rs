//! Policies by annotation, changed while the Service is in use.

use anyhow::{Context as _, Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn web(topology: &Topology, policy: &'static str) -> Service {
    let service = Service::new("web", 1).http(30080).policy(policy);
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    service.endpoint(one, &one.pods[1]).endpoint(two, &two.pods[0]).endpoint(two, &two.pods[1])
}

#[test]
fn a_policy_is_in_force_as_soon_as_its_annotation_says_so() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web(topology, "random")])?;
    let client = &cluster.pod(0, 0).netns;
    for (policy, reached) in [
        ("source-hash", 1),
        ("maglev", 3),
        ("source-hash", 1),
        ("least-connections", 3),
        ("source-hash", 1),
        ("round-robin", 3),
    ] {
        cluster.publish(&[web(&cluster.topology, policy)])?;
        for to in web(&cluster.topology, policy).addresses.both() {
            let mut seen = BTreeSet::new();
            deadline::until("the policy in force", Duration::from_secs(5), || {
                seen.clear();
                for _ in 0..30 {
                    let answer = client.run(|| Kind::Http.ask((to, 80).into())).ok()?.ok()?;
                    seen.insert(answer.backend);
                }
                (seen.len() == reached).then_some(())
            })
            .with_context(|| format!("{policy}, {to}: {seen:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_backend_that_joins_begins_with_a_tenth_and_has_its_whole_share_in_the_end() -> Result<()> {
    const REQUESTS: u64 = 44;
    const RAMP: Duration = Duration::from_secs(20);
    if !root_or_skip() {
        return Ok(());
    }
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--slow-start", "20s"];
    let joined = |topology: &Topology, pods: usize| {
        let two = &topology.nodes[1];
        let service = Service::new("web", 1).http(30080);
        two.pods[..pods].iter().fold(service, |service, pod| service.endpoint(two, pod))
    };
    let cluster = Cluster::new(setup, |topology| vec![joined(topology, 1)])?;
    let client = &cluster.pod(0, 0).netns;
    let to = (joined(&cluster.topology, 1).addresses.v4, 80).into();
    let share_of_new = || -> Result<u64> {
        let tally = Tally::of(client, Kind::Http, to, REQUESTS)?;
        Ok(tally.backends.get("pod-2b").copied().unwrap_or_default())
    };
    let begin = Instant::now();
    cluster.publish(&[joined(&cluster.topology, 2)])?;
    let limit = RAMP + Duration::from_secs(20);
    deadline::until("the new backend", limit, || (share_of_new().ok()? > 0).then_some(()))?;
    let first = share_of_new()?;
    // One of eleven; a third of the way it may be half of the others' share.
    if begin.elapsed() < RAMP / 3 {
        ensure!(first <= REQUESTS / 3, "{first} of {REQUESTS} at first");
    }
    deadline::until("an equal share", limit, || {
        let share = share_of_new().ok()?;
        (share.abs_diff(REQUESTS / 2) <= 1).then_some(())
    })?;
    Ok(())
}
