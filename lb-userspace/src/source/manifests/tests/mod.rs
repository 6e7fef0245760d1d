//! The directory as a whole: what is in force after which change.

mod cut;
mod unreadable;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::strategy::Strategy;

use super::*;
use crate::desired::{
    CompileOptions, Compiler, Desired, DesiredService, Policy, Severity, compile, health_checks,
};
use crate::model::Changes;

const YAML: &str = include_str!("../../../../../tests/data/cluster.yaml");
const JSON: &str = include_str!("../../../../../tests/data/cluster.json");

struct Dir {
    dir: tempfile::TempDir,
    manifests: ManifestDir,
}

impl Dir {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let manifests = ManifestDir::new(dir.path());
        Self { dir, manifests }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn load(&mut self) -> Snapshot {
        self.manifests.load().unwrap()
    }

    /// Names of the Services in force, and all problems.
    fn services(&mut self) -> (Vec<String>, Vec<String>) {
        let snapshot = self.load();
        let names = snapshot.objects.services.keys().map(|name| name.name.clone()).collect();
        (names, snapshot.problems.iter().map(ToString::to_string).collect())
    }
}

fn service(name: &str, port: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )
}

fn compiled(text: &str, node_name: Option<&str>) -> Desired {
    let mut dir = Dir::new(&[("dump.yaml", text)]);
    let snapshot = dir.load();
    let errors: Vec<_> =
        snapshot.problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:?}");
    let options = CompileOptions {
        node_name: node_name.map(Into::into),
        default_policy: Policy::RoundRobin,
        ..CompileOptions::default()
    };
    let (desired, problems) = compile(&snapshot.objects, &options);
    assert!(problems.is_empty(), "{problems:?}");
    desired
}

fn port<'a>(desired: &'a Desired, namespace: &str, name: &str, port: &str) -> &'a DesiredService {
    desired
        .services
        .values()
        .find(|service| {
            let key = &service.key;
            (&*key.namespace, &*key.name, &*key.port_name) == (namespace, name, port)
        })
        .unwrap()
}

/// Backends as text: `10.0.0.1:80`, with `*` if local and `-` if terminating.
fn backends(service: &DesiredService) -> Vec<String> {
    let mark = |backend: &crate::desired::DesiredBackend| {
        let local = if backend.local { "*" } else { "" };
        let state = if backend.scopes == 0 { "-" } else { "" };
        format!("{}{local}{state}", std::net::SocketAddr::new(backend.addr, backend.port))
    };
    service.backends.iter().map(mark).collect()
}

#[test]
fn the_dump_of_a_cluster_gives_its_services() {
    let desired = compiled(YAML, Some("n1"));
    let dns = port(&desired, "infra", "dns", "dns");
    assert_eq!(dns.key.protocol.number(), 17);
    assert_eq!(dns.port, 53);
    let cluster_ips: Vec<_> = dns.cluster_ips.iter().map(ToString::to_string).collect();
    assert_eq!(cluster_ips, ["10.96.0.10", "fd00:10:96::c900"]);
    assert_eq!(
        backends(dns),
        [
            "10.244.1.31:5353*",
            "10.244.2.31:5353",
            "[fd00:10:244:1::31]:5353*",
            "[fd00:10:244:2::31]:5353",
        ]
    );
    let web = port(&desired, "shop", "web-public", "http");
    assert_eq!(web.node_port, Some(30080));
    // One of the four Pods is not ready.
    assert_eq!(
        backends(web),
        [
            "10.244.1.11:8080*",
            "10.244.1.12:8080*",
            "10.244.2.11:8080",
            "[fd00:10:244:1::11]:8080*",
            "[fd00:10:244:1::12]:8080*",
            "[fd00:10:244:2::11]:8080",
        ]
    );
    // The name of the port means another number on each Pod.
    let api = port(&desired, "shop", "api", "grpc");
    assert_eq!(backends(api), ["10.244.1.21:9090*", "10.244.2.21:9191"]);
    assert_eq!(api.policy, Policy::Maglev);
    let host_network = port(&desired, "infra", "node-agent", "web");
    assert_eq!(backends(host_network), ["192.0.2.1:10180*"]);
    let without_selector = port(&desired, "shop", "legacy", "http");
    assert_eq!(backends(without_selector), ["192.0.2.50:8080"]);
    assert_eq!(backends(port(&desired, "infra", "empty", "http")), [""; 0]);
    assert_eq!(port(&desired, "shop", "web-lb", "http").node_port, Some(31484));
    // Neither headless nor external names get traffic.
    assert!(!desired.services.keys().any(|key| key.name == "db" || key.name == "payments"));
    assert_eq!(desired.services.len(), 12);
}

