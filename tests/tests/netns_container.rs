//! The agent in a container, started from the DaemonSet's own text: with its few
//! capabilities, on a read-only root with nothing in it but the program, it does all of
//! its work.

use anyhow::{Context as _, Result, ensure};
use lb_tests::api_server::ApiServer;
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::container::{Container, Host, Pod};
use lb_tests::deadline::{self, patient};
use lb_tests::manifest::{Service, items};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use serde_json::Value;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const API_PORT: u16 = 6443;
/// BPF, NET_ADMIN, PERFMON, NET_BIND_SERVICE, by their numbers in the kernel's headers.
const NUMBERS: [u32; 4] = [39, 12, 38, 10];

fn web() -> Service {
    Service::new("web", 1).http(30080)
}

/// A node of a cluster whose API is served, and what a pod there is given.
struct Scene {
    account: PathBuf,
    server: ApiServer,
    cluster: Cluster,
}

impl Scene {
    fn new() -> Result<Self> {
        let server = ApiServer::new()?;
        let cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
        server.listen(&cluster.node(0).netns, (Ipv4Addr::LOCALHOST, API_PORT).into())?;
        let account = server.token_file().parent().context("a directory")?.to_owned();
        Ok(Self { account, server, cluster })
    }

    fn netns(&self) -> &Namespace {
        &self.cluster.node(0).netns
    }

    fn pod(&self) -> Pod<'_> {
        let node = &self.cluster.node(0).name;
        Pod { netns: self.netns(), node, api_port: API_PORT, account: &self.account }
    }

    fn publish(&self, pod: usize) {
        let node = self.cluster.node(0);
        let service = web().endpoint(node, &node.pods[pod]);
        self.server.publish(items(&self.cluster.topology, &[service]));
    }

    /// Waits until a probe of the kubelet would succeed.
    fn probe(&self, container: &Container, port: u16, path: &str) -> Result<()> {
        let to = (Ipv4Addr::LOCALHOST, port).into();
        deadline::until_ok(path, patient(LIMIT), || {
            let ask = || Connection::open(to)?.request("GET", path, b"");
            let answer = self.netns().run(ask)??;
            ensure!(answer.start.contains(" 200 "), "{}", answer.start);
            Ok(())
        })
        .with_context(|| container.log())
    }

    /// Pods, the node's processes and clients outside reach the Service, at this pod.
    fn served(&self, by: usize) -> Result<()> {
        let node = self.cluster.node(0);
        for (from, to) in [
            (&node.pods[1].netns, web().http_addresses()[0]),
            (&node.netns, web().http_addresses()[1]),
            (&self.cluster.topology.client, (node.addresses.v4, 30080).into()),
        ] {
            deadline::until_ok("the Service", patient(LIMIT), || {
                Tally::of(from, Kind::Http, to, 4)?.expect(&[&node.pods[by].name])
            })
            .with_context(|| format!("{to} from {}", from.name()))?;
        }
        Ok(())
    }
}

/// A field of a process's status.
fn field(pid: u32, name: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Ok(line.with_context(|| format!("{name} in {status}"))?.to_owned())
}

#[test]
fn the_daemon_sets_container_does_an_agents_whole_work() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = Host::new(true)?;
    scene.publish(0);
    let mut container = Container::start(&host, &scene.pod(), None)?;
    scene.probe(&container, 10256, "/livez")?;
    scene.probe(&container, 10249, "/healthz")?;
    scene.served(0)?;
    scene.publish(1);
    scene.served(1)?;

    let pid = container.pid()?;
    let kept: u64 = NUMBERS.iter().map(|number| 1 << number).sum();
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        ensure!(field(pid, set)? == format!("{kept:016x}"), "{set}: {}", field(pid, set)?);
    }
    ensure!(field(pid, "NoNewPrivs")? == "1" && field(pid, "Seccomp")? == "2");
    let root = Path::new("/proc").join(pid.to_string()).join("root");
    let refused = fs::write(root.join("file"), "").err().context("the root can be written to")?;
    ensure!(refused.raw_os_error() == Some(libc::EROFS), "{refused}");

    // As the chart's notes say.
    let status = container.exec(&["status", "-o", "json"])?;
    ensure!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    let status: Value = serde_json::from_slice(&status.stdout)?;
    ensure!(status["agent"]["node_name"] == scene.cluster.node(0).name.as_str(), "{status:#}");
    ensure!(status["sockets"]["cgroup"].is_string(), "{:#}", status["sockets"]);
    let services = container.exec(&["services"])?;
    ensure!(String::from_utf8(services.stdout)?.contains("default/web:http"));

    // The pod goes, and another comes.
    container.terminate()?;
    scene.served(1)?;
    scene.publish(0);
    let mut container = Container::start(&host, &scene.pod(), None)?;
    scene.probe(&container, 10249, "/healthz")?;
    scene.served(0)?;
    ensure!(container.log().contains("1 Service ports found in force"), "{}", container.log());
    container.terminate()?;

    // With `cleanup=true`.
    Container::start(&host, &scene.pod(), Some(&["cleanup"]))?.succeed()?;
    let pins = host.output("find", &["bpf", "-mindepth", "1"])?;
    ensure!(pins.stdout.is_empty(), "left: {}", String::from_utf8_lossy(&pins.stdout));
    Ok(())
}

#[test]
fn a_node_without_a_bpf_file_system_is_told_so() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = Scene::new()?;
    let host = Host::new(false)?;
    let mut container = Container::start(&host, &scene.pod(), None)?;
    container.fail()?;
    let told = "nothing is mounted on /sys/fs/bpf in this container";
    ensure!(container.log().contains(told), "{}", container.log());
    ensure!(container.log().contains("mount one on the node"), "{}", container.log());
    Ok(())
}
