//! What operators of kube-proxy rely on: its ports, its metrics, its file, its
//! events. Asked as their tools do.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::jiff::Timestamp;
use lb_tests::agent::{Agent, Options, metric};
use lb_tests::api_server::ApiServer;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::{self, patient};
use lb_tests::exposition::{METRICS, Measured, Sample, ask, line, scrape, text};
use lb_tests::manifest::{Service, items};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(20);
/// Where each node's own API server listens.
const API: &str = "127.0.0.1:6443";
/// kube-proxy's port for probes.
const HEALTHZ: u16 = 10_256;
/// A health-check node port.
const CHECKED: u16 = 32_001;

/// The series that the panels of kubernetes-mixin's dashboard for kube-proxy ask for
/// (dashboards/proxy.libsonnet), with the labels by which they do; `up` is
/// Prometheus's own, and there are no goroutines.
const DASHBOARD: &[(&str, &[(&str, &str)])] = &[
    ("kubeproxy_sync_proxy_rules_duration_seconds_count", &[]),
    ("kubeproxy_sync_proxy_rules_duration_seconds_bucket", &[("le", "0.001")]),
    ("kubeproxy_network_programming_duration_seconds_count", &[]),
    ("kubeproxy_network_programming_duration_seconds_bucket", &[("le", "0.25")]),
    ("rest_client_requests_total", &[("code", "200")]),
    ("rest_client_request_duration_seconds_bucket", &[("verb", "GET"), ("le", "0.005")]),
    ("rest_client_request_duration_seconds_bucket", &[("verb", "POST"), ("le", "0.005")]),
    ("process_resident_memory_bytes", &[]),
    ("process_cpu_seconds_total", &[]),
];

/// A cluster whose agents follow an API server.
struct Scene {
    agents: Vec<Agent>,
    server: ApiServer,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Result<Self> {
        let server = ApiServer::new()?;
        let cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
        for node in &cluster.topology.nodes {
            server.listen(&node.netns, API.parse()?)?;
        }
        Ok(Self { agents: Vec::new(), server, cluster })
    }

    /// Starts an agent on the next node, as these arguments say.
    fn launch(&mut self, source: Vec<OsString>, more: &'static [&'static str]) -> Result<()> {
        let node = &self.cluster.topology.nodes[self.agents.len()];
        let options = Options { xdp: "off", tc: "auto", more };
        self.agents.push(Agent::launch(&node.netns, &node.name, source, options)?);
        self.agents.last_mut().context("an agent")?.ready()
    }

    /// Publishes Services, each object with a uid.
    fn publish(&self, services: &[Service], more: &[Value]) {
        let mut objects = items(&self.cluster.topology, services);
        objects.extend(more.iter().cloned());
        for object in &mut objects {
            object["metadata"]["uid"] = format!("uid of {}", object["metadata"]["name"]).into();
        }
        self.server.publish(objects);
    }

    /// A Service whose endpoint is one pod, changed for what happened at a time.
    fn on(&self, node: usize, pod: usize, at: SystemTime) -> Result<Service> {
        let node = &self.cluster.topology.nodes[node];
        let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
        let overlay = json!({ "metadata": { "annotations": { annotation: Timestamp::try_from(at)?.to_string() } } });
        Ok(web().endpoint(node, &node.pods[pod]).with_slices(overlay))
    }

    fn node(&self, index: usize) -> &Namespace {
        &self.cluster.node(index).netns
    }

    /// Waits until exactly this pod answers on the Service's address.
    fn served(&self, client: usize, by: &str) -> Result<()> {
        deadline::until_ok("the Service", patient(LIMIT), || self.serves(client, by))
    }

    fn serves(&self, client: usize, by: &str) -> Result<()> {
        let pod = &self.cluster.pod(client, 1).netns;
        Tally::of(pod, Kind::Http, web().http_addresses()[0], 4)?.expect(&[by])
    }
}

fn web() -> Service {
    Service::new("web", 1).http(30080)
}

