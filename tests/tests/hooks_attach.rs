//! Attaching on real interfaces of a namespace of their own: what survives the
//! agent, what the next agent takes over, and what cleanup leaves (nothing).
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use anyhow::Result;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramInfo, SchedClassifier, loaded_programs};
use lb_common::{Interface, names, value};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege;
use lb_userspace::dataplane::{
    CleanupReport, HookOptions, HookPoint, HookStatus, Hooks, MapSizes, Mode, TcPreference,
    XdpPreference, cleanup,
};
use lb_userspace::netlink::{NetworkState, WatchOptions, snapshot};
use std::path::PathBuf;

/// A namespace with a pair of veths and a place for pins, removed when dropped.
struct Scene {
    netns: Namespace,
    pin_dir: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let netns = Namespace::new(Naming::Unique, "hooks").unwrap();
        netns.ip(&["link add name va type veth peer name vb".into()]).unwrap();
        netns.ip(&["link set va up".into(), "link set vb up".into()]).unwrap();
        let pin_dir = PathBuf::from("/sys/fs/bpf").join(netns.name());
        Self { netns, pin_dir }
    }

    /// Small maps: what is tested here does not depend on their sizes.
    fn options(&self) -> HookOptions {
        let sizes = MapSizes {
            services: 64,
            backends: 64,
            slots: 256,
            frontends: 64,
            flows_v4: 256,
            flows_v6: 256,
            interfaces: 64,
            affinity: 64,
            prefixes: 64,
        };
        HookOptions { sizes, ..HookOptions::new(&self.pin_dir) }
    }

    fn inside<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        self.netns.run(function).unwrap()
    }

    fn state(&self) -> NetworkState {
        self.inside(|| snapshot(&WatchOptions::default())).unwrap()
    }

    /// As an agent does it: opens, attaches to everything.
    fn start(&self, options: &HookOptions) -> Hooks {
        let state = self.state();
        self.inside(|| {
            let mut hooks = Hooks::open(options).unwrap();
            let report = hooks.sync(&state);
            assert_eq!(report.failures, Vec::<String>::new());
            hooks
        })
    }

    fn cleanup(&self) -> CleanupReport {
        self.inside(|| cleanup(&self.pin_dir)).unwrap()
    }

    /// Ids of the programs that tcx runs on an interface.
    fn tcx(&self, interface: &str, direction: TcAttachType) -> Vec<u32> {
        let query = || SchedClassifier::query_tcx(interface, direction);
        let (_, programs) = self.inside(query).unwrap();
        programs.iter().map(ProgramInfo::id).collect()
    }

    fn filters(&self, interface: &str, direction: &str) -> usize {
        let shown = self.netns.output("tc", &["filter", "show", "dev", interface, direction]);
        shown.unwrap().matches("direct-action").count()
    }

    fn qdiscs(&self, interface: &str) -> String {
        self.netns.output("tc", &["qdisc", "show", "dev", interface]).unwrap()
    }

    /// Link and program id of a pinned link.
    fn pinned(&self, pin: &str) -> (u32, u32) {
        let link = PinnedLink::from_pin(self.pin_dir.join("links").join(pin)).unwrap();
        let info = FdLink::from(link).info().unwrap();
        (info.id(), info.program_id())
    }

    /// The programs' row of an interface.
    fn row(&self, index: u32) -> Option<Interface> {
        let data = MapData::from_pin(self.pin_dir.join("maps").join(names::MAP_INTERFACES));
        let rows: HashMap<_, u32, Interface> = Map::HashMap(data.unwrap()).try_into().unwrap();
        rows.get(&index, 0).ok()
    }

    fn pins(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.pin_dir.join("links"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _: Result<_> = self.netns.run(|| cleanup(&self.pin_dir));
    }
}

fn modes(hooks: &Hooks, hook: HookPoint) -> Vec<(String, Option<Mode>)> {
    let status = hooks.status();
    let of_hook = status.into_iter().filter(|status| status.hook == hook);
    of_hook.map(|HookStatus { interface, mode, .. }| (interface, mode)).collect()
}

