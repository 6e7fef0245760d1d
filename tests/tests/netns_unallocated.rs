//! Addresses that the cluster keeps for Services and that no Service has. A host
//! beyond the nodes has one of them here, so that a packet that leaks is
//! answered.

use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::client;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::{HTTP_TARGET, Service, UDP_TARGET};
use lb_tests::netns::Namespace;
use lb_tests::path::ping;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Wiring};
use lb_tests::traffic::{Kind, Tally};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Within which a changed manifest must be in force.
const LIMIT: Duration = Duration::from_secs(5);
/// An error that needs no packet takes microseconds; to ask in vain for a neighbour
/// takes three seconds.
const AT_ONCE: Duration = Duration::from_secs(2);

const EVERY: [&str; 4] = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];

/// The address that somebody beyond the nodes has.
fn stranger() -> Addresses {
    Service::new("", 99).addresses
}

fn cidr(version: &str, ranges: &[&str]) -> String {
    json!({
        "apiVersion": format!("networking.k8s.io/{version}"), "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ranges },
    })
    .to_string()
}

#[test]
fn what_no_service_has_is_dropped_live_and_over_restarts() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = cluster(Setup::tc(Wiring::Routed))?;
    comes_and_goes(&cluster)?;
    outlives_the_agent(&mut cluster)
}

#[test]
fn what_no_service_has_is_dropped_behind_a_bridge_and_with_xdp() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    comes_and_goes(&cluster(Setup::xdp(Wiring::Bridged, "native"))?)
}

const RANGES: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];

fn web(cluster: &Cluster, number: u8) -> Service {
    Service::new("web", number).http(0).endpoints(cluster.topology.pods())
}

fn cluster(setup: Setup) -> Result<Cluster> {
    let mut cluster = Cluster::without_agents(setup)?;
    cluster.publish(&[web(&cluster, 1)])?;
    cluster.start_agents()?;
    let Addresses { v4, v6 } = stranger();
    cluster.topology.router.ip(&[
        format!("addr add {v4}/32 dev wire"),
        format!("addr add {v6}/128 dev wire nodad"),
        "route add 10.244.1.0/24 via 192.0.2.1".into(),
        "route add fd00:10:244:1::/64 via 2001:db8:2::1".into(),
    ])?;
    cluster.serve_in(|topology| &topology.router, "stranger", stranger())?;
    for netns in [&cluster.pod(0, 0).netns, &cluster.node(0).netns] {
        netns.sysctl("net.ipv4.ping_group_range", "0 0")?;
    }
    Ok(cluster)
}

fn comes_and_goes(cluster: &Cluster) -> Result<()> {
    leaks(cluster).context("without a ServiceCIDR")?;
    cluster.manifests.write("cidr.json", &cidr("v1", &RANGES))?;
    in_force(cluster, &RANGES)?;
    ends(cluster)?;
    let told = cluster.agents[0].text("status")?;
    ensure!(told.contains("CIDRs      10.96.0.0/16, fd00:10:96::/112\n"), "{told}");

    cluster.publish(&[web(cluster, 99)])?;
    for to in web(cluster, 99).http_addresses() {
        let pod = &cluster.pod(0, 0).netns;
        deadline::until_ok("a new Service", LIMIT, || {
            Ok(pod.run(|| Kind::Http.ask(to))?.map(drop)?)
        })?;
        Tally::of(pod, Kind::Http, to, 8)?.expect(&EVERY)?;
    }
    cluster.publish(&[web(cluster, 1)])?;
    let back =
        || cluster.agents[0].services().ok().filter(|s| s[0]["cluster_ips"][0] == "10.96.0.1");
    deadline::until("the Service moves back", LIMIT, back)?;
    pod_gets_nothing(cluster).context("after the Service went")?;

    let elsewhere = ["10.97.0.0/16", "fd00:10:97::/112"];
    cluster.manifests.write("cidr.json", &cidr("v1", &elsewhere))?;
    in_force(cluster, &elsewhere)?;
    leaks(cluster).context("with another range")?;
    std::fs::remove_file(cluster.manifests.path().join("cidr.json"))?;
    in_force(cluster, &[])?;
    leaks(cluster).context("after the ServiceCIDR went")
}