/// Names in the first column of the table of metrics, of rows that say so.
fn documented(what: &str) -> Result<Vec<String>> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/kube-proxy.md");
    let text = fs::read_to_string(docs)?;
    let section = text.split("\n## ").find(|part| part.starts_with("Metrics\n"));
    let rows = section.context("a section of metrics")?.lines().filter_map(|line| {
        let mut cells = line.split('|').skip(1).map(str::trim);
        Some((cells.next()?, cells.next()?))
    });
    let rows = rows.filter(|(_, says)| match what {
        "told" => ["same", "different"].contains(says),
        _ => *says == "none",
    });
    Ok(rows.flat_map(|(names, _)| names.split('`').skip(1).step_by(2)).map(str::to_owned).collect())
}

#[test]
fn metrics_are_those_that_dashboards_for_kube_proxy_ask_for() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let before = SystemTime::now() - Duration::from_mins(1);
    scene.publish(&[scene.on(0, 0, before)?], &[]);
    let source = scene.server.source(API.parse()?)?;
    scene.launch(source, &[])?;
    scene.served(0, "pod-1a")?;
    let netns = scene.node(0);
    let programmed = "kubeproxy_network_programming_duration_seconds_count";
    ensure!(
        line(netns, programmed, &[("ip_family", "IPv4")])? == Some(0.0),
        "older than the agent"
    );
    let changes = "kubeproxy_sync_proxy_rules_endpoint_changes_total";
    let seen = metric(netns, changes)?;
    scene.publish(&[scene.on(1, 0, SystemTime::now())?], &[]);
    scene.served(0, "pod-2a")?;
    // Both slices, one of each family.
    deadline::until_ok("the change", patient(LIMIT), || {
        for family in ["IPv4", "IPv6"] {
            let latency = line(netns, programmed, &[("ip_family", family)])?;
            ensure!(latency == Some(1.0), "{family}: {latency:?}");
        }
        ensure!(metric(netns, changes)? == seen + 2);
        ensure!(metric(netns, "kubeproxy_sync_proxy_rules_endpoint_changes_pending")? == 0);
        // The first event that was published.
        ensure!(line(netns, DASHBOARD[6].0, DASHBOARD[6].1)?.is_some());
        Ok(())
    })?;
    let late = "kubeproxy_network_programming_duration_seconds_bucket";
    let within = line(netns, late, &[("ip_family", "IPv4"), ("le", "20")])?;
    ensure!(within == Some(1.0), "{within:?}");
    for probe in ["healthz", "healthz", "livez"] {
        text(netns, HEALTHZ, &format!("/{probe}"))?;
    }
    let (samples, families) = scrape(netns)?;
    for (name, labels) in DASHBOARD {
        ensure!(line(netns, name, labels)?.is_some(), "no series for {name}{labels:?}");
    }
    let value = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        let is = |sample: &&Sample| {
            sample.metric == name
                && labels.iter().all(|(label, value)| sample.labels.get(label) == Some(value))
        };
        match samples.iter().find(is).map(|sample| &sample.value) {
            Some(Measured::Counter(value) | Measured::Gauge(value) | Measured::Untyped(value)) => {
                Ok(*value)
            }
            other => anyhow::bail!("{name}{labels:?} is {other:?}"),
        }
    };
    for (probe, answers) in [("healthz", 2), ("livez", 1)] {
        let of = |code| metric(netns, &format!("kubeproxy_proxy_{probe}_total{{code=\"{code}\"}}"));
        ensure!(of(200)? == answers && of(503)? == 0);
    }
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs_f64();
    for family in ["IPv4", "IPv6"] {
        let label = [("ip_family", family)];
        let last = value("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &label)?;
        let queued = value("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &label)?;
        ensure!(now - 120.0 < queued && queued <= last && last <= now, "{queued} {last} {now}");
        let label = format!("{{ip_family=\"{family}\"}}");
        let count = |kind: &str| {
            metric(netns, &format!("kubeproxy_sync_{kind}_duration_seconds_count{label}"))
        };
        let parts = [count("full_proxy_rules")?, count("partial_proxy_rules")?];
        ensure!(parts.iter().all(|part| *part >= 1), "{parts:?}");
        ensure!(parts.iter().sum::<u64>() == count("proxy_rules")?, "{parts:?}");
    }
    let started = value("process_start_time_seconds", &[])?;
    ensure!(now - 300.0 < started && started < now, "{started} {now}");
    ensure!(value("process_resident_memory_bytes", &[])? > 1e6);
    ensure!(value("process_open_fds", &[])? > 3.0);
    ensure!(value("rest_client_requests_total", &[("host", API), ("method", "GET")])? >= 4.0);
    // What the page about kube-proxy says is so.
    for name in documented("told")? {
        ensure!(families.contains_key(&name), "{name} is documented and not told");
    }
    for name in documented("none")? {
        ensure!(!families.contains_key(&name), "{name} is told and documented as missing");
    }
    let documented: BTreeSet<String> = documented("told")?.into_iter().collect();
    let own = |name: &&String| name.starts_with("lb_");
    for name in families.keys().filter(|name| !own(name)) {
        ensure!(documented.contains(name), "{name} is told and not documented");
    }
    Ok(())
}

/// A file of kube-proxy's, which says how the API is asked.
fn config_file(home: &Path, kubeconfig: &OsString, more: &str) -> Result<PathBuf> {
    let path = home.join("config.conf");
    let kubeconfig = kubeconfig.to_str().context("a path")?;
    let text = format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
         clientConnection: {{kubeconfig: '{kubeconfig}'}}\n{more}"
    );
    fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn kube_proxys_file_is_taken_and_its_port_tells_what_is_in_force() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    scene.publish(&[scene.on(0, 0, SystemTime::now())?], &[]);
    let mut source = scene.server.source(API.parse()?)?;
    let path = config_file(
        scene.server.state_dir().parent().context("a directory")?,
        &source[1],
        "mode: ipvs\nipvs: {scheduler: mh, minSyncPeriod: 250ms}\niptables: {masqueradeAll: true}\n\
         clusterCIDR: 10.244.0.0/16\nnodePortAddresses: [192.0.2.0/24]\nconntrack: {min: 1}\n\
         metricsBindAddress: 127.0.0.1\nhealthzBindAddress: 0.0.0.0:10300\n",
    )?;
    source.splice(0..2, ["--config".into(), path.into()]);
    // What is typed wins.
    scene.launch(source, &["--nodeport-addresses", "primary"])?;
    scene.served(0, "pod-1a")?;
    let netns = scene.node(0);
    ensure!(text(netns, METRICS, "/proxyMode")? == "ebpf");
    ensure!(text(netns, METRICS, "/livez")? == "ok\n");
    ensure!(text(netns, METRICS, "/healthz")? == "ok\n");
    ensure!(text(netns, 10_300, "/healthz")?.contains("lastUpdated"));
    ensure!(ask(netns, METRICS, "/flagz")?.start.starts_with("HTTP/1.1 404 "));
    let page = ask(netns, METRICS, "/configz")?;
    ensure!(page.header("content-type") == Some("application/json"));
    let told: Value = serde_json::from_slice(&page.body)?;
    let config = &told["kubeproxy.config.k8s.io"];
    for (pointer, expected) in [
        ("/apiVersion", json!("kubeproxy.config.k8s.io/v1alpha1")),
        ("/kind", json!("KubeProxyConfiguration")),
        ("/mode", json!("ebpf")),
        ("/hostnameOverride", json!("n1")),
        ("/clusterCIDR", json!("10.244.0.0/16")),
        ("/detectLocalMode", json!("ClusterCIDR")),
        ("/iptables/masqueradeAll", json!(true)),
        ("/iptables/minSyncPeriod", json!("250ms")),
        ("/nodePortAddresses", json!(["primary"])),
        ("/metricsBindAddress", json!("127.0.0.1:10249")),
        ("/healthzBindAddress", json!("0.0.0.0:10300")),
    ] {
        ensure!(config.pointer(pointer) == Some(&expected), "{pointer} of {config:#}");
    }
    ensure!(told["lb"]["policy"] == "maglev" && told["lb"]["source"] == "kubernetes", "{told:#}");
    let log = fs::read_to_string(scene.agents[0].log())?;
    let warned = log.lines().filter(|line| line.contains("without effect: conntrack.min")).count();
    ensure!(warned == 1, "{log}");
    Ok(())
}

