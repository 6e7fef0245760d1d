//! `lb check`, as a user runs it: exit status, and what it says.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use lb_tests::process;
use tempfile::TempDir;

const GOOD: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 80}]
";

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

fn check(dir: &Path, args: &[&str]) -> Output {
    let binary = process::binary("lb").unwrap();
    Command::new(binary).arg("check").arg(dir).args(args).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

#[test]
fn the_dump_of_a_cluster_is_accepted_without_a_warning() {
    for (file, objects) in [("cluster.yaml", 42), ("cluster.json", 41)] {
        let dir = directory(&[]);
        fs::copy(data().join(file), dir.path().join(file)).unwrap();
        let output = check(dir.path(), &[]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(text.contains(&format!("{file}: Service shop/web: accepted\n")), "{text}");
        assert!(text.contains(&format!("{file}: Pod shop/api-v1: accepted\n")), "{text}");
        // Its policy, by annotation, is a known one.
        assert!(text.contains(&format!("{file}: Service shop/api: accepted\n")), "{text}");
        let summary = text.lines().last().unwrap();
        assert!(summary.starts_with(&format!("{objects} objects accepted, 0 refused, ")));
        assert!(summary.ends_with("; 1 file, 12 Service ports, 35 backends"), "{summary}");
        assert_eq!(check(dir.path(), &["--strict"]).status.code(), Some(0));
        let node = check(dir.path(), &["--node-name", "n1"]);
        assert!(stdout(&node).ends_with("12 Service ports, 20 backends on n1\n"));
    }
}

#[test]
fn a_refused_object_is_named_with_file_field_and_reason() {
    let dir = directory(&[
        ("good.yaml", GOOD),
        ("value.yaml", &GOOD.replace("80", "80000").replace("web", "value")),
        ("type.yaml", &GOOD.replace("80", "eighty").replace("web", "type")),
        ("syntax.yaml", "kind: Service\n  name: [\n"),
        ("typo.yaml", &GOOD.replace("ports:", "prots: 1, ports:").replace("web", "typo")),
    ]);
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for line in [
        "good.yaml: Service shop/web: accepted",
        "value.yaml: Service shop/value: refused: spec.ports[0].port: must be a port from 1 to \
         65535, not 80000",
        "type.yaml: Service shop/type: refused: spec.ports[0].port: invalid type: string \
         \"eighty\", expected i32",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}\nis not in\n{text}");
    }
    assert!(text.contains("syntax.yaml: refused: line 2, column "), "{text}");
}

#[test]
fn warnings_count_only_if_asked_for() {
    let unknown = GOOD.replace("spec:\n", "spec:\n  selectr: {}\n");
    let dir = directory(&[("a.yaml", &unknown)]);
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0));
    let line = "a.yaml: Service shop/web: warning: spec.selectr: is unknown and has no effect\n";
    assert!(stdout(&output).contains(line), "{}", stdout(&output));
    assert_eq!(check(dir.path(), &["--strict"]).status.code(), Some(1));
}

#[test]
fn two_services_with_one_address_are_told_apart_by_age() {
    let aged = |name: &str, year: &str| {
        GOOD.replace(
            "name: web",
            &format!("name: {name}, creationTimestamp: {year}-01-01T00:00:00Z"),
        )
    };
    let dir = directory(&[("a.yaml", &aged("new", "2026")), ("b.yaml", &aged("old", "2025"))]);
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let line = "a.yaml: Service shop/new: refused: spec.ports[0].port: 10.96.0.1:80/TCP belongs \
                to Service shop/old, which comes first, so it is not served here\n";
    assert!(stdout(&output).contains(line), "{}", stdout(&output));
}

#[test]
fn json_says_the_same() {
    let dir = directory(&[("a.json", "{\"kind\": \"Service\"}"), ("b.yaml", GOOD)]);
    let output = check(dir.path(), &["-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["accepted"], 1);
    assert_eq!(report["refused"], 1);
    assert_eq!(report["objects"][0]["file"], "a.json");
    assert_eq!(report["objects"][0]["object"], serde_json::Value::Null);
    assert_eq!(report["objects"][0]["problems"][0]["field"], "apiVersion");
    assert_eq!(report["objects"][1]["object"], "Service shop/web");
    assert_eq!(report["objects"][1]["result"], "accepted");
}

#[test]
fn names_from_files_cannot_write_to_the_terminal() {
    let hostile = GOOD.replace("name: web", "name: \"\\e[31mweb\\u202e\"");
    let dir = directory(&[("a\u{1b}[2J\n.yaml", &hostile)]);
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(
        text.starts_with("a\\u{1b}[2J\\n.yaml: Service shop/\\u{1b}[31mweb\\u{202e}: "),
        "{text}"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_line_and_the_others_count() {
    let dir = directory(&[("good.yaml", GOOD)]);
    fs::create_dir(dir.path().join("dir.yaml")).unwrap();
    symlink("nowhere", dir.path().join("link.yaml")).unwrap();
    symlink("/proc/self/mem", dir.path().join("broken.yaml")).unwrap();
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for line in [
        "broken.yaml: refused: can't be read: Input/output error (os error 5)",
        "dir.yaml: refused: is not a regular file and is not read",
        "good.yaml: Service shop/web: accepted",
        "link.yaml: refused: is a link to nowhere, where there is nothing",
    ] {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in {text}");
    }
    assert!(text.lines().last().unwrap().starts_with("1 object accepted, 3 refused"), "{text}");
}

#[test]
fn a_missing_directory_is_one_sentence_on_standard_error() {
    let dir = directory(&[]);
    for path in [dir.path().join("missing"), data().join("cluster.yaml")] {
        let output = check(&path, &[]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(stdout(&output), "");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.starts_with("lb: read the manifest directory "), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let output = check(dir.path(), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).starts_with("0 objects accepted, 0 refused"), "{}", stdout(&output));
}

/// What each Service would do on this node, and why an endpoint is not used.
#[test]
fn each_service_is_explained() {
    let dir = directory(&[]);
    fs::copy(data().join("cluster.yaml"), dir.path().join("cluster.yaml")).unwrap();
    let output = check(dir.path(), &["--node-name", "n1"]);
    let text = stdout(&output);
    for line in [
        "Service infra/empty:http 80/TCP: round-robin, 0 endpoints in the cluster (refused)",
        "Service infra/zonal:dns 53/UDP: 10.244.2.31:5353 gets nothing new: others are closer, by \
         the topology hints",
        "Service shop/api:grpc 443/TCP: round-robin, 2 endpoints in the cluster, a client keeps \
         its endpoint for 600 s",
        "Service shop/db: is headless: clients get the endpoints from DNS",
        "Service shop/payments: is an ExternalName: a name in DNS, never proxied",
        "Service shop/web:http 80/TCP: 10.244.2.12:8080 gets nothing new: is neither ready nor \
         serving",
        "Service shop/web-lb:http 80/TCP: round-robin, 3 IPv4 and 3 IPv6 endpoints in the \
         cluster, 2 IPv4 and 2 IPv6 endpoints on this node for clients from outside",
    ] {
        let policy = line.replace("round-robin, 2", "maglev, 2");
        assert!(text.contains(line) || text.contains(&policy), "{line}\n{text}");
    }
    let output = check(dir.path(), &["--node-name", "n1", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let zonal = json["services"].as_array().unwrap().iter().find(|one| one["name"] == "zonal");
    let port = &zonal.unwrap()["ports"][0];
    assert_eq!(port["cluster_endpoints"], 1);
    assert_eq!(port["unused"][0]["endpoint"], "10.244.2.31:5353");
}
