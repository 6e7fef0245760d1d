//! Checksums that the sender left to a device, and that a device completes:
//! between virtual links they may stay open to the end, and nobody would see
//! what is wrong with them.

use anyhow::{Context as _, Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::Kind;
use std::io::ErrorKind;

const NODE_PORTS: (u16, u16) = (30080, 30053);

#[test]
fn what_a_device_completes_is_right() -> Result<()> {
    completed(Wiring::Routed)
}

#[test]
fn what_a_device_completes_is_right_behind_a_bridge() -> Result<()> {
    completed(Wiring::Bridged)
}

fn completed(wiring: Wiring) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(wiring), |topology| {
        let some = Service::new("some", 2).http(NODE_PORTS.0).udp(NODE_PORTS.1);
        vec![Service::new("none", 1).http(0).udp(0), some.endpoints(topology.pods())]
    })?;
    for node in &cluster.topology.nodes {
        let ends = node.pods.iter().map(|pod| pod.outer_end.as_str());
        for device in ends.chain(["eth0"]) {
            node.netns.output("ethtool", &["-K", device, "tx", "off"])?;
        }
    }
    let [none, some] = [1, 2].map(|number| Service::new("", number).addresses.both());
    let pod = &cluster.pod(0, 0).netns;
    for kind in Kind::ALL {
        for address in none {
            let answer = pod.run(|| kind.ask((address, kind.port()).into()))?;
            let refused =
                answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
            ensure!(refused, "{kind} to {address}: {answer:?} instead of a refusal");
        }
        // Every pod gets its turn: of this node and of the other, and the
        // client itself.
        for address in some {
            for _ in 0..8 {
                pod.run(|| kind.ask((address, kind.port()).into()))?
                    .with_context(|| format!("{kind} to {address}"))?;
            }
        }
        let port = if kind == Kind::Http { NODE_PORTS.0 } else { NODE_PORTS.1 };
        for address in cluster.node(0).addresses.both() {
            for _ in 0..8 {
                cluster
                    .topology
                    .client
                    .run(|| kind.ask((address, port).into()))?
                    .with_context(|| format!("{kind} to node port {port} of {address}"))?;
            }
        }
    }
    Ok(())
}