fn program_exists(id: u32) -> bool {
    loaded_programs().flatten().any(|program| program.id() == id)
}

#[test]
fn tcx_links_outlive_the_agent_and_get_the_next_ones_programs_in_place() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let hooks = scene.start(&scene.options());
    let tcx = |name: &str| (name.to_owned(), Some(Mode::Tcx));
    assert_eq!(modes(&hooks, HookPoint::Ingress), [tcx("vb"), tcx("va")]);
    assert_eq!(modes(&hooks, HookPoint::Egress), [tcx("vb"), tcx("va")]);
    drop(hooks);
    let pins = scene.pins();
    assert_eq!(pins.len(), 4, "{pins:?}");
    let before: Vec<_> = pins.iter().map(|pin| scene.pinned(pin)).collect();
    let attached = scene.tcx("va", TcAttachType::Ingress);
    assert_eq!(attached.len(), 1, "the program runs without the agent");

    drop(scene.start(&scene.options()));
    assert_eq!(scene.pins(), pins);
    for (pin, (link, program)) in pins.iter().zip(&before) {
        let (same_link, new_program) = scene.pinned(pin);
        assert_eq!(same_link, *link, "{pin}: the link stays");
        assert_ne!(new_program, *program, "{pin}: the program is the new process's");
    }
    assert_eq!(scene.tcx("va", TcAttachType::Ingress).len(), 1, "replaced, not added");

    let last = scene.tcx("va", TcAttachType::Egress)[0];
    let report = scene.cleanup();
    assert!(report.removed.iter().any(|line| line.ends_with("-ingress (va)")), "{report}");
    assert!(!scene.pin_dir.exists());
    assert!(scene.tcx("va", TcAttachType::Ingress).is_empty());
    assert!(!program_exists(last), "the programs are gone when cleanup returns");
    assert_eq!(scene.cleanup().to_string(), "nothing to remove");
}

#[test]
fn clsact_filters_outlive_the_agent_and_are_replaced_in_place() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let options = HookOptions { tc: TcPreference::Clsact, ..scene.options() };
    for _ in 0..2 {
        let hooks = scene.start(&options);
        let clsact = ("va".to_owned(), Some(Mode::Clsact));
        assert!(modes(&hooks, HookPoint::Ingress).contains(&clsact));
        drop(hooks);
        for interface in ["va", "vb"] {
            assert_eq!(scene.filters(interface, "ingress"), 1);
            assert_eq!(scene.filters(interface, "egress"), 1);
        }
    }
    let report = scene.cleanup();
    assert!(report.removed.contains(&"2 clsact filters of va".to_owned()), "{report}");
    assert!(!scene.qdiscs("va").contains("clsact"), "the qdisc was ours");
    assert!(!scene.pin_dir.exists());
}

#[test]
fn a_qdisc_of_somebody_else_stays_with_its_filters() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let add = ["qdisc", "add", "dev", "va", "clsact"];
    scene.netns.output("tc", &add).unwrap();
    let clsact = HookOptions { tc: TcPreference::Clsact, ..scene.options() };
    // Filters of another pin directory are somebody else's too.
    let other = PathBuf::from(format!("{}-other", scene.pin_dir.display()));
    drop(scene.start(&clsact));
    drop(scene.start(&HookOptions { pin_dir: other.clone(), ..clsact.clone() }));
    assert_eq!((scene.filters("va", "ingress"), scene.filters("vb", "ingress")), (2, 2));
    scene.cleanup();
    assert_eq!((scene.filters("va", "ingress"), scene.filters("vb", "ingress")), (1, 1));
    scene.inside(|| cleanup(&other)).unwrap();
    assert_eq!((scene.filters("va", "ingress"), scene.filters("vb", "ingress")), (0, 0));
    assert!(scene.qdiscs("va").contains("clsact"), "it was there before");
}