fn outlives_the_agent(cluster: &mut Cluster) -> Result<()> {
    cluster.manifests.write("cidr.json", &cidr("v1beta1", &RANGES))?;
    in_force(cluster, &RANGES)?;
    cluster.agents[0].kill();
    pod_gets_nothing(cluster).context("without an agent")?;
    // An agent that can't read the ranges keeps those that are in force.
    cluster.manifests.write("cidr.json", "{")?;
    cluster.agents[0].run()?;
    cluster.agents[0].ready()?;
    pod_gets_nothing(cluster).context("after a start with a broken file")?;
    cluster.manifests.write("cidr.json", &cidr("v1beta1", &RANGES))?;
    in_force(cluster, &RANGES)?;
    pod_gets_nothing(cluster).context("after the repair")
}

/// Waits until these ranges, and no others, are in force on the first node.
fn in_force(cluster: &Cluster, ranges: &[&str]) -> Result<()> {
    let expected = json!(ranges);
    let status = || cluster.agents[0].status().ok().filter(|s| s["service_cidrs"] == expected);
    deadline::until("the ranges are in force", LIMIT, status).map(drop)
}

/// Whoever has the address answers.
fn leaks(cluster: &Cluster) -> Result<()> {
    for netns in [&cluster.pod(0, 0).netns, &cluster.node(0).netns] {
        for address in stranger().both() {
            netns.run(|| ping(address, 56))?.with_context(|| format!("ping {address}"))?;
            for (kind, port) in [(Kind::Http, HTTP_TARGET), (Kind::Udp, UDP_TARGET)] {
                let answer = netns.run(|| kind.ask((address, port).into()))?;
                let answer = answer.with_context(|| format!("{kind} to {address}"))?;
                ensure!(answer.backend == "stranger", "{answer:?}");
            }
        }
    }
    Ok(())
}

/// No packet gets there, each is counted, and the node's own processes are told
/// at once.
fn ends(cluster: &Cluster) -> Result<()> {
    pod_gets_nothing(cluster)?;
    let node = &cluster.node(0).netns;
    silent(node).context("from the node")?;
    for address in stranger().both() {
        for (kind, port) in [(Kind::Http, HTTP_TARGET), (Kind::Udp, UDP_TARGET)] {
            let begin = Instant::now();
            let answer = node.run(|| kind.ask((address, port).into()))?;
            let took = begin.elapsed();
            let told = answer.as_ref().is_err_and(|e| e.kind() == ErrorKind::HostUnreachable);
            ensure!(told && took < AT_ONCE, "{kind} to {address}: {answer:?} after {took:?}");
        }
    }
    let status = cluster.agents[0].status()?;
    for hook in ["tc_ingress", "tc_egress", "socket"] {
        let count = &status["verdicts"][hook]["dropped_unallocated"];
        ensure!(count.as_u64() >= Some(2), "{hook}: {count}");
    }
    let web = Service::new("web", 1);
    for netns in [&cluster.pod(0, 0).netns, node] {
        for to in web.http_addresses() {
            Tally::of(netns, Kind::Http, to, 8)?.expect(&EVERY)?;
        }
    }
    Ok(())
}

/// Nothing that a pod sends gets there, of any protocol.
fn pod_gets_nothing(cluster: &Cluster) -> Result<()> {
    let before = unallocated(cluster);
    silent(&cluster.pod(0, 0).netns)?;
    if let (Some(before), Some(after)) = (before, unallocated(cluster)) {
        // Each of them was tried at least once.
        ensure!(after >= before + 6, "{before} packets dropped before, {after} after");
    }
    Ok(())
}

/// A ping, and connections to two ports, to both addresses, all at once since
/// each takes the time until nobody waits any longer.
fn silent(netns: &Namespace) -> Result<()> {
    let ask = |address: IpAddr, port: u16| match port {
        0 => ping(address, 56).map(|_| ()),
        port => client::get((address, port).into()).map(drop),
    };
    std::thread::scope(|scope| {
        let mut asked = Vec::new();
        for address in stranger().both() {
            for port in [0, 80, HTTP_TARGET] {
                let run = move || netns.run(move || ask(address, port));
                asked.push((address, port, scope.spawn(run)));
            }
        }
        for (address, port, answer) in asked {
            let Ok(answer) = answer.join() else { bail!("a thread panicked") };
            ensure!(answer?.is_err(), "port {port} of {address} answers");
        }
        Ok(())
    })
}

/// What was dropped where packets enter the first node; none without an agent.
fn unallocated(cluster: &Cluster) -> Option<u64> {
    let status: Value = cluster.agents[0].status().ok()?;
    status["verdicts"]["tc_ingress"]["dropped_unallocated"].as_u64()
}
