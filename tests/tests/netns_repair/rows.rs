//! Rows of maps, deleted or overwritten with `bpftool`.

use super::scene::{Scene, setup, web};
use anyhow::{Context as _, Result};
use lb_common::{V4, filter};
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Addresses;
use lb_userspace::dataplane::maps::Maps;
use serde_json::json;
use std::net::Ipv4Addr;

const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// Bytes as `bpftool` takes them.
fn hex(bytes: &[u8]) -> String {
    let bytes: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex {}", bytes.join(" "))
}

/// The id of `web`'s HTTP port.
fn web_id(maps: &Maps) -> Result<u32> {
    let rows = maps.names.rows()?;
    let row = rows.iter().find(|(_, row)| row.name.starts_with(b"web\0") && row.proto == 6);
    row.map(|(id, _)| *id).context("no row is web's")
}

fn scene() -> Result<Scene> {
    let vips = Addresses { v4: VIP, v6: "2001:db8:113::7".parse()? };
    let guarded = json!({ "spec": { "loadBalancerSourceRanges": ["198.51.100.0/24"] } });
    Scene::with(setup(), |topology| {
        vec![web().load_balancer(vips).with(guarded).endpoints(topology.pods())]
    })
}

#[test]
fn deleted_and_altered_rows_are_told_of_and_put_right() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = scene()?;
    deleted(&mut scene)?;
    altered(&mut scene)?;
    scene.ends_well()
}

fn deleted(scene: &mut Scene) -> Result<()> {
    let of = "Service default/web:http (TCP): ";
    let line = format!("{of}LB_FRONTENDS_V4: 10.96.0.1:80 TCP is missing");
    scene.suffers_outage("frontends", &line, |scene| {
        let key = hex(&[10, 96, 0, 1, 0, 80, 6, 0]);
        scene.bpftool(&format!("map delete pinned PINS/maps/LB_FRONTENDS_V4 key {key}")).map(drop)
    })?;
    scene.suffers("names", &format!("{of}LB_NAMES: its row is missing"), |scene| {
        let id = web_id(&Maps::open(scene.agent().pin_dir())?)?;
        let key = hex(&id.to_ne_bytes());
        scene.bpftool(&format!("map delete pinned PINS/maps/LB_NAMES key {key}")).map(drop)
    })?;
    let line = format!("{of}LB_PREFIXES_V4: 198.51.100.0/24 is missing");
    scene.suffers("prefixes", &line, |scene| {
        let id = web_id(&Maps::open(scene.agent().pin_dir())?)?;
        let key = [&56_u32.to_ne_bytes()[..], &id.to_ne_bytes(), &[198, 51, 100, 0]].concat();
        let key = hex(&key);
        scene.bpftool(&format!("map delete pinned PINS/maps/LB_PREFIXES_V4 key {key}")).map(drop)
    })?;
    let line = "interface veth11: LB_INTERFACES: its row is missing";
    scene.suffers("interfaces", line, |scene| {
        let key = hex(&scene.index("veth11")?.to_ne_bytes());
        scene.bpftool(&format!("map delete pinned PINS/maps/LB_INTERFACES key {key}")).map(drop)
    })
}

fn altered(scene: &mut Scene) -> Result<()> {
    let of = "Service default/web:http (TCP): ";
    let update = |scene: &Scene, map: &str, key: &str, value: &[u8]| {
        let value = hex(value);
        scene.bpftool(&format!("map update pinned PINS/maps/{map} key {key} value {value}"))
    };
    let line = format!("{of}LB_SERVICES: its row says otherwise");
    scene.suffers_outage("services", &line, |scene| {
        let id = web_id(&Maps::open(scene.agent().pin_dir())?)?;
        update(scene, "LB_SERVICES", &hex(&id.to_ne_bytes()), &[0; 64]).map(drop)
    })?;
    scene.suffers("slots", &format!("{of}LB_SLOTS: its slots say otherwise"), |scene| {
        let maps = Maps::open(scene.agent().pin_dir())?;
        let row = maps.services.get(web_id(&maps)?).context("no such row")?;
        let word = row.segments[0].base / 2;
        update(scene, "LB_SLOTS", &hex(&word.to_ne_bytes()), &[0xff; 8]).map(drop)
    })?;
    let line = format!("{of}LB_BACKENDS: the row of 10.244.2.11:8080 says otherwise");
    scene.suffers("backends", &line, |scene| {
        let maps = Maps::open(scene.agent().pin_dir())?;
        let (web, addr) = (web_id(&maps)?, V4::from(Ipv4Addr::new(10, 244, 2, 11)).0);
        let rows = (0..).map_while(|id| maps.backends.get(id).map(|row| (id, row)));
        let mut rows = rows.filter(|(_, row)| row.service == web && row.addr == [addr, 0, 0, 0]);
        let (id, _) = rows.next().context("no such row")?;
        update(scene, "LB_BACKENDS", &hex(&id.to_ne_bytes()), &[0; 32]).map(drop)
    })?;
    scene.suffers("filter", "LB_FILTER: ", |scene| {
        let word = filter::address_bucket(V4::from(Ipv4Addr::new(10, 96, 0, 1))) / 8;
        update(scene, "LB_FILTER", &hex(&word.to_ne_bytes()), &[0; 8]).map(drop)
    })?;
    let line = "LB_FRONTENDS_V4: 10.96.0.99:80 TCP is nobody's";
    scene.suffers("frontends", line, |scene| {
        let key = hex(&[10, 96, 0, 99, 0, 80, 6, 0]);
        update(scene, "LB_FRONTENDS_V4", &key, &[1, 0, 0, 0, 1, 0, 0, 0]).map(drop)
    })?;
    scene.suffers("interfaces", "interface eth0: LB_INTERFACES: its row says otherwise", |scene| {
        let key = hex(&scene.index("eth0")?.to_ne_bytes());
        update(scene, "LB_INTERFACES", &key, &[0; 32]).map(drop)
    })
}
