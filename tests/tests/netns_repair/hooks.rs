//! Programs that are detached: by `bpftool`, or with the qdisc that they are
//! on.

use super::scene::{Scene, setup, web};
use anyhow::{Context as _, Result};
use lb_tests::client;
use lb_tests::cluster::Setup;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;

#[test]
fn detached_links_are_told_of_and_attached_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new(Setup::xdp(Wiring::Routed, "native"))?;
    let detach = |interface: &'static str, pin: &'static str| {
        move |scene: &Scene| {
            let link = scene.link(interface, pin)?;
            scene.bpftool(&format!("link detach pinned {}", link.display())).map(drop)
        }
    };
    let line = "interface veth11: ingress: the link is detached";
    scene.suffers_outage("hooks", line, detach("veth11", "ingress"))?;
    let line = "interface eth0: egress: the link is detached";
    scene.suffers("hooks", line, detach("eth0", "egress"))?;
    let line = "interface eth0: xdp: the link is detached";
    scene.suffers("hooks", line, detach("eth0", "xdp-native"))?;
    scene.suffers("sockets", "cgroup connect4: ", |scene| {
        let pin = scene.pin("links/cgroup-connect4");
        scene.bpftool(&format!("link detach pinned {}", pin.display())).map(drop)
    })?;
    let to = web().http_addresses()[0];
    scene.cluster.node(0).netns.run(|| client::get(to))?.context("a process of the node")?;
    scene.ends_well()
}

#[test]
fn a_removed_qdisc_or_filter_is_told_of_and_made_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut clsact = setup();
    clsact.agent.tc = "clsact";
    let mut scene = Scene::new(clsact)?;
    let line = "interface veth11: ingress: no link is pinned";
    scene.suffers_outage("hooks", line, |scene| {
        let node = &scene.cluster.node(0).netns;
        node.output("tc", &["qdisc", "del", "dev", "veth11", "clsact"]).map(drop)
    })?;
    scene.suffers("hooks", "interface eth0: egress: no link is pinned", |scene| {
        let node = &scene.cluster.node(0).netns;
        node.output("tc", &["filter", "del", "dev", "eth0", "egress"]).map(drop)
    })?;
    scene.ends_well()
}