#[test]
fn the_way_to_attach_can_change_from_one_agent_to_the_next() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let clsact = HookOptions { tc: TcPreference::Clsact, ..scene.options() };
    drop(scene.start(&scene.options()));
    drop(scene.start(&clsact));
    assert!(scene.tcx("va", TcAttachType::Ingress).is_empty());
    assert_eq!(scene.filters("va", "egress"), 1);
    drop(scene.start(&scene.options()));
    assert_eq!(scene.tcx("va", TcAttachType::Ingress).len(), 1);
    assert_eq!(scene.filters("va", "egress"), 0);
    assert!(!scene.qdiscs("va").contains("clsact"));
}

#[test]
fn an_interface_that_goes_away_takes_its_pins_along() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let mut hooks = scene.start(&scene.options());
    let replace = |old: &str, new: &str, peer: &str| {
        let lines =
            [format!("link del {old}"), format!("link add {new} type veth peer name {peer}")];
        scene.netns.ip(&lines).unwrap();
    };
    let va = scene.state().links.into_iter().find(|link| link.name == "va").unwrap().index;
    assert_eq!(scene.row(va).map(|row| row.role), Some(value::role::POD));
    replace("va", "vc", "vd");
    let state = scene.state();
    let report = scene.inside(|| hooks.sync(&state));
    assert_eq!((report.attached, report.detached), (4, 4), "{report:?}");
    assert_eq!(scene.pins().len(), 4);
    assert_eq!(scene.row(va), None);

    // The next process finds what went away while nobody looked.
    drop(hooks);
    replace("vc", "ve", "vf");
    let hooks = scene.start(&scene.options());
    assert_eq!(scene.pins().len(), 4);
    let names: Vec<_> = hooks.status().into_iter().map(|status| status.interface).collect();
    assert_eq!(names, ["vf", "vf", "ve", "ve"]);
}

#[test]
fn xdp_goes_on_uplinks_as_asked_and_its_link_survives() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let uplink = WatchOptions { uplinks: vec!["va".parse().unwrap()], ..WatchOptions::default() };
    let state = scene.inside(|| snapshot(&uplink)).unwrap();
    let run = |xdp: XdpPreference| {
        scene.inside(|| {
            let options = HookOptions { xdp, ..scene.options() };
            let mut hooks = Hooks::open(&options).unwrap();
            let report = hooks.sync(&state);
            assert_eq!(report.failures, Vec::<String>::new());
            modes(&hooks, HookPoint::Xdp)
        })
    };
    let index = state.links.iter().find(|link| link.name == "va").unwrap().index;
    let row = || scene.row(index).map(|row| (row.role, row.xdp));
    let xdp_pins = || scene.pins().into_iter().filter(|pin| pin.contains("xdp"));
    let va = |mode| vec![("va".to_owned(), mode)];

    assert_eq!(run(XdpPreference::Auto), va(None), "a veth is no physical interface");
    assert_eq!(row(), Some((value::role::UPLINK, 0)));
    assert_eq!(run(XdpPreference::Native), va(Some(Mode::Native)));
    assert_eq!(row(), Some((value::role::UPLINK, 1)), "others may redirect to it");
    let native = xdp_pins().next().unwrap();
    let (link, program) = scene.pinned(&native);
    assert_eq!(run(XdpPreference::Native), va(Some(Mode::Native)));
    let (same_link, new_program) = scene.pinned(&native);
    assert_eq!(same_link, link);
    assert_ne!(new_program, program);

    assert_eq!(run(XdpPreference::Generic), va(Some(Mode::Generic)));
    assert!(xdp_pins().eq([native.replace("native", "generic")]));
    assert!(scene.netns.output("ip", &["link", "show", "va"]).unwrap().contains("xdpgeneric"));

    assert_eq!(run(XdpPreference::Off), []);
    assert_eq!(row(), Some((value::role::UPLINK, 0)));
    assert_eq!(xdp_pins().count(), 0);
    assert!(!scene.netns.output("ip", &["link", "show", "va"]).unwrap().contains("xdp"));
}