#[test]
fn the_dump_is_the_same_as_json_and_from_any_node() {
    assert_eq!(compiled(JSON, Some("n2")), compiled(YAML, Some("n2")));
    let nowhere = compiled(YAML, None);
    assert!(nowhere.services.values().flat_map(|s| &s.backends).all(|backend| !backend.local));
}

#[test]
fn pods_stand_in_for_endpoint_slices() {
    let mut dump: serde_json::Value = serde_json::from_str(JSON).unwrap();
    let items = dump["items"].as_array_mut().unwrap();
    items.retain(|item| item["kind"] != "EndpointSlice");
    let from_pods = compiled(&dump.to_string(), Some("n1"));
    let from_slices = compiled(JSON, Some("n1"));
    for (key, service) in &from_slices.services {
        let selects = !["kubernetes", "legacy"].contains(&&*key.name);
        let expected = if selects { backends(service) } else { Vec::new() };
        assert_eq!(backends(&from_pods.services[key]), expected, "{key}");
    }
}

#[test]
fn unready_pods_count_where_the_service_says_so() {
    let mut dump: serde_json::Value = serde_json::from_str(JSON).unwrap();
    let items = dump["items"].as_array_mut().unwrap();
    items.retain(|item| item["kind"] != "EndpointSlice");
    for item in &mut *items {
        if item["kind"] == "Service" && item["metadata"]["name"] == "web" {
            item["spec"]["publishNotReadyAddresses"] = true.into();
        }
    }
    let all = backends(port(&compiled(&dump.to_string(), Some("n1")), "shop", "web", "http"));
    let unready = "10.244.2.12:8080".to_owned();
    assert!(all.contains(&unready), "{all:?}");
    let some = backends(port(&compiled(JSON, Some("n1")), "shop", "web", "http"));
    assert!(!some.contains(&unready), "{some:?}");
}

#[test]
fn a_broken_file_keeps_what_it_had_and_says_where_it_broke() {
    let mut dir = Dir::new(&[("a.yaml", &service("a", "80"))]);
    assert_eq!(dir.services(), (vec!["a".into()], vec![]));
    dir.write("a.yaml", "kind: [\n");
    let (names, problems) = dir.services();
    assert_eq!(names, ["a"]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("a.yaml: line 1, column 7: "), "{problems:?}");
    assert!(problems[0].ends_with("; the object that it held stays in force"), "{problems:?}");
    dir.write("a.yaml", "\u{0}\n");
    assert_eq!(dir.services().0, ["a"]);
    fs::remove_file(dir.path("a.yaml")).unwrap();
    fs::create_dir(dir.path("a.yaml")).unwrap();
    let (names, problems) = dir.services();
    assert_eq!(names, ["a"]);
    assert!(problems[0].starts_with("a.yaml: is not a regular file"), "{problems:?}");
    fs::remove_dir(dir.path("a.yaml")).unwrap();
    assert_eq!(dir.services(), (vec![], vec![]));
}

