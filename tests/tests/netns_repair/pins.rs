//! Pins that are removed as files: nobody notices but `lb verify`. Programs stay
//! attached, and the next agent finds everything where it was.

use super::scene::{LIMIT, Scene, web};
use anyhow::{Result, ensure};
use lb_tests::cluster::Setup;
use lb_tests::deadline::{self, patient};
use lb_tests::ip;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Load};
use std::time::Duration;

#[test]
fn removed_pins_are_told_of_and_made_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new(Setup::xdp(Wiring::Routed, "native"))?;
    for map in ["LB_SERVICES", "LB_FLOWS_V4", "LB_ABI"] {
        scene.suffers("pins", &format!("pin maps/{map}: the pin is missing"), |scene| {
            Ok(std::fs::remove_file(scene.pin(&format!("maps/{map}")))?)
        })?;
    }
    scene.suffers("pins", "interface veth11: egress: no link is pinned", |scene| {
        Ok(std::fs::remove_file(scene.link("veth11", "egress")?)?)
    })?;
    scene.suffers("pins", "cgroup connect4: ", |scene| {
        Ok(std::fs::remove_file(scene.pin("links/cgroup-connect4"))?)
    })?;
    scene.ends_well()?;
    all_removed(&mut scene)
}

/// As a careless administrator would: clients notice nothing.
fn all_removed(scene: &mut Scene) -> Result<()> {
    let before = scene.agent().services()?;
    let pod = &scene.cluster.pod(0, 1).netns;
    let targets = [
        (pod, Kind::Http, web().http_addresses()[0]),
        (pod, Kind::Udp, web().udp_addresses()[1]),
        (
            &scene.cluster.topology.client,
            Kind::Http,
            (scene.cluster.node(0).addresses.v4, 30_080).into(),
        ),
    ];
    let ((), tally) = Load::run(&targets, |load| {
        let more = || {
            let goal = load.requests() + 100;
            deadline::until("requests to go on", Duration::from_secs(20), || {
                (load.requests() >= goal).then_some(())
            })
        };
        let repaired = scene.repaired()?;
        more()?;
        let pins = scene.agent().pin_dir().display().to_string();
        ip::command("rm", &["-rf", &pins])?;
        more()?;
        deadline::until("pins that are made again", patient(LIMIT), || {
            (scene.repaired().ok()? > repaired).then_some(())
        })?;
        more()
    })?;
    tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])?;
    ensure!(scene.differences()? == [""; 0] && scene.agent().verify(&[])? == [""; 0]);
    let agent = &mut scene.cluster.agents[0];
    agent.terminate()?;
    ensure!(agent.services()?.len() == before.len());
    ensure!(scene.differences()? == [""; 0]);
    let agent = &mut scene.cluster.agents[0];
    agent.run()?;
    agent.ready()?;
    scene.serves()
}
