//! Counters of Services and backends agree with what was sent, and with each
//! other.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::{Answer, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use serde_json::Value;
use std::net::SocketAddr;

const REQUESTS: u64 = 50;

#[test]
fn counters_add_up_through_tc() -> Result<()> {
    counters(Setup::tc(Wiring::Routed))
}

#[test]
fn counters_add_up_with_native_xdp() -> Result<()> {
    counters(Setup::xdp(Wiring::Routed, "native"))
}

fn counters(setup: Setup) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(setup, |topology| {
        vec![Service::new("web", 1).http(30080).udp(30053).endpoints(topology.pods())]
    })?;
    let web = Service::new("web", 1);
    let node = cluster.node(0).addresses.both();
    let mut answered = [Tally::default(), Tally::default()];
    for (kind, all) in Kind::ALL.into_iter().zip(&mut answered) {
        let port = if kind == Kind::Http { 30080 } else { 30053 };
        for (netns, address, port) in [
            (&cluster.pod(0, 0).netns, web.addresses.both()[0], kind.port()),
            (&cluster.pod(0, 1).netns, web.addresses.both()[1], kind.port()),
            (&cluster.topology.client, node[0], port),
            (&cluster.topology.client, node[1], port),
        ] {
            let to = (address, port).into();
            match kind {
                Kind::Http => all.merge(Tally::of(netns, kind, to, REQUESTS)?),
                Kind::Udp => {
                    for port in 40_000..40_000 + REQUESTS {
                        all.answer(netns.run(|| echo_from(port, to))??);
                    }
                }
            }
            ensure!(all.failures.is_empty(), "{:?}", all.failures);
        }
    }
    let services = cluster.agents[0].services()?;
    for (kind, all) in Kind::ALL.into_iter().zip(&answered) {
        let service = services
            .iter()
            .find(|service| service["port"] == kind.port() && service["name"] == "web")
            .with_context(|| format!("port {} of web is not listed: {services:?}", kind.port()))?;
        agree(service, kind, all).with_context(|| format!("{service:#}"))?;
    }
    // Nothing of it was translated on the other node.
    for service in cluster.agents[1].services()? {
        ensure!(number(&service, "connections")? == 0, "counted on the wrong node: {service:#}");
    }
    Ok(())
}

/// From a port that no other request has: a port that happens to be taken twice
/// would be one flow of two datagrams.
fn echo_from(port: u64, to: SocketAddr) -> std::io::Result<Answer> {
    let port = u16::try_from(port).map_err(std::io::Error::other)?;
    Datagrams::open_from(port, to)?.echo("hello")
}

fn agree(service: &Value, kind: Kind, all: &Tally) -> Result<()> {
    let backends = service["backends"].as_array().context("no backends")?;
    for name in ["connections", "packets_in", "packets_out", "bytes_in", "bytes_out"] {
        let sum: u64 = backends.iter().map(|backend| number(backend, name)).sum::<Result<_>>()?;
        ensure!(sum == number(service, name)?, "{name}: the backends' sum is {sum}");
    }
    // Both families of a pod are backends of their own.
    ensure!(backends.len() == 2 * all.backends.len());
    let requests = all.answered();
    let connections = number(service, "connections")?;
    ensure!(connections == requests, "{connections} connections, but {requests} requests");
    let (incoming, outgoing) = (number(service, "packets_in")?, number(service, "packets_out")?);
    match kind {
        Kind::Udp => {
            ensure!(incoming == requests, "{incoming} datagrams came in of {requests}");
            ensure!(outgoing == requests, "{outgoing} datagrams went out of {requests}");
        }
        // SYN, ACK, request, FIN at least; a handful more at most.
        Kind::Http => {
            ensure!((4 * requests..=9 * requests).contains(&incoming), "{incoming} packets in");
            ensure!((3 * requests..=9 * requests).contains(&outgoing), "{outgoing} packets out");
        }
    }
    ensure!(number(service, "bytes_in")? > 28 * incoming, "too few bytes for the headers");
    Ok(())
}

fn number(value: &Value, name: &str) -> Result<u64> {
    value[name].as_u64().with_context(|| format!("{name} is missing"))
}
