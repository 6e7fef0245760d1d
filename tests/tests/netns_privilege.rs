//! The agent gives up what it does not need, and does all of its work with what
//! is left: as root, and as another user who was given nothing else.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Agent, BPF_FS, metric};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege::root_or_skip;
use lb_tests::process::{Process, binary};
use lb_tests::topology::{Addresses, Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use lb_tests::{deadline, ip};
use lb_userspace::privilege::KEPT;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// A Service is told healthy here: a port that not everybody may listen on.
const HEALTH_PORT: u16 = 900;
const LIMIT: Duration = Duration::from_secs(10);
/// A user that owns nothing.
const USER: u32 = 54_321;
/// Numbers of [`KEPT`] in the kernel's headers: BPF, NET_ADMIN, PERFMON,
/// NET_BIND_SERVICE, LEASE.
const NUMBERS: [u32; 5] = [39, 12, 38, 10, 28];

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn balanced() -> Service {
    let vips = Addresses {
        v4: Ipv4Addr::new(203, 0, 113, 9),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x9, 0, 0, 0, 0, 9),
    };
    Service::new("balanced", 2).http(30081).load_balancer(vips).with(json!({
        "spec": { "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_PORT }
    }))
}

fn on_pods_of(topology: &Topology, node: usize) -> [Service; 2] {
    let node = &topology.nodes[node];
    [web(), balanced()].map(|service| service.endpoints(node.pods.iter().map(|pod| (node, pod))))
}

fn pid(agent: &Agent) -> Result<u64> {
    agent.status()?["agent"]["pid"].as_u64().context("the agent has a pid")
}

/// Every thread of a process has these capabilities and no others, can't get
/// any, and is kept to its system calls.
fn check_threads(pid: u64) -> Result<()> {
    let kept: u64 = NUMBERS.iter().map(|number| 1 << number).sum();
    let kept = format!("{kept:016x}");
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.with_context(|| format!("{name} in {status}")).map(str::trim)
        };
        for (name, expected) in [
            ("CapInh:", "0000000000000000"),
            ("CapPrm:", &kept),
            ("CapEff:", &kept),
            ("CapBnd:", &kept),
            ("CapAmb:", "0000000000000000"),
            ("NoNewPrivs:", "1"),
            ("Seccomp:", "2"),
        ] {
            ensure!(field(name)? == expected, "{name} {} instead of {expected}", field(name)?);
        }
        threads += 1;
    }
    ensure!(threads >= 4, "{threads} threads: too few for an agent at work");
    Ok(())
}

/// Fails if the kernel's log has a system call that it refused to a process.
fn check_calls(pids: &[u64]) -> Result<()> {
    let log = ip::command("dmesg", &[])?;
    for pid in pids {
        let own = format!(" pid={pid} ");
        let refused = log.lines().find(|line| line.contains("type=1326") && line.contains(&own));
        ensure!(refused.is_none(), "refused: {}", refused.unwrap_or_default());
    }
    Ok(())
}

/// New Services, new interfaces, sockets whose backend is gone, load balancers
/// that ask: everything that an agent does after it has started.
fn life(cluster: &mut Cluster) -> Result<()> {
    // Backends move to the other node.
    let node = &cluster.topology.nodes[0].netns;
    let told = node.run(|| Datagrams::open(web().udp_addresses()[0]))??;
    told.echo("before")?;
    cluster.publish(&on_pods_of(&cluster.topology, 1))?;
    let health = (cluster.node(1).addresses.v4, HEALTH_PORT).into();
    deadline::until_ok("the node to be told healthy", LIMIT, || {
        let from = &cluster.topology.client;
        Ok(from.run(|| Connection::open(health)?.request("GET", "/", b""))??)
    })?;
    // Only the kernel can tell a socket, on the agent's word.
    let error = deadline::until("the socket to be told", LIMIT, || told.echo("after").err())?;
    let disconnected = error.raw_os_error() == Some(libc::EDESTADDRREQ);
    ensure!(disconnected || error.kind() == ErrorKind::ConnectionAborted, "{error}");
    // A pod that has just started is a client and a backend like any other.
    let index = cluster.add_pod(0)?;
    let (one, two) = (cluster.node(0), cluster.node(1));
    let both = web().endpoint(one, &one.pods[index]).endpoint(two, &two.pods[0]);
    cluster.publish(&[both])?;
    for (from, to) in [
        (&one.pods[index].netns, web().http_addresses()[1]),
        (&one.netns, web().http_addresses()[0]),
        (&cluster.topology.client, (one.addresses.v4, 30080).into()),
    ] {
        deadline::until_ok("the new pod to take part", LIMIT, || {
            Tally::of(from, Kind::Http, to, 20)?.expect(&[&one.pods[index].name, "pod-2a"])
        })?;
    }
    ensure!(metric(&one.netns, "lb_objects_refused")? == 0, "objects refused");
    cluster.publish(&on_pods_of(&cluster.topology, 0))
}

