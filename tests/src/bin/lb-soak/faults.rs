//! What goes wrong beneath the agents, and must be right again without anybody's
//! help. A new kind is one more row of [`FAULTS`].

use crate::services::{describe, inside};
use crate::tally::Tally;
use anyhow::{Context as _, Result};
use lb_tests::client::Datagrams;
use lb_tests::cluster::Cluster;
use lb_tests::prog::Random;
use lb_tests::topology::{Node, Pod};
use serde_json::Value;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long an answer may take while it is tried again and again.
const ANSWER: Duration = Duration::from_millis(500);

/// A node, with the pod that nobody else depends on.
struct Scene<'a> {
    cluster: &'a Cluster,
    node: &'a Node,
    idle: &'a Pod,
    pin_dir: &'a Path,
}

/// A kind of fault.
struct Fault {
    name: &'static str,
    inject: fn(&Scene<'_>) -> Result<()>,
    /// Whether all is right again.
    is_over: fn(&Scene<'_>) -> Result<()>,
    /// What puts the scene itself back.
    restore: Option<fn(&Scene<'_>) -> Result<()>>,
    /// How long it may last, with an agent that may be down for some seconds.
    limit: Duration,
}

const FAULTS: [Fault; 4] = [
    Fault {
        name: "an interface came and went",
        inject: come_and_go,
        is_over: pod_is_served,
        restore: None,
        limit: Duration::from_secs(20),
    },
    Fault {
        name: "a pod's interface was down and up",
        inject: flap,
        is_over: pod_is_served,
        restore: None,
        limit: Duration::from_secs(20),
    },
    Fault {
        name: "the node got another address",
        inject: add_address,
        is_over: address_is_served,
        restore: Some(remove_address),
        limit: Duration::from_secs(20),
    },
    Fault {
        name: "a hook was removed",
        inject: remove_hook,
        is_over: pod_is_served,
        restore: None,
        limit: Duration::from_secs(20),
    },
];

/// Injects faults on a node until told to stop.
pub(crate) fn inject(
    cluster: &Cluster,
    node: usize,
    pin_dir: &Path,
    tally: &Tally,
    mut random: Random,
) -> Result<()> {
    let node = &cluster.topology.nodes[node];
    let idle = node.pods.last().context("a node without pods")?;
    let scene = Scene { cluster, node, idle, pin_dir };
    loop {
        let pause = random.below(8000).try_into().unwrap_or(0);
        tally.rest(Duration::from_secs(2) + Duration::from_millis(pause));
        if !tally.going() {
            return Ok(());
        }
        let fault = &FAULTS[random.below(FAULTS.len())];
        let context = || format!("{}: {}", node.name, fault.name);
        (fault.inject)(&scene).with_context(context)?;
        tally.faults.one();
        let begin = Instant::now();
        while let Err(error) = (fault.is_over)(&scene) {
            if begin.elapsed() > fault.limit {
                let sentence = format!("{}; not right after {:?}: {error}", context(), fault.limit);
                tally.note(&tally.lasting, sentence);
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(restore) = fault.restore {
            restore(&scene).with_context(context)?;
        }
    }
}

/// The pod reaches a Service, by both families.
fn pod_is_served(scene: &Scene<'_>) -> Result<()> {
    let [_, targets] = inside(0);
    scene.idle.netns.run(|| targets.into_iter().try_for_each(answers))?.context("the idle pod")
}

fn answers(to: SocketAddr) -> io::Result<()> {
    let datagrams = Datagrams::open(to)?;
    datagrams.patience(ANSWER)?;
    datagrams.echo("still there?").map(drop)
}

fn come_and_go(scene: &Scene<'_>) -> Result<()> {
    let lines = [
        "link add passing0 type veth peer name passing1",
        "link set passing0 up",
        "link set passing1 up",
        "link del passing0",
    ];
    scene.node.netns.ip(&lines.map(str::to_owned))
}

/// Down and up, with what the kernel forgets of an interface that is down.
fn flap(scene: &Scene<'_>) -> Result<()> {
    let device = &scene.idle.outer_end;
    let addresses = scene.idle.addresses;
    let gateway = scene.idle.gateways();
    scene.node.netns.ip(&[
        format!("link set {device} down"),
        format!("link set {device} up"),
        format!("addr replace {}/128 dev {device} nodad", gateway.v6),
        format!("route replace {}/32 dev {device}", addresses.v4),
        format!("route replace {}/128 dev {device}", addresses.v6),
    ])
}

/// Another address of the node, by which nobody else knows it.
fn other_address(scene: &Scene<'_>) -> IpAddr {
    let [a, b, c, d] = scene.node.addresses.v4.octets();
    [a, b, c, d + 100].into()
}

fn add_address(scene: &Scene<'_>) -> Result<()> {
    scene.node.netns.ip(&[format!("addr add {}/24 dev eth0", other_address(scene))])
}

fn remove_address(scene: &Scene<'_>) -> Result<()> {
    scene.node.netns.ip(&[format!("addr del {}/24 dev eth0", other_address(scene))])
}

fn address_is_served(scene: &Scene<'_>) -> Result<()> {
    let to = (other_address(scene), describe(0).1[1]).into();
    scene.cluster.topology.client.run(|| answers(to))?.context("the other address")
}

/// Detaches what meets the packets of the idle pod.
fn remove_hook(scene: &Scene<'_>) -> Result<()> {
    let netns = &scene.node.netns;
    let link = netns.output("ip", &["-j", "link", "show", "dev", &scene.idle.outer_end])?;
    let link: Value = serde_json::from_str(&link)?;
    let index = link[0]["ifindex"].as_u64().context("an interface without a number")?;
    let pin = scene.pin_dir.join(format!("links/{index}-ingress"));
    let pin = pin.to_str().context("a pin that is not UTF-8")?;
    lb_tests::ip::command("bpftool", &["link", "detach", "pinned", pin]).map(drop)
}
