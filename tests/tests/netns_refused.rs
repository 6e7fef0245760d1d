//! What is not served is refused at once: Services without endpoints, and
//! ports that a Service's address does not have.

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::Kind;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A refusal takes microseconds; a SYN that is repeated takes a second.
const AT_ONCE: Duration = Duration::from_millis(500);

const NODE_PORTS: (u16, u16) = (30080, 30053);

#[test]
fn services_without_endpoints_and_unknown_ports() -> Result<()> {
    refusals(Setup::tc(Wiring::Routed))
}

#[test]
fn services_without_endpoints_and_unknown_ports_behind_a_bridge() -> Result<()> {
    refusals(Setup::tc(Wiring::Bridged))
}

#[test]
fn services_without_endpoints_and_unknown_ports_with_xdp() -> Result<()> {
    refusals(Setup::xdp(Wiring::Routed, "native"))
}

fn refusals(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        vec![
            Service::new("none", 1).http(NODE_PORTS.0).udp(NODE_PORTS.1),
            Service::new("some", 2).http(0).udp(0).endpoints(topology.pods()),
        ]
    })?;
    let pod = &cluster.pod(0, 0).netns;
    let [none, some] = [1, 2].map(|number| Service::new("", number).addresses.both());
    for kind in Kind::ALL {
        for address in none {
            refused(pod, kind, (address, kind.port()).into()).context("no endpoints")?;
        }
        for address in some {
            refused(pod, kind, (address, 4711).into()).context("unknown port")?;
        }
        let port = if kind == Kind::Http { NODE_PORTS.0 } else { NODE_PORTS.1 };
        for address in cluster.node(0).addresses.both() {
            refused(&cluster.topology.client, kind, (address, port).into())
                .context("node port without endpoints")?;
        }
    }
    Ok(())
}

fn refused(from: &Namespace, kind: Kind, to: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    match from.run(|| kind.ask(to))? {
        Ok(answer) => bail!("{} answered {kind} to {to}", answer.backend),
        Err(error) if error.kind() != ErrorKind::ConnectionRefused => {
            bail!("{kind} to {to}: {error}, instead of a refusal")
        }
        Err(_) => {
            ensure!(
                begin.elapsed() < AT_ONCE,
                "{kind} to {to}: refused after {:?}",
                begin.elapsed()
            );
            Ok(())
        }
    }
}
