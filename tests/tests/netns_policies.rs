//! Policies by annotation, changed while the Service is in use.

use anyhow::{Context as _, Result};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::Kind;
use std::collections::BTreeSet;
use std::time::Duration;

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