#[test]
fn changes_wait_as_long_as_they_were_told_to() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let now = SystemTime::now();
    scene.publish(&[scene.on(0, 0, now)?], &[]);
    let source = || scene.server.source(API.parse()?);
    let (patient_one, quick_one) = (source()?, source()?);
    scene.launch(patient_one, &["--min-sync-period", "60m"])?;
    scene.launch(quick_one, &["--min-sync-period", "500ms"])?;
    // The first is in force at once on both.
    scene.served(0, "pod-1a")?;
    scene.served(1, "pod-1a")?;
    scene.publish(&[scene.on(1, 0, now)?], &[]);
    scene.served(1, "pod-2a")?;
    let pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    deadline::until_ok("the change to be known", patient(LIMIT), || {
        let pending = metric(scene.node(0), pending)?;
        ensure!(pending == 2, "{pending} changes wait");
        Ok(())
    })?;
    scene.serves(0, "pod-1a")?;
    ensure!(metric(scene.node(1), pending)? == 0);
    Ok(())
}

/// A Service of type LoadBalancer whose health is asked for.
fn checked() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "checked", "namespace": "default" },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"],
            "ports": [{ "port": 80 }], "healthCheckNodePort": CHECKED,
        },
    })
}

/// A Service that can't be in force.
fn refused() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "refused", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.78", "clusterIPs": ["10.96.0.78"],
                  "ports": [{ "port": 70_000 }] },
    })
}