#[test]
fn an_agent_keeps_few_rights_and_does_its_whole_work_with_them() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut clsact = Setup::tc(Wiring::Bridged);
    clsact.agent.tc = "clsact";
    for setup in [Setup::xdp(Wiring::Routed, "native"), clsact] {
        let mut cluster = Cluster::new(setup, |topology| on_pods_of(topology, 0).into())?;
        let mut pids = Vec::new();
        for restart in [false, true] {
            for agent in &mut cluster.agents {
                if restart {
                    agent.terminate()?;
                    agent.run()?;
                    agent.ready()?;
                }
                pids.push(pid(agent)?);
                check_threads(pid(agent)?)?;
            }
            life(&mut cluster).with_context(|| format!("{setup:?}"))?;
        }
        check_calls(&pids)?;
    }
    Ok(())
}

/// As SECURITY.md has it.
#[test]
fn an_agent_listens_where_it_says() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::xdp(Wiring::Routed, "native"), |topology| {
        on_pods_of(topology, 0).into()
    })?;
    let (node, agent) = (&cluster.node(0).netns, &cluster.agents[0]);
    let owner = format!("pid={},", pid(agent)?);
    let everywhere = |port: u16| ["0.0.0.0", "[::]"].map(|any| format!("tcp {any}:{port}"));
    let health = [everywhere(10256), everywhere(HEALTH_PORT)].concat();
    let expected: BTreeSet<String> =
        health.into_iter().chain(["tcp 127.0.0.1:10249".into()]).collect();
    deadline::until_ok("the sockets", LIMIT, || {
        // TCP, UDP, raw and packet sockets: kind, state, two queues, address.
        let text = node.output("ss", &["-Hnlp", "-t", "-u", "-w", "-0"])?;
        let own = text.lines().filter(|line| line.contains(&owner));
        let socket = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            Some(format!("{} {}", words.first()?, words.get(4)?))
        };
        let found: BTreeSet<String> = own.filter_map(socket).collect();
        ensure!(found == expected, "{found:?}, not {expected:?}");
        Ok(())
    })
}

/// An agent of a user with the kept capabilities and no right to any file of
/// root's, on a BPF file system of the user's own.
struct Unprivileged {
    process: Process,
    home: tempfile::TempDir,
}

impl Unprivileged {
    fn start(netns: &Namespace, manifests: &Path) -> Result<Self> {
        let home = tempfile::Builder::new().prefix(&format!("{}-", netns.name())).tempdir()?;
        let pins = home.path().join("bpf");
        fs::create_dir(&pins)?;
        chown(home.path(), Some(USER), Some(USER))?;
        let names = KEPT.map(|one| one.name.to_lowercase().replace("cap_", "+"));
        let sets = |sets: &[&str]| {
            let all = format!("-all,{}", names.join(","));
            sets.iter().map(|set| format!("--{set}={all}")).collect::<Vec<_>>().join(" ")
        };
        // Nobody else sees the file system, and it goes with the agent.
        let script = format!(
            "mount -t bpf -o mode=0700 bpf {pins} && chown {USER}:{USER} {pins} && exec setpriv \
             --reuid={USER} --regid={USER} --clear-groups {} \"$@\"",
            sets(&["bounding-set", "inh-caps", "ambient-caps"]),
            pins = pins.display(),
        );
        let log = fs::File::create(home.path().join("log"))?;
        let mut command = netns.command(Path::new("unshare"));
        command.args(["-m", "sh", "-c", &script, "sh"]).arg(binary("lb")?).arg("agent");
        command.arg("--pin-dir").arg(pins.join("lb")).arg("--manifests").arg(manifests);
        command.args(["--node-name", "n1", "--xdp", "native", "--socket"]);
        command.arg(home.path().join("lb.sock")).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        Ok(Self { process: Process::start(&mut command)?, home })
    }

