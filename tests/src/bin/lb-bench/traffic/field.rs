//! The network in which it is measured: one node with three pods, a client and two
//! backends, each behind a veth of its own. The rules of each of kube-proxy's modes
//! have such a network for themselves, so that they need not be loaded for each turn.

use super::clients::{self, Kind, Targets};
use super::sample::Sample;
use super::server;
use super::way::{From, Stage, Way};
use anyhow::{Context as _, Result, bail};
use lb_common::limits::MAX_SERVICES;
use lb_tests::agent::{Agent, Options};
use lb_tests::kube_proxy::{self, Mode, Port, Service};
use lb_tests::manifest::{self, Directory};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::process::{self, Process, binary};
use lb_tests::topology::{Node, Plan, Pod, Topology, Wiring};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

const PLAN: Plan =
    Plan { wiring: Wiring::Routed, nodes: 1, pods: 3, offload: true, naming: Naming::Unique };

/// How the agent is told what a stage is about.
const fn options(stage: Stage) -> Options {
    let more: &[&str] = if matches!(stage, Stage::Skipping) { &["--skip-stack"] } else { &[] };
    Options { xdp: "off", tc: "auto", more }
}

/// How long the agent may take to put many Services in force.
const LIMIT: Duration = Duration::from_mins(2);

/// Where the Service is that is asked.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const PORTS: [Port; 2] =
    [Port::new("dns", "udp", 53, server::UDP), Port::new("http", "tcp", 80, server::TCP)];

/// Why our agent can't serve so many Services, if it can't. It would serve as many as
/// it has room for, but never be in order.
pub(crate) fn lacks_room(count: u32) -> Option<String> {
    // The first row is nobody's.
    let room = MAX_SERVICES - 1;
    let ports = count - 1 + u32::try_from(PORTS.len()).unwrap_or(u32::MAX);
    (ports > room).then(|| format!("lb has room for {room} Service ports, and these are {ports}"))
}

/// A network, and what is in force on its node.
#[derive(Debug)]
pub(crate) struct Field {
    stages: &'static [Stage],
    agent: Option<Agent>,
    _servers: Vec<Process>,
    manifests: Directory,
    topology: Topology,
}

impl Field {
    /// The stages that share a network.
    pub(crate) const SHARED: [&[Stage]; 4] = [
        &[Stage::Bare],
        &[Stage::Again, Stage::Agent, Stage::Skipping],
        &[Stage::Rules(Mode::Nftables)],
        &[Stage::Rules(Mode::Iptables)],
    ];

    /// Makes one, for so many Services; the last is the one that is asked.
    pub(crate) fn new(stages: &'static [Stage], count: u32) -> Result<Self> {
        let topology = Topology::new(PLAN)?;
        let node = &topology.nodes[0];
        let pods = node.pods.iter().map(|pod| &pod.netns);
        pods.chain([&node.netns]).try_for_each(forget_closed)?;
        let backends = (0..).zip(&node.pods[1..]);
        let servers = backends.map(|(number, pod)| serve(pod, number)).collect::<Result<_>>()?;
        let manifests = Directory::new(PLAN.naming)?;
        let field = Self { stages, agent: None, _servers: servers, manifests, topology };
        let services = field.services(count);
        for stage in stages {
            match stage {
                // It is there already, for the agent.
                Stage::Bare | Stage::Again | Stage::Skipping => {}
                Stage::Agent => {
                    let others = manifest::items(&field.topology, &[]);
                    field.manifests.write("cluster.json", &Service::file(&services, others))?;
                }
                Stage::Rules(mode) => {
                    let node = field.node();
                    kube_proxy::load(&node.netns, node.addresses.v4, *mode, &services)?;
                }
            }
        }
        Ok(field)
    }

    fn services(&self, count: u32) -> Vec<Service> {
        let web = Service {
            name: "web".to_owned(),
            address: ADDRESS,
            ports: PORTS.to_vec(),
            endpoints: self.backends().map(|pod| pod.addresses.v4).collect(),
        };
        (1..count).map(Service::idle).chain(std::iter::once(web)).collect()
    }