#[test]
fn a_refused_object_keeps_its_last_good_state_and_the_others_go_on() {
    let both = |a: &str, b: &str| format!("{}---\n{}", service("a", a), service("b", b));
    let mut dir = Dir::new(&[("a.yaml", &both("80", "0"))]);
    let (names, problems) = dir.services();
    assert_eq!(names, ["a"]);
    assert_eq!(
        problems,
        ["a.yaml: Service default/b: spec.ports[0].port: must be a port from 1 to 65535, not 0"]
    );
    dir.write("a.yaml", &both("eighty", "81"));
    let (names, problems) = dir.services();
    assert_eq!(names, ["a", "b"]);
    assert!(problems[0].starts_with("a.yaml: Service default/a: spec.ports[0].port: invalid type"));
    assert!(problems[0].ends_with("; its last good state stays in force"));
    let snapshot = dir.load();
    let a = snapshot.objects.services.values().next().unwrap();
    assert_eq!(a.object.ports[0].port, 80);
    dir.write("a.yaml", &service("b", "81"));
    assert_eq!(dir.services(), (vec!["b".into()], vec![]));
}

/// Whatever breaks in an object, what people want is not that it goes.
#[test]
fn an_object_whose_name_or_kind_breaks_keeps_its_last_good_state() {
    let both = service("a", "80") + "---\n" + &service("b", "81");
    for (good, bad) in [
        ("apiVersion: v1", "apiVersion: v2"),
        ("kind: Service", "knd: Service"),
        ("name: b", "nme: b"),
        ("---\n", "---\n[a list]\n---\n"),
    ] {
        let mut dir = Dir::new(&[("a.yaml", &both)]);
        assert_eq!(dir.services(), (vec!["a".into(), "b".into()], vec![]));
        let (first, second) = both.rsplit_once("---").unwrap();
        let broken = if good == "---\n" {
            format!("{first}{bad}")
        } else {
            format!("{first}---{}", second.replace(good, bad))
        };
        dir.write("a.yaml", &broken);
        let (names, problems) = dir.services();
        assert_eq!(names, ["a", "b"], "{bad}");
        let told = problems.iter().filter(|line| line.ends_with("last good state stays in force"));
        assert_eq!(told.count(), 1, "{problems:?}");
        // Other changes meanwhile are no reason to lose it.
        dir.write("a.yaml", &broken.replace("port: 80", "port: 82"));
        assert_eq!(dir.services().0, ["a", "b"], "{bad}");
        dir.write("a.yaml", &both);
        assert_eq!(dir.services(), (vec!["a".into(), "b".into()], vec![]), "{bad}");
        dir.write("a.yaml", &service("a", "80"));
        assert_eq!(dir.services(), (vec!["a".into()], vec![]), "{bad}");
    }
    let mut dir = Dir::new(&[("a.yaml", &both.replace("kind: Service", "knd: Service"))]);
    assert!(dir.load().lost.may_hold("any", "thing"), "nobody knows what it was");
}

/// What has no name stands for no more than what went when it came.
#[test]
fn beside_what_has_no_name_objects_are_deleted_and_moved_as_ever() {
    let nameless = "---\nknd: Service\n";
    let three = ["a", "b", "c"].map(|name| service(name, "80") + "---\n").concat();
    let mut dir = Dir::new(&[("a.yaml", &(three.clone() + nameless))]);
    assert!(dir.load().lost.may_hold("any", "thing"), "nobody knows what it was");
    dir.write("a.yaml", &(three.replace(&service("a", "80"), "") + nameless));
    let snapshot = dir.load();
    assert!(snapshot.lost.may_hold("any", "thing"), "nor is it what was deleted");
    assert_eq!(dir.services().0, ["b", "c"]);
    // One breaks, and then is to be found elsewhere.
    let broken = service("b", "80").replace("kind", "knd") + "---\n" + &service("c", "80");
    dir.write("a.yaml", &(broken.clone() + nameless));
    assert_eq!(dir.services().0, ["b", "c"]);
    dir.write("b.yaml", &service("b", "81"));
    let (names, problems) = dir.services();
    assert_eq!(names, ["b", "c"]);
    assert!(problems.iter().all(|line| !line.contains("is defined")), "{problems:?}");
    let snapshot = dir.load();
    let b = snapshot.objects.services.values().next().unwrap();
    assert_eq!((b.object.ports[0].port, &*b.file), (81, "b.yaml"));
}

