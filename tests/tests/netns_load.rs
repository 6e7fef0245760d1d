//! Endpoints that change under load, without a lost request. Apart from the
//! other tests of changes, whose time limits it would strain.

use anyhow::Result;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::privilege::{quick, root_or_skip};
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Load};
use std::time::{Duration, Instant};

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

/// Requests of both protocols and families, from inside and outside, while the
/// endpoints change a hundred times; all backends live all the time.
#[test]
fn no_request_fails_over_a_hundred_changes() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let changes = 100;
    let requests = if quick() { 5_000 } else { 100_000 };
    let cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let topology = &cluster.topology;
    let mut targets = Vec::new();
    for kind in Kind::ALL {
        for address in web().addresses.both() {
            targets.push((&cluster.pod(0, 0).netns, kind, (address, kind.port()).into()));
        }
        let port = if kind == Kind::Http { 30080 } else { 30053 };
        let address = cluster.node(0).addresses.both()[0];
        targets.push((&topology.client, kind, (address, port).into()));
    }
    let begin = Instant::now();
    let ((), tally) = Load::run(&targets, |load| {
        for change in 0..changes {
            let due = requests / changes * (change + 1);
            deadline::until("the load to proceed", Duration::from_mins(1), || {
                (load.requests() >= due).then_some(())
            })?;
            // Any but the empty subset of the four pods.
            let set = 1 + change * 7 % 15;
            let pods = topology.pods().enumerate().filter(|(bit, _)| set & (1 << bit) != 0);
            cluster.publish(&[web().endpoints(pods.map(|(_, pod)| pod))])?;
        }
        Ok(())
    })?;
    println!("{} requests in {:?}: {tally}", tally.total(), begin.elapsed());
    tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])
}