    fn status(&self) -> Result<Value> {
        let socket = self.home.path().join("lb.sock");
        let mut command = Command::new(binary("lb")?);
        let output = command.args(["status", "-o", "json", "--socket"]).arg(socket).output()?;
        serde_json::from_slice(&output.stdout).context("read `lb status`")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

#[test]
fn another_user_needs_these_capabilities_and_nothing_else() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let setup = Setup::xdp(Wiring::Routed, "native");
    let cluster = Cluster::without_agents(setup)?;
    cluster.publish(&on_pods_of(&cluster.topology, 0))?;
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(cluster.manifests.path(), open)?;
    let node = cluster.node(0);
    let mut agent = Unprivileged::start(&node.netns, cluster.manifests.path())?;
    let status = deadline::until("the agent to be at work", LIMIT * 2, || {
        let status = agent.status().ok()?;
        (status["agent"]["last_sync"] != Value::Null || status["last_sync"] != Value::Null)
            .then_some(status)
    })
    .with_context(|| agent.log())?;
    let pid = status["agent"]["pid"].as_u64().context("the agent has a pid")?;
    check_threads(pid)?;
    let uid = fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(uid.contains(&format!("\nUid:\t{USER}\t{USER}\t{USER}\t{USER}\n")), "{uid}");
    let names: Vec<&str> = node.pods.iter().map(|pod| pod.name.as_str()).collect();
    for (from, to) in [
        (&node.pods[0].netns, web().http_addresses()[0]),
        (&node.netns, web().http_addresses()[1]),
        (&cluster.topology.client, (node.addresses.v4, 30080).into()),
    ] {
        deadline::until_ok("requests to be answered", LIMIT, || {
            Tally::of(from, Kind::Http, to, 20)?.expect(&names)
        })
        .with_context(|| agent.log())?;
    }
    agent.process.signal(Signal::SIGTERM)?;
    ensure!(agent.process.wait(LIMIT)?.success(), "{}", agent.log());
    check_calls(&[pid])
}

/// `lb` with some capabilities only, as root.
fn bounded(capabilities: &str, args: &[&str]) -> Result<Output> {
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all{capabilities}")).arg(binary("lb")?).args(args);
    command.output().context("start setpriv")
}

#[test]
fn capabilities_that_are_missing_are_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pins = Path::new(BPF_FS).join(format!("{}missing", Naming::Unique.prefix()));
    let pins = pins.to_str().context("UTF-8")?;
    let home = tempfile::tempdir()?;
    let manifests = home.path().to_str().context("UTF-8")?;
    let agent = ["agent", "--manifests", manifests, "--pin-dir", pins];
    for (capabilities, missing) in [
        ("", "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"),
        (",+net_admin", "CAP_BPF, CAP_PERFMON"),
        (",+bpf,+perfmon", "CAP_NET_ADMIN"),
    ] {
        for args in [&agent[..], &["cleanup", "--pin-dir", pins]] {
            let output = bounded(capabilities, args)?;
            let told = String::from_utf8(output.stderr)?;
            ensure!(output.status.code() == Some(1), "{told}");
            let start = format!(
                "lb: loading and attaching BPF programs needs {missing}, which this process lacks"
            );
            ensure!(told.starts_with(&start) && told.lines().count() == 1, "{told}");
        }
    }
    ensure!(!Path::new(pins).exists(), "{pins} was made");
    Ok(())
}