#[test]
fn what_is_bad_from_the_start_is_told_apart_from_what_goes_bad() {
    let mut dir = Dir::new(&[("a.yaml", &service("one", "80")), ("b.yaml", "kind: [")]);
    assert!(dir.load().lost.may_hold("any", "thing"), "nobody knows what is in b.yaml");
    dir.write("b.yaml", &service("two", "x"));
    let lost = dir.load().lost;
    assert!(lost.may_hold("default", "two"), "the object was never good");
    assert!(!lost.may_hold("default", "three"), "others are not concerned");
    dir.write("b.yaml", &service("two", "80"));
    assert!(dir.load().lost.is_empty());
    dir.write("a.yaml", "kind: [");
    dir.write("b.yaml", &service("two", "x"));
    assert!(dir.load().lost.is_empty(), "both keep their last good state");
}

#[test]
fn of_two_objects_with_one_name_the_first_file_counts() {
    let mut dir = Dir::new(&[("b.yaml", &service("web", "81")), ("a.yml", &service("web", "80"))]);
    let (names, problems) = dir.services();
    assert_eq!(names, ["web"]);
    assert_eq!(
        problems,
        ["b.yaml: Service default/web: metadata.name: is defined in a.yml already, which counts"]
    );
    fs::remove_file(dir.path("a.yml")).unwrap();
    let snapshot = dir.load();
    assert!(snapshot.problems.is_empty());
    assert_eq!(snapshot.objects.services.values().next().unwrap().object.ports[0].port, 81);
}

#[test]
fn a_directory_that_is_missing_is_an_error_and_never_an_empty_set() {
    let mut dir = Dir::new(&[("a.yaml", &service("a", "80"))]);
    assert!(dir.load().changed);
    assert!(!dir.load().changed);
    let elsewhere = dir.dir.path().with_extension("away");
    fs::rename(dir.dir.path(), &elsewhere).unwrap();
    let error = dir.manifests.load().unwrap_err().to_string();
    assert!(error.starts_with("read the manifest directory "), "{error}");
    assert!(error.contains("No such file or directory"), "{error}");
    fs::rename(&elsewhere, dir.dir.path()).unwrap();
    let snapshot = dir.load();
    assert!(!snapshot.changed);
    assert_eq!(snapshot.objects.services.len(), 1);
    assert!(ManifestDir::new(dir.path("a.yaml")).load().is_err());
}

#[test]
fn a_file_that_is_rewritten_in_place_never_looks_empty() {
    let mut dir = Dir::new(&[("a.yaml", &service("a", "80"))]);
    assert_eq!(dir.services().0, ["a"]);
    let writer = fs::File::create(dir.path("a.yaml")).unwrap();
    let snapshot = dir.load();
    assert_eq!(snapshot.objects.services.len(), 1);
    assert!(!snapshot.changed);
    drop(writer);
    assert_eq!(dir.services().0, [""; 0]);
}

#[test]
fn equal_sizes_within_one_tick_of_the_clock_are_told_apart() {
    let mut dir = Dir::new(&[]);
    for round in 0..200 {
        let port = 10_000 + round;
        dir.write("a.yaml", &service("a", &port.to_string()));
        let snapshot = dir.load();
        assert!(snapshot.changed);
        let loaded = snapshot.objects.services.values().next().unwrap();
        assert_eq!(loaded.object.ports[0].port, port);
    }
}

