//! The network of a node changes under its agent: interfaces that are renamed,
//! moved away and back, or made anew; addresses and default routes.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::{self, patient};
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// From the change to the agent's.
const LIMIT: Duration = Duration::from_secs(5);
const EVERY: [&str; 4] = ["pod-1a", "pod-1b", "pod-2a", "pod-2b"];
const NODE_PORT: u16 = 30_080;

fn web() -> Service {
    Service::new("web", 1).http(NODE_PORT).udp(30_053)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

fn cluster(tc: &'static str) -> Result<Cluster> {
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.tc = tc;
    setup.agent.more = &["--nodeport-addresses", "all"];
    Cluster::new(setup, |topology| vec![web().endpoints(topology.pods())])
}

/// Interfaces of the first node that have the programs, with their roles.
fn interfaces(cluster: &Cluster) -> Result<Vec<(String, String)>> {
    let status = cluster.agents[0].status()?;
    let hooks = status["hooks"].as_array().context("no hooks")?;
    let ingress = hooks.iter().filter(|hook| hook["hook"] == "ingress" && !hook["mode"].is_null());
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(ingress.map(|hook| (text(&hook["interface"]), text(&hook["role"]))).collect())
}

/// Waits until the agent says of an interface which role it has, if any, and
/// everything is as it should be.
fn follows(cluster: &Cluster, interface: &str, role: Option<&str>) -> Result<()> {
    let what = format!("{interface} as {role:?}");
    deadline::until_ok(&what, patient(LIMIT), || {
        let found = interfaces(cluster)?;
        let is = found.iter().find(|(name, _)| name == interface).map(|(_, role)| role.as_str());
        ensure!(is == role, "{found:?}");
        let told = cluster.agents[0].verify(&[])?;
        ensure!(told.is_empty(), "{told:?}");
        Ok(())
    })
}

/// The first pod reaches everybody by every address.
fn serves(cluster: &Cluster) -> Result<()> {
    for kind in Kind::ALL {
        for address in web().addresses.both() {
            let to: SocketAddr = (address, kind.port()).into();
            Tally::of(&cluster.pod(0, 0).netns, kind, to, 24)?
                .expect(&EVERY)
                .with_context(|| format!("{kind} to {to}"))?;
        }
    }
    Ok(())
}

/// What the node knows of its first pod: as the topology made it.
const POD: &str = "
    addr replace 10.244.1.1/32 dev veth11
    addr replace fd00:10:244:1::1/128 dev veth11 nodad
    link set veth11 up
    route replace 10.244.1.11/32 dev veth11
    route replace fd00:10:244:1::11/128 dev veth11";

/// What the first pod knows of its node.
const INSIDE: &str = "
    addr replace 10.244.1.11/32 dev eth0
    addr replace fd00:10:244:1::11/128 dev eth0 nodad
    link set eth0 up
    route replace 10.244.1.1/32 dev eth0
    route replace fd00:10:244:1::1/128 dev eth0
    route replace default via 10.244.1.1 dev eth0
    route replace default via fd00:10:244:1::1 dev eth0";

#[test]
fn an_interface_that_is_renamed_keeps_its_programs() -> Result<()> {
    for tc in ["auto", "clsact"] {
        if !root_or_skip() {
            return Ok(());
        }
        let cluster = cluster(tc)?;
        let pod = &cluster.pod(0, 0).netns;
        let mut open = pod.run(|| Connection::open(web().http_addresses()[0]))??;
        let backend = open.get()?.backend;
        let node = &cluster.node(0).netns;
        node.ip(&lines("link set veth11 name calico1"))?;
        follows(&cluster, "calico1", Some("pod"))?;
        follows(&cluster, "veth11", None)?;
        serves(&cluster)?;
        ensure!(open.get()?.backend == backend, "the connection moved");
        node.ip(&lines("link set calico1 name veth11"))?;
        follows(&cluster, "veth11", Some("pod"))?;
        serves(&cluster)?;
    }
    Ok(())
}

#[test]
fn an_interface_that_is_moved_to_another_namespace_comes_back() -> Result<()> {
    for tc in ["auto", "clsact"] {
        if !root_or_skip() {
            return Ok(());
        }
        let cluster = cluster(tc)?;
        let (node, router) = (&cluster.node(0).netns, &cluster.topology.router);
        let away = format!("link set veth11 netns {}", router.name());
        let back = format!("link set veth11 netns {}", node.name());
        node.ip(&lines(&away))?;
        follows(&cluster, "veth11", None)?;
        // Nothing of ours runs where it is now.
        let attached = router.output("bpftool", &["net"])?;
        ensure!(!attached.contains("lb_"), "{attached}");
        router.ip(&lines(&back))?;
        node.ip(&lines(POD))?;
        follows(&cluster, "veth11", Some("pod"))?;
        serves(&cluster)?;
        // Too fast for anybody to see.
        node.ip(&lines(&away))?;
        router.ip(&lines(&back))?;
        node.ip(&lines(POD))?;
        deadline::until_ok("the first pod as a client", patient(LIMIT), || serves(&cluster))?;
        follows(&cluster, "veth11", Some("pod"))?;
    }
    Ok(())
}

#[test]
fn an_interface_that_is_made_anew_is_another_one() -> Result<()> {
    for tc in ["auto", "clsact"] {
        if !root_or_skip() {
            return Ok(());
        }
        let cluster = cluster(tc)?;
        let (node, pod) = (&cluster.node(0).netns, &cluster.pod(0, 0).netns);
        let index = node.output("ip", &["-o", "link", "show", "veth11"])?;
        let index = index.split(':').next().context("no index")?;
        // With another number, and with the same one.
        for number in ["", &format!("index {index}")] {
            let make = format!(
                "link del veth11
                 link add veth11 {number} type veth peer name eth0 netns {}",
                pod.name()
            );
            node.ip(&lines(&(make + POD)))?;
            pod.ip(&lines(INSIDE))?;
            deadline::until_ok("the first pod as a client", patient(LIMIT), || serves(&cluster))
                .with_context(|| format!("{tc}: {number:?}"))?;
            follows(&cluster, "veth11", Some("pod"))?;
        }
    }
    Ok(())
}

#[test]
fn node_ports_and_sources_follow_the_nodes_addresses() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster("auto")?;
    let client = &cluster.topology.client;
    let old: IpAddr = cluster.node(0).addresses.v4.into();
    let new = [IpAddr::from([192, 0, 2, 9]), "2001:db8:2::9".parse()?];
    Tally::of(client, Kind::Http, (old, NODE_PORT).into(), 12)?.expect(&EVERY)?;
    let (node, other) = (&cluster.node(0).netns, &cluster.node(1).netns);
    node.sysctl("net.ipv4.conf.eth0.promote_secondaries", "1")?;
    node.ip(&lines(
        "addr add 192.0.2.9/24 dev eth0
         addr add 2001:db8:2::9/64 dev eth0 nodad
         addr del 192.0.2.1/24 dev eth0
         addr del 2001:db8:2::1/64 dev eth0",
    ))?;
    other.ip(&lines(
        "route replace 10.244.1.0/24 via 192.0.2.9
         route replace fd00:10:244:1::/64 via 2001:db8:2::9",
    ))?;
    for address in new {
        let to: SocketAddr = (address, NODE_PORT).into();
        // Backends elsewhere answer the node: by the address that it has now.
        // The agent may hear of the new address a while before it hears that
        // the old one is gone; until then, either is the node's.
        deadline::until_ok("the new address", patient(LIMIT), || {
            let tally = Tally::of(client, Kind::Http, to, 24)?;
            tally.expect(&EVERY)?;
            ensure!(tally.peers.contains(&address), "{to}: {:?}", tally.peers);
            Ok(())
        })?;
    }
    let gone = Tally::of(client, Kind::Http, (old, NODE_PORT).into(), 1)?;
    ensure!(gone.answered() == 0, "the old address answers still: {gone}");
    follows(&cluster, "eth0", Some("uplink"))?;
    serves(&cluster)
}

#[test]
fn roles_follow_the_default_route() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster("auto")?;
    let (topology, node) = (&cluster.topology, &cluster.node(0).netns);
    topology.second_link(0)?;
    follows(&cluster, "eth1", Some("pod"))?;
    node.ip(&lines("route replace default via 198.18.0.254"))?;
    follows(&cluster, "eth1", Some("uplink"))?;
    let to: SocketAddr = (IpAddr::from([198, 18, 0, 1]), NODE_PORT).into();
    Tally::of(&topology.client, Kind::Http, to, 24)?.expect(&EVERY)?;
    node.ip(&lines("route replace default via 192.0.2.254"))?;
    follows(&cluster, "eth1", Some("pod"))?;
    serves(&cluster)
}