#[test]
fn a_device_without_ethernet_headers_gets_the_programs_for_it() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    scene.netns.ip(&["tuntap add dev tun0 mode tun".into()]).unwrap();
    let mut hooks = scene.start(&scene.options());
    let names = |direction| {
        let query = || SchedClassifier::query_tcx("tun0", direction);
        let (_, programs) = scene.inside(query).unwrap();
        programs.iter().map(|info| info.name_as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(TcAttachType::Ingress), [names::PROG_INGRESS_L3]);
    assert_eq!(names(TcAttachType::Egress), [names::PROG_EGRESS_L3]);
    // What is not named any more is left alone again, though it still exists.
    let report = scene.inside(|| hooks.sync(&NetworkState::default()));
    assert_eq!((report.detached, report.failures.len()), (6, 0));
    assert!(names(TcAttachType::Ingress).is_empty());
    assert!(scene.pins().is_empty());
}

#[test]
fn pins_that_do_not_fit_are_refused_with_what_to_do() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    let hooks = scene.start(&scene.options());
    let second = scene.inside(|| Hooks::open(&scene.options()).err()).unwrap().to_string();
    assert!(second.starts_with("another agent uses the pin directory"), "{second}");
    let meanwhile = scene.inside(|| cleanup(&scene.pin_dir)).unwrap_err().to_string();
    assert_eq!(meanwhile, second);
    drop(hooks);

    let mut larger = scene.options();
    larger.sizes.interfaces = 128;
    let refused = scene.inside(|| Hooks::open(&larger).err()).unwrap().to_string();
    assert!(refused.contains("LB_INTERFACES") && refused.contains("--replace-layout"), "{refused}");

    // Its links are live in a namespace that is not the caller's.
    let elsewhere = Hooks::open(&scene.options()).err().unwrap().to_string();
    assert!(elsewhere.contains("serve another network namespace"), "{elsewhere}");
    assert_eq!(scene.tcx("va", TcAttachType::Ingress).len(), 1, "a refusal changes nothing");
}

#[test]
fn the_object_and_the_table_of_maps_agree_on_every_pinned_map() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    // Opening again compares what the object made with the table.
    drop(scene.start(&scene.options()));
    drop(scene.start(&scene.options()));
    let maps = std::fs::read_dir(scene.pin_dir.join("maps")).unwrap().count();
    assert_eq!(maps, names::PINNED_MAPS.len() + 1, "and one that says who made them");
}

#[test]
fn a_pin_directory_that_is_not_on_bpffs_is_refused() {
    if !privilege::root_or_skip() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let options = HookOptions::new(directory.path().join("pins"));
    let error = Hooks::open(&options).err().unwrap().to_string();
    assert!(error.contains("is not on a BPF file system"), "{error}");
    assert!(!directory.path().join("pins").exists());
    let error = cleanup(directory.path()).unwrap_err().to_string();
    assert!(error.contains("is not on a BPF file system"), "{error}");
}

#[test]
fn under_ip_netns_exec_the_pins_would_vanish_so_it_is_refused() {
    if !privilege::root_or_skip() {
        return;
    }
    let scene = Scene::new();
    // The test itself, in the surroundings that `ip netns exec` makes.
    let myself = std::env::current_exe().unwrap();
    let inner = "opens_at_the_usual_place";
    let output = std::process::Command::new("ip")
        .args(["netns", "exec", scene.netns.name()])
        .arg(myself)
        .args(["--exact", inner, "--ignored", "--nocapture"])
        .env("LB_TEST_PIN_DIR", &scene.pin_dir)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("nsenter --net=/run/netns/NAME"), "{text}");
}

#[test]
#[ignore = "the other half of the test above"]
fn opens_at_the_usual_place() {
    let Some(pin_dir) = std::env::var_os("LB_TEST_PIN_DIR") else { return };
    let error = Hooks::open(&HookOptions::new(pin_dir)).err().unwrap();
    println!("{error}");
}