#[test]
fn config_map_mounts_are_followed_through_their_links() {
    let mut dir = Dir::new(&[]);
    let version = |name: &str, port: &str| {
        fs::create_dir(dir.path(name)).unwrap();
        fs::write(dir.path(name).join("a.yaml"), service("a", port)).unwrap();
    };
    version("..1", "80");
    version("..2", "81");
    std::os::unix::fs::symlink("..1", dir.path("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", dir.path("a.yaml")).unwrap();
    assert_eq!(dir.services(), (vec!["a".into()], vec![]));
    std::os::unix::fs::symlink("..2", dir.path("..new")).unwrap();
    fs::rename(dir.path("..new"), dir.path("..data")).unwrap();
    let snapshot = dir.load();
    assert_eq!(snapshot.objects.services.values().next().unwrap().object.ports[0].port, 81);
}

#[test]
fn what_the_watcher_saw_is_all_that_is_looked_at() {
    let mut dir = Dir::new(&[("a.yaml", &service("a", "80"))]);
    let mut changes = dir.manifests.watch().unwrap();
    let mut names = |dir: &mut Dir, expected: &[&str]| {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            if changes.try_recv().is_ok() {
                let snapshot = dir.manifests.load_touched().unwrap();
                let names = snapshot.objects.services.keys().map(|name| name.name.clone());
                if names.eq(expected.iter().copied()) {
                    break;
                }
            }
            assert!(Instant::now() < end, "{expected:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    // Before anything was looked at, that is everything.
    dir.write("b.yaml", &service("b", "80"));
    names(&mut dir, &["a", "b"]);
    dir.write("b.yaml", &service("c", "80"));
    names(&mut dir, &["a", "c"]);
    dir.write(".new", &service("d", "80"));
    fs::rename(dir.path(".new"), dir.path("d.yaml")).unwrap();
    names(&mut dir, &["a", "c", "d"]);
    fs::remove_file(dir.path("a.yaml")).unwrap();
    names(&mut dir, &["c", "d"]);
    fs::rename(dir.path("b.yaml"), dir.path("e.yaml")).unwrap();
    dir.write("a.yaml", &service("a", "80"));
    names(&mut dir, &["a", "c", "d"]);
    // A message with nothing behind it is no change.
    assert!(!dir.manifests.load_touched().unwrap().changed);
}

/// From the write until the new set is compiled. The limit leaves room for a
/// machine that is busy with other tests.
#[test]
fn a_change_is_compiled_soon_after_it_is_written() {
    let mut dir = Dir::new(&[("a.yaml", YAML)]);
    let mut changes = dir.manifests.watch().unwrap();
    dir.load();
    let mut times = Vec::new();
    for round in 0..10 {
        let port = 20_000 + round;
        let start = Instant::now();
        dir.write("b.yaml", &service("z", &port.to_string()));
        loop {
            let told = changes.try_recv().is_ok();
            if told {
                let snapshot = dir.manifests.load_touched().unwrap();
                let (desired, _) = compile(&snapshot.objects, &CompileOptions::default());
                if desired.services.values().any(|service| service.port == port) {
                    break;
                }
            }
            assert!(start.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(start.elapsed());
    }
    times.sort();
    assert!(times[5] < Duration::from_millis(150), "{times:?}");
}

/// A list with so many items that it is read in pieces.
fn large(items: &[String]) -> String {
    let mut text = String::from("apiVersion: v1\nitems:\n");
    for item in items {
        text.extend(["- ", item, "\n"]);
    }
    for number in 0..40 {
        let padding =
            format!("- {{apiVersion: v1, kind: Node, metadata: {{name: pad-{number}}}}}\n");
        text.push_str(&padding);
    }
    text + "kind: List\n"
}

fn inline(name: &str, port: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, \
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}}}"
    )
}

#[test]
fn a_refused_item_of_a_large_list_keeps_its_last_good_state() {
    let list = |a: &str, b: &str| large(&[inline("a", a), inline("b", b)]);
    let mut dir = Dir::new(&[("a.yaml", &list("80", "81"))]);
    assert_eq!(dir.load().changes.services.len(), 2);
    dir.write("a.yaml", &list("0", "82"));
    for _ in 0..2 {
        let snapshot = dir.load();
        let ports: Vec<u16> =
            snapshot.objects.services.values().map(|one| one.object.ports[0].port).collect();
        assert_eq!(ports, [80, 82]);
        assert!(snapshot.lost.is_empty());
        let problems: Vec<String> = snapshot.problems.iter().map(ToString::to_string).collect();
        assert!(problems[0].ends_with("; its last good state stays in force"), "{problems:?}");
        assert_eq!(problems.len(), 1);
    }
    // It stays good while others change, and its good state may come back.
    dir.write("a.yaml", &list("0", "83"));
    let changes = dir.load().changes;
    let names: Vec<&str> = changes.services.iter().map(|one| one.name.name.as_str()).collect();
    assert_eq!(names, ["b"]);
    assert_eq!(dir.services().0, ["a", "b"]);
    dir.write("a.yaml", &list("80", "83"));
    let snapshot = dir.load();
    assert_eq!(snapshot.changes, Changes::default());
    assert!(snapshot.changed && snapshot.problems.is_empty());
    // A file that goes bad as a whole keeps all of it.
    dir.write("a.yaml", &(list("80", "83") + "- ["));
    assert_eq!(dir.services().0, ["a", "b"]);
}

/// Any object, in one line.
fn any_object() -> impl Strategy<Value = String> {
    let number = 0_u8..6;
    let flags = proptest::prelude::any::<[bool; 4]>();
    (0_u8..5, number.clone(), number.clone(), number, flags).prop_map(
        |(kind, a, b, c, [one, two, three, four])| match kind {
            0 | 1 => {
                let selector = if one { format!("selector: {{app: x{c}}},") } else { String::new() };
                let local = "type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: ";
                let local =
                    if two { format!("{local}{},", 30_000 + u16::from(b)) } else { String::new() };
                let affinity = if three { "sessionAffinity: ClientIP," } else { "" };
                let created = if four { "" } else { ", creationTimestamp: '2026-11-22T13:00:05Z'" };
                format!(
                    "{{apiVersion: v1, kind: Service, metadata: {{name: s{a}{created}}}, spec: \
                     {{clusterIP: 10.96.0.{b}, {selector} {local} {affinity} ports: [{{name: p, port: 80}}]}}}}"
                )
            }
            2 => format!(
                "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: e{a}, \
                 labels: {{kubernetes.io/service-name: s{b}}}}}, addressType: IPv4, ports: [{{name: p, \
                 port: 8080}}], endpoints: [{{addresses: [10.0.0.{c}], conditions: {{ready: {one}}}, \
                 nodeName: n{}, hints: {{forZones: [{{name: z{c}}}]}}}}]}}",
                c % 2
            ),
            3 => format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p{a}, labels: {{app: x{b}}}}}, spec: \
                 {{nodeName: n{}, containers: []}}, status: {{phase: {}, podIP: 10.1.0.{c}, conditions: \
                 [{{type: Ready, status: \"{one}\"}}]}}}}",
                c % 2,
                if two || three { "Running" } else { "Failed" }
            ),
            _ => format!(
                "{{apiVersion: v1, kind: Node, metadata: {{name: n{}, labels: \
                 {{topology.kubernetes.io/zone: z{b}}}}}}}",
                a % 2
            ),
        },
    )
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn following_changes_leads_to_the_same_as_reading_everything(
        steps in proptest::collection::vec(
            (0_usize..2, proptest::collection::vec(any_object(), 0..20), 0_u8..4),
            1..8,
        ),
    ) {
        let mut dir = Dir::new(&[]);
        let options = CompileOptions { node_name: Some("n1".into()), ..CompileOptions::default() };
        let mut compiler = Compiler::new(options.clone());
        let mut before = Arc::default();
        for (file, items, form) in steps {
            let name = ["a.yaml", "b.yaml"][file];
            match form {
                0 => drop(fs::remove_file(dir.path(name))),
                1 => dir.write(name, &(items.join("\n---\n") + "\n")),
                _ => dir.write(name, &large(&items).replace("pad", ["p", "q"][file])),
            }
            let snapshot = dir.load();
            let whole = ManifestDir::new(dir.dir.path()).load().unwrap();
            proptest::prop_assert_eq!(&snapshot.objects, &whole.objects);
            proptest::prop_assert_eq!(&snapshot.problems, &whole.problems);
            proptest::prop_assert_eq!(&snapshot.changes, &Changes::between(&before, &whole.objects));
            compiler.update(&snapshot.objects, &snapshot.changes);
            let (desired, mut problems) = compile(&whole.objects, &options);
            let (checks, unheard) = health_checks(&whole.objects, &options);
            problems.extend(unheard);
            proptest::prop_assert_eq!(compiler.desired(), &desired);
            proptest::prop_assert_eq!(compiler.health_checks(), &checks);
            proptest::prop_assert_eq!(compiler.problems().cloned().collect::<Vec<_>>(), problems);
            before = snapshot.objects;
        }
    }
}

/// Damages a text in one place.
fn damage(text: &str, (kind, place, piece): (u8, usize, usize)) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let place = place % lines.len();
    let mut damaged = lines.clone();
    let other = lines[piece % lines.len()];
    let changed;
    match kind % 4 {
        0 => damaged[place] = other,
        1 => {
            damaged.remove(place);
        }
        2 => damaged.truncate(place),
        _ => {
            let words = ["null", "-1", "[]", "{}", "\"\\0\"", "70000", "~", "on", "10.0.0.300"];
            let (key, _) = lines[place].split_once(':').unwrap_or((lines[place], ""));
            changed = format!("{key}: {}", words[piece % words.len()]);
            damaged[place] = &changed;
        }
    }
    damaged.join("\n")
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]
    #[test]
    fn no_damage_to_a_dump_panics_or_gets_through_the_checks(
        damages in proptest::collection::vec(proptest::prelude::any::<(u8, usize, usize)>(), 1..4),
    ) {
        // A part of the dump with each kind, so that it is quick.
        let start = YAML.find("- apiVersion: v1\n  kind: Service").unwrap();
        let sample: String = YAML[start..].split_inclusive("\n- ").step_by(3).collect();
        let mut text = format!("apiVersion: v1\nkind: List\nitems:\n{sample}");
        for damage_done in damages {
            text = damage(&text, damage_done);
            if text.is_empty() {
                break;
            }
        }
        let snapshot = read_text("a.yaml", &text);
        let (desired, problems) = compile(&snapshot.objects, &CompileOptions::default());
        for service in desired.services.values() {
            proptest::prop_assert_ne!(service.port, 0);
            proptest::prop_assert!(service.backends.iter().all(|backend| backend.port != 0));
            proptest::prop_assert!(service.backends.is_sorted());
        }
        for problem in snapshot.problems.iter().chain(&problems) {
            proptest::prop_assert!(!problem.to_string().contains(|c: char| c.is_control()));
        }
    }
}

#[test]
fn a_pods_weight_counts_before_that_of_its_slice() {
    let pod = |name: &str, weight: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\n  \
             annotations: {{lb.network/weight: \"{weight}\"}}\nstatus:\n  podIP: 10.244.0.9\n  \
             conditions: [{{type: Ready, status: \"True\"}}]\n"
        )
    };
    let slice = |name: &str, annotations: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-1\n  \
             labels: {{kubernetes.io/service-name: {name}}}\n  annotations: {annotations}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n\
             - {{addresses: [10.244.0.1], targetRef: {{kind: Pod, name: heavy}}}}\n\
             - {{addresses: [10.244.0.2], targetRef: {{kind: Pod, name: unknown}}}}\n\
             - {{addresses: [10.244.0.3], targetRef: {{kind: Node, name: heavy}}}}\n"
        )
    };
    let selecting = "apiVersion: v1\nkind: Service\nmetadata: {name: selecting}\nspec:\n  \
         clusterIP: 10.96.0.1\n  ports: [{port: 82}]\n  selector: {app: drained}\n";
    let text = [
        service("weighted", "80"),
        "---\n".into(),
        service("plain", "81"),
        "---\n".into(),
        selecting.into(),
        pod("heavy", "500"),
        pod("drained", "0"),
        slice("weighted", "{lb.network/weight: \"7\"}"),
        slice("plain", "{}"),
    ]
    .concat();
    let desired = compiled(&text, None);
    let weights = |name| {
        let service = port(&desired, "default", name, "");
        service.backends.iter().map(|backend| backend.weight).collect::<Vec<_>>()
    };
    assert_eq!(weights("weighted"), [500, 7, 7]);
    assert_eq!(weights("plain"), [500, 1, 1]);
    assert_eq!(weights("selecting"), [0]);
}