    /// Starts the agent, and waits until every Service is in force.
    pub(crate) fn start_agent(&mut self, stage: Stage) -> Result<()> {
        let (netns, name) = (&self.node().netns, &self.node().name);
        let agent = Agent::start_within(LIMIT, netns, name, self.manifests.path(), options(stage))?;
        let status = agent.status()?;
        let problems = status["problems"].as_array().context("no problems are told")?;
        if let Some(problem) = problems.first() {
            bail!("the agent has {} problems, the first: {}", problems.len(), problem["text"]);
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// Ends the agent, and removes what it leaves in force.
    pub(crate) fn end_agent(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("no agent runs")?;
        agent.terminate()?;
        agent.cleanup()
    }

    /// Whether a stage takes place here.
    pub(crate) fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }

    /// Lets clients go a way for so long.
    pub(crate) fn measure(
        &self,
        way: Way,
        kind: Kind,
        time: Duration,
        sample: &mut Sample,
    ) -> Result<()> {
        let targets = self.targets(way);
        self.client(way).run(|| kind.measure(&targets, time, sample))?
    }

    /// Fails unless a way leads to every backend.
    pub(crate) fn check(&self, way: Way) -> Result<()> {
        let servers: BTreeSet<u8> = (0..).zip(self.backends()).map(|(number, _)| number).collect();
        let targets = self.targets(way);
        self.client(way).run(|| clients::check(&targets, &servers))?
    }

    /// Processor time that the agent has used.
    pub(crate) fn agent_time(&self) -> Result<Duration> {
        let pid = self.agent.as_ref().and_then(Agent::pid).context("no agent runs")?;
        process::processor_time(pid)
    }

    /// Removes rules before the namespaces go, which may take their time.
    pub(crate) fn end(self) -> Result<()> {
        if self.stages.iter().any(|stage| matches!(stage, Stage::Rules(_))) {
            kube_proxy::unload(&self.node().netns)?;
        }
        Ok(())
    }

    fn targets(&self, way: Way) -> Targets {
        let to = |address: Ipv4Addr, port| SocketAddr::new(IpAddr::V4(address), port);
        if way.is_direct() {
            let backends = self.backends().map(|pod| pod.addresses.v4);
            Targets {
                tcp: backends.clone().map(|address| to(address, server::TCP)).collect(),
                udp: backends.map(|address| to(address, server::UDP)).collect(),
            }
        } else {
            Targets { tcp: vec![to(ADDRESS, 80)], udp: vec![to(ADDRESS, 53)] }
        }
    }

    fn client(&self, way: Way) -> &Namespace {
        match way.from {
            From::Pod => &self.node().pods[0].netns,
            From::Node => &self.node().netns,
        }
    }

    fn backends(&self) -> impl Iterator<Item = &Pod> + Clone {
        self.node().pods[1..].iter()
    }

    fn node(&self) -> &Node {
        &self.topology.nodes[0]
    }
}

/// Lets no closed connection stay behind. Thousands a second would otherwise fill
/// the ports and the memory of one client for a minute, whatever is between it
/// and the server.
fn forget_closed(netns: &Namespace) -> Result<()> {
    netns.sysctl("net.ipv4.tcp_max_tw_buckets", "0")
}

fn serve(pod: &Pod, number: u8) -> Result<Process> {
    let (stdout, out) = std::io::pipe().context("make a pipe")?;
    let mut command = pod.netns.command(&binary("lb-bench")?);
    command.args(["serve", &number.to_string()]).stdin(Stdio::null()).stdout(out);
    let process = Process::start(&mut command)?;
    // Its end of the pipe must be the only one, for this to end if it does.
    drop(command);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).context("wait for a server")?;
    if line.trim() != "ready" {
        bail!("the server of {} did not start", pod.name);
    }
    Ok(process)
}
