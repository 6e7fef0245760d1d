//! Pods and cluster addresses: same node, other node, the pod itself, both
//! protocols and families, pods with a link each and pods behind a bridge.

use anyhow::{Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};

const REQUESTS: u64 = 12;

#[test]
fn routed_pods_reach_services_with_their_own_address() -> Result<()> {
    pods_reach_services(Setup::tc(Wiring::Routed))
}

#[test]
fn bridged_pods_reach_services_with_their_own_address() -> Result<()> {
    pods_reach_services(Setup::tc(Wiring::Bridged))
}

#[test]
fn clsact_serves_like_tcx() -> Result<()> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.tc = "clsact";
    pods_reach_services(setup)
}

#[test]
fn xdp_on_the_uplink_leaves_pods_their_services() -> Result<()> {
    pods_reach_services(Setup::xdp(Wiring::Routed, "native"))
}

fn pods_reach_services(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
        vec![
            Service::new("near", 1).http(0).udp(0).endpoint(one, &one.pods[1]),
            Service::new("far", 2).http(0).udp(0).endpoint(two, &two.pods[0]),
            Service::new("all", 3).http(0).udp(0).policy("random").endpoints(topology.pods()),
        ]
    })?;
    let [near, far, all] = [1, 2, 3].map(|number| Service::new("", number));
    let client = cluster.pod(0, 0);
    let every = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];
    for kind in Kind::ALL {
        for (service, backends, count) in [
            (&near, &["pod-1b"][..], REQUESTS),
            (&far, &["pod-2a"][..], REQUESTS),
            (&all, &every[..], 10 * REQUESTS),
        ] {
            for address in service.addresses.both() {
                let tally = Tally::of(&client.netns, kind, (address, kind.port()).into(), count)?;
                tally.expect(backends)?;
                // To itself, a pod must not be the peer: it would answer past us.
                if !backends.contains(&"pod-1a") {
                    let own = client.addresses.like(address);
                    ensure!(tally.peers == [own].into(), "backends saw {:?}", tally.peers);
                    ensure!(tally.moved_ports == 0, "{kind}: source ports were changed");
                }
            }
        }
        hairpin(&cluster.pod(0, 1).netns, &near, kind)?;
    }
    Ok(())
}

/// A pod that is the only backend of the Service it asks.
fn hairpin(pod: &Namespace, service: &Service, kind: Kind) -> Result<()> {
    for address in service.addresses.both() {
        Tally::of(pod, kind, (address, kind.port()).into(), REQUESTS)?.expect(&["pod-1b"])?;
    }
    Ok(())
}

#[test]
fn round_robin_takes_turns() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        vec![Service::new("web", 1).http(0).policy("round-robin").endpoints(topology.pods())]
    })?;
    let to = Service::new("web", 1).http_addresses()[0];
    let tally = Tally::of(&cluster.pod(0, 0).netns, Kind::Http, to, 200)?;
    // Turns are taken on each CPU by itself, so that shares differ a little.
    for (backend, count) in &tally.backends {
        ensure!((40..=60).contains(count), "{backend} got {count} of 200: {tally}");
    }
    tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])
}
