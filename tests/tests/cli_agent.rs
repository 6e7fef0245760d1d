//! `lb agent`, `lb services` and `lb status` as a user runs them: what they
//! say, with which exit status, while an agent runs and after.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use lb_tests::agent::{Agent, Options};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::{deadline, privilege, process};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(10);

const MANIFEST: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports: [{port: 80, name: http}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080, name: http}]
endpoints: [{addresses: [10.1.0.1]}, {addresses: [10.1.0.2]}]
";

fn lb(args: &[&str]) -> Output {
    Command::new(process::binary("lb").unwrap()).args(args).output().unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// One sentence on standard error, nothing else, and the exit status.
#[track_caller]
fn fails(output: &Output, code: i32, part: &str) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("lb: ") && text.lines().count() == 1, "{text}");
    assert!(text.contains(part), "{part:?} is missing in {text}");
}

#[test]
fn wrong_usage_is_told_from_failure() {
    for args in [
        &["agent"][..],
        &["agent", "--manifests", "x", "--kubeconfig", "y", "--node-name", "n"],
        &["agent", "--kubeconfig", "y", "--in-cluster", "--node-name", "n"],
        &["agent", "--kubeconfig", "y"],
        &["agent", "--kubeconfig", "y", "--node-name", "n", "--api-server", "192.0.2.1:6443"],
        &["agent", "--manifests", "x", "--api-server", "https://192.0.2.1:6443"],
        &["agent", "--manifests", "x", "--snat-ports", "9-1"],
        &["agent", "--manifests", "x", "--metrics-addr", "here"],
        &["agent", "--manifests", "x", "--healthz-addr", "10256"],
        &["agent", "--manifests", "x", "--answer-ping", "maybe"],
        &["status", "--wait", "soon"],
        &["services", "-o", "yaml"],
        &["juggle"],
    ] {
        let output = lb(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    fails(&lb(&["agent", "--config", "/nowhere/x.conf"]), 1, "/nowhere/x.conf: No such file");
    let help = lb(&["agent", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&help.stdout).contains("--manifests"));
}

#[test]
fn without_a_data_plane_there_is_one_sentence() {
    if !privilege::root_or_skip() {
        return;
    }
    let pins = "/sys/fs/bpf/lbt-nothing-here";
    let output = lb(&["services", "--pin-dir", pins]);
    fails(&output, 1, "no load balancer is loaded at /sys/fs/bpf/lbt-nothing-here");
    let output = lb(&["status", "--pin-dir", pins, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["healthy"], false);
    assert_eq!(status["reasons"][0], "no agent answers on /run/lb/lbt-nothing-here.sock");
}

#[test]
fn an_agent_that_can_not_read_its_source_touches_nothing() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let missing = home.path().join("nowhere");
    let pins = Path::new("/sys/fs/bpf/lbt-untouched");
    for source in ["--manifests", "--kubeconfig"] {
        let args = ["agent", source, missing.to_str().unwrap(), "--node-name", "n", "--pin-dir"];
        let output = lb(&[&args[..], &[pins.to_str().unwrap()]].concat());
        fails(&output, 1, "nowhere");
        assert!(!pins.exists() && !Path::new("/run/lb/lbt-untouched.sock").exists());
    }
}

/// An agent in a namespace of its own.
fn start(manifests: &Path) -> (Namespace, Agent) {
    let netns = Namespace::new(Naming::Unique, "cli").unwrap();
    netns.ip(&["link set lo up".into()]).unwrap();
    let options = Options { xdp: "auto", tc: "auto", more: &[] };
    let agent = Agent::start(&netns, "node-a", manifests, options).unwrap();
    (netns, agent)
}

fn get(netns: &Namespace, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.0\r\n\r\n");
    netns
        .run(move || {
            let mut stream = TcpStream::connect("127.0.0.1:10249").unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
        .unwrap()
}

#[test]
fn what_an_agent_puts_in_force_outlives_it_and_is_told_by_every_command() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let manifest = home.path().join("web.yaml");
    fs::write(&manifest, MANIFEST).unwrap();
    let (netns, mut agent) = start(home.path());
    let pins = agent.pin_dir().to_str().unwrap().to_owned();

    let services = agent.services().unwrap();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0]["cluster_ips"][0], "10.96.0.1");
    assert_eq!(services[0]["backends"][1]["address"], "10.1.0.2");
    assert_eq!(services[0]["node_port"], serde_json::Value::Null);
    let status = agent.status().unwrap();
    assert_eq!(status["agent"]["node_name"], "node-a");
    assert!(status["last_sync"]["duration_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(status["services"], 1);

    let metrics = get(&netns, "/metrics");
    let labels = "namespace=\"shop\",service=\"web\",port_name=\"http\",protocol=\"TCP\"";
    for sample in [
        format!("lb_service_connections_total{{{labels}}} 0"),
        format!("lb_backend_bytes_total{{{labels},address=\"10.1.0.1:8080\",direction=\"in\"}} 0"),
        "lb_packets_total{hook=\"tc_ingress\",verdict=\"forwarded\"} 0".to_owned(),
        "lb_map_entries{map=\"LB_BACKENDS\"} 2".to_owned(),
        "lb_objects_refused 0".to_owned(),
    ] {
        assert!(metrics.contains(&format!("\n{sample}\n")), "{sample} is missing in\n{metrics}");
    }
    assert!(get(&netns, "/healthz").ends_with("ok\n"));

    // A second agent finds the first one.
    let manifests = home.path().to_str().unwrap();
    let again = lb(&["agent", "--manifests", manifests, "--pin-dir", &pins]);
    fails(&again, 1, "an agent already answers on");

    // A broken directory is reported, and changes nothing.
    let aside = home.path().with_extension("aside");
    fs::rename(home.path(), &aside).unwrap();
    let unhealthy = || lb(&["status", "--pin-dir", &pins, "-o", "json"]).status.code() == Some(1);
    deadline::until("the agent to notice", LIMIT, || unhealthy().then_some(())).unwrap();
    assert!(get(&netns, "/healthz").contains("503"));
    assert_eq!(agent.services().unwrap().len(), 1);
    fs::rename(&aside, home.path()).unwrap();
    agent.ready().unwrap();

    // A change is in force soon.
    fs::write(&manifest, MANIFEST.replace(", {addresses: [10.1.0.2]}", "")).unwrap();
    let one =
        || (agent.services().unwrap()[0]["backends"].as_array().unwrap().len() == 1).then_some(());
    deadline::until("the change", LIMIT, one).unwrap();

    agent.terminate().unwrap();
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains("the Services stay in force"), "{log}");
    assert_eq!(agent.services().unwrap().len(), 1);
    let status = lb(&["status", "--pin-dir", &pins]);
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("Serving    1 Service ports"));

    // The next one changes nothing; its reader may leave early.
    agent.run().unwrap();
    agent.ready().unwrap();
    let log = fs::read_to_string(agent.log()).unwrap();
    assert!(log.contains("1 Service ports found in force"), "{log}");
    let mut reader = Command::new(process::binary("lb").unwrap())
        .args(["services", "--pin-dir", &pins])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(reader.stdout.take());
    let left = reader.wait_with_output().unwrap();
    assert_eq!((left.status.code(), stderr(&left)), (Some(0), ""));

    agent.terminate().unwrap();
    agent.cleanup().unwrap();
    fails(&lb(&["services", "--pin-dir", &pins]), 1, "no load balancer is loaded");
}

#[test]
fn an_address_that_is_taken_is_an_error_only_if_it_was_asked_for() {
    if !privilege::root_or_skip() {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("web.yaml"), MANIFEST).unwrap();
    let (netns, mut agent) = start(home.path());
    let pins = format!("{}-b", agent.pin_dir().display());
    for (option, address, other) in [
        ("--metrics-addr", "127.0.0.1:10249", "--healthz-addr"),
        ("--healthz-addr", "127.0.0.1:10256", "--metrics-addr"),
    ] {
        let mut command = netns.command(&process::binary("lb").unwrap());
        command.args(["agent", option, address, other, "off", "--pin-dir", &pins]);
        let output = command.arg("--manifests").arg(home.path()).output().unwrap();
        fails(&output, 1, option);
        assert!(stderr(&output).contains(address), "{}", stderr(&output));
        assert!(!Path::new(&pins).exists());
    }
    agent.terminate().unwrap();
}