#[test]
fn who_looks_at_an_object_finds_what_is_wrong_with_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let taken = (Ipv4Addr::UNSPECIFIED, CHECKED);
    let taken = scene.node(0).run(|| TcpListener::bind(taken))??;
    let now = SystemTime::now();
    scene.publish(&[scene.on(0, 0, now)?], &[checked(), refused()]);
    let source = scene.server.source(API.parse()?)?;
    scene.launch(source, &[])?;
    scene.served(0, "pod-1a")?;
    let expected = [
        ("Node", "n1", "n1", "Normal", "Starting", "lb "),
        (
            "Service",
            "checked",
            "uid of \"checked\"",
            "Warning",
            "FailedToStartServiceHealthcheck",
            "spec.healthCheckNodePort: can't be listened on",
        ),
        (
            "Service",
            "refused",
            "uid of \"refused\"",
            "Warning",
            "Refused",
            "spec.ports[0].port: must be a port from 1 to 65535, not 70000",
        ),
    ];
    let of = |name: &str| -> Vec<Value> {
        let events = scene.server.events().into_iter();
        events.filter(|event| event["regarding"]["name"] == name).collect()
    };
    deadline::until_ok("events", patient(LIMIT), || {
        for (kind, name, uid, severity, reason, note) in expected {
            let events = of(name);
            let [event] = &events[..] else { anyhow::bail!("{name}: {events:#?}") };
            let regarding = &event["regarding"];
            ensure!(regarding["kind"] == kind && regarding["uid"] == uid, "{event:#}");
            ensure!(event["type"] == severity && event["reason"] == reason, "{event:#}");
            ensure!(event["reportingController"] == "lb-agent", "{event:#}");
            ensure!(event["reportingInstance"] == "n1", "{event:#}");
            let told = event["note"].as_str().unwrap_or_default();
            ensure!(told.starts_with(note), "{told}");
        }
        Ok(())
    })?;
    // What goes on being wrong is told once; what comes again is counted.
    scene.publish(&[scene.on(1, 0, now)?], &[checked(), refused()]);
    scene.served(0, "pod-2a")?;
    scene.publish(&[scene.on(1, 0, now)?], &[checked()]);
    let gone = || Ok(scene.agents[0].status()?["problems"].as_array().map_or(0, Vec::len) == 1);
    deadline::until("the refused one to go", patient(LIMIT), || gone().and_then(some).ok())?;
    scene.publish(&[scene.on(1, 0, now)?], &[checked(), refused()]);
    deadline::until_ok("the second event", patient(LIMIT), || {
        let events = of("refused");
        ensure!(events.len() == 1 && events[0]["series"]["count"] == 2, "{events:#?}");
        Ok(())
    })?;
    ensure!(of("checked").len() == 1 && of("checked")[0]["series"].is_null());
    drop(taken);
    Ok(())
}

fn some(is: bool) -> Result<()> {
    ensure!(is);
    Ok(())
}
