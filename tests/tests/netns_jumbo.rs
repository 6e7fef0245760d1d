//! Large frames: XDP programs attach to devices that take them, and turn them.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::metric;
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::privilege::root_or_skip;
use lb_tests::server;
use lb_tests::topology::Wiring;

/// Much more than a page, in which a device keeps a packet otherwise.
const MTU: &str = "9000";
const LENGTH: usize = 1 << 20;

/// Makes every link take large frames.
fn enlarge(cluster: &Cluster) -> Result<()> {
    let topology = &cluster.topology;
    let nodes = topology.nodes.iter();
    let pods = topology.pods().map(|(_, pod)| &pod.netns);
    let all = nodes.map(|node| &node.netns).chain(pods).chain([&topology.client, &topology.router]);
    for netns in all {
        let links = netns.output("ip", &["-o", "link", "show", "type", "veth"])?;
        for line in links.lines() {
            let name = line.split(": ").nth(1).with_context(|| format!("no name in {line}"))?;
            let name = name.split('@').next().unwrap_or(name);
            netns.ip(&[format!("link set {name} mtu {MTU}")])?;
        }
    }
    topology.router.ip(&[format!("link set wire mtu {MTU}")])
}

#[test]
fn large_frames_are_turned_by_native_xdp() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::without_agents(Setup::xdp(Wiring::Routed, "native"))?;
    enlarge(&cluster)?;
    let two = &cluster.topology.nodes[1];
    cluster.publish(&[Service::new("web", 1).http(30080).endpoint(two, &two.pods[0])])?;
    cluster.start_agents()?;
    let node = &cluster.topology.nodes[0];
    let turned = |verdict: &str| {
        let sample = format!("lb_packets_total{{hook=\"xdp\",verdict=\"{verdict}\"}}");
        metric(&node.netns, &sample)
    };
    for address in node.addresses.both() {
        let before = [turned("forwarded")?, turned("returned")?];
        let body = server::pattern(LENGTH);
        cluster.topology.client.run(|| -> Result<()> {
            let mut connection = Connection::open((address, 30080).into())?;
            let answer = connection.exchange("POST", &format!("/bytes/{LENGTH}"), &body)?;
            let sum = answer.header("x-sum").context("no sum of what was sent")?;
            ensure!(sum == server::sum(&body).to_string() && answer.body == body, "spoilt bodies");
            Ok(())
        })??;
        // Each way, this many segments if all were large.
        let segments = LENGTH as u64 / 9000;
        for (before, verdict) in before.into_iter().zip(["forwarded", "returned"]) {
            let packets = turned(verdict)? - before;
            ensure!(packets >= segments, "{packets} packets were {verdict}");
            ensure!(packets < 3 * segments, "{packets} packets were {verdict}: small ones");
        }
    }
    Ok(())
}
