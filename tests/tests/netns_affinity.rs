//! Session affinity as clients see it, switched on and off while they ask.

use anyhow::{Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(3);
const NODE_PORTS: (u16, u16) = (30_080, 30_053);

fn service(topology: &Topology, affinity: &str) -> Service {
    Service::new("web", 1)
        .http(NODE_PORTS.0)
        .udp(NODE_PORTS.1)
        .endpoints(topology.pods())
        .with(json!({ "spec": { "sessionAffinity": affinity } }))
}

/// Fifteen requests, as the conformance tests send: one backend, or several.
fn sticks(client: &Namespace, kind: Kind, to: SocketAddr) -> Result<bool> {
    let tally = Tally::of(client, kind, to, 15)?;
    ensure!(tally.failures.is_empty(), "{tally}");
    Ok(tally.backends.len() == 1)
}

#[test]
fn session_affinity_is_switched_live() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let setups = [Setup::tc(Wiring::Routed), Setup::xdp(Wiring::Routed, "native")];
    for setup in setups {
        let cluster = Cluster::new(setup, |topology| vec![service(topology, "None")])?;
        let topology = &cluster.topology;
        let node = topology.nodes[0].addresses;
        for (client, outside) in [(&cluster.pod(0, 0).netns, false), (&topology.client, true)] {
            for kind in Kind::ALL {
                let port = if kind == Kind::Http { NODE_PORTS.0 } else { NODE_PORTS.1 };
                let addresses = Service::new("", 1).addresses.both();
                let targets = addresses.map(|address| (address, kind.port()).into());
                let node = node.both().map(|address| (address, port).into());
                for to in if outside { node } else { targets } {
                    for affinity in ["ClientIP", "None", "ClientIP"] {
                        cluster.publish(&[service(topology, affinity)])?;
                        let what = format!("{affinity} for {kind} to {to}");
                        deadline::until_ok(&what, SOON, || {
                            ensure!(sticks(client, kind, to)? == (affinity == "ClientIP"));
                            Ok(())
                        })?;
                    }
                }
            }
        }
    }
    Ok(())
}
