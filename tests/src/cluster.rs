//! A whole small cluster: the network, servers in every pod, manifests, and an
//! agent on every node.

use crate::agent::{Agent, Options};
use crate::manifest::{Directory, HTTP_TARGET, Service, UDP_TARGET};
use crate::netns::{Namespace, Naming};
use crate::process::{Process, binary};
use crate::server;
use crate::topology::{Addresses, Node, Plan, Pod, Topology, Wiring};
use anyhow::{Context as _, Result, bail};
use std::io::{BufRead as _, BufReader, PipeReader, Read as _};
use std::net::SocketAddr;
use std::process::Stdio;

/// How the cluster is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Its network.
    pub plan: Plan,
    /// Its agents.
    pub agent: Options,
}

impl Setup {
    /// Two pods a node, programs at TC only.
    pub const fn tc(wiring: Wiring) -> Self {
        Self {
            plan: Plan { wiring, nodes: 2, pods: 2, offload: true, naming: Naming::Unique },
            agent: Options { xdp: "off", tc: "auto", more: &[] },
        }
    }

    /// Two pods a node, with XDP on the uplinks.
    pub const fn xdp(wiring: Wiring, mode: &'static str) -> Self {
        Self {
            plan: Plan { wiring, nodes: 2, pods: 2, offload: false, naming: Naming::Unique },
            agent: Options { xdp: mode, tc: "auto", more: &[] },
        }
    }
}

/// The cluster. What was started first goes last.
#[derive(Debug)]
pub struct Cluster {
    /// One agent for each node, in the same order.
    pub agents: Vec<Agent>,
    servers: Vec<Process>,
    /// The manifests.
    pub manifests: Directory,
    /// The network.
    pub topology: Topology,
    options: Options,
}

impl Cluster {
    /// Makes the network and starts the servers, but no agent.
    pub fn without_agents(setup: Setup) -> Result<Self> {
        let mut cluster = Self {
            agents: Vec::new(),
            servers: Vec::new(),
            manifests: Directory::new(setup.plan.naming)?,
            topology: Topology::new(setup.plan)?,
            options: setup.agent,
        };
        let starting: Vec<Starting> = cluster
            .topology
            .pods()
            .map(|(_, pod)| serve(&pod.netns, &pod.name, &[server::any(UDP_TARGET)]))
            .collect::<Result<_>>()?;
        for server in starting {
            cluster.servers.push(server.ready()?);
        }
        Ok(cluster)
    }

    /// Makes all of it, with the Services that are described in terms of the
    /// network.
    pub fn new(setup: Setup, services: impl FnOnce(&Topology) -> Vec<Service>) -> Result<Self> {
        let mut cluster = Self::without_agents(setup)?;
        cluster.publish(&services(&cluster.topology))?;
        cluster.start_agents()?;
        Ok(cluster)
    }

    /// Starts an agent on every node, all at once.
    pub fn start_agents(&mut self) -> Result<()> {
        let (manifests, options) = (self.manifests.path(), self.options);
        let starts = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for node in &self.topology.nodes {
                let run = || Agent::start(&node.netns, &node.name, manifests, options);
                running.push(scope.spawn(run));
            }
            running.into_iter().map(std::thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for start in starts {
            match start {
                Ok(agent) => self.agents.push(agent?),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    }

    /// Writes new manifests.
    pub fn publish(&self, services: &[Service]) -> Result<()> {
        self.manifests.publish(&self.topology, services)
    }

    /// A node.
    pub fn node(&self, index: usize) -> &Node {
        &self.topology.nodes[index]
    }

    /// A pod of a node.
    pub fn pod(&self, node: usize, index: usize) -> &Pod {
        &self.topology.nodes[node].pods[index]
    }

    /// Starts one more pod with its server; its place among the node's pods.
    pub fn add_pod(&mut self, node: usize) -> Result<usize> {
        let index = self.topology.add_pod(node)?;
        self.serve(node, index)
    }

    /// Starts a pod with its server and these last digits of its addresses.
    pub fn add_pod_at(&mut self, node: usize, host: u8) -> Result<usize> {
        let index = self.topology.add_pod_at(node, host)?;
        self.serve(node, index)
    }

    /// Starts the servers of a pod in a namespace that is none: a node's, or one
    /// outside the cluster.
    pub fn serve_in(
        &mut self,
        place: impl Fn(&Topology) -> &Namespace,
        name: &str,
        addresses: Addresses,
    ) -> Result<()> {
        let udp = addresses.both().map(|address| SocketAddr::new(address, UDP_TARGET));
        let server = serve(place(&self.topology), name, &udp)?.ready()?;
        self.servers.push(server);
        Ok(())
    }

    fn serve(&mut self, node: usize, index: usize) -> Result<usize> {
        let pod = self.pod(node, index);
        let server = serve(&pod.netns, &pod.name, &[server::any(UDP_TARGET)])?;
        self.servers.push(server.ready()?);
        Ok(index)
    }

    /// Leaves everything standing when dropped.
    pub fn keep(&mut self) -> Result<()> {
        self.topology.keep()?;
        self.agents.iter_mut().for_each(Agent::keep);
        self.servers.iter_mut().for_each(Process::keep);
        self.manifests.keep();
        Ok(())
    }
}

/// A server that may not listen yet.
struct Starting {
    process: Process,
    stdout: PipeReader,
    stderr: PipeReader,
}

fn serve(netns: &Namespace, name: &str, udp: &[SocketAddr]) -> Result<Starting> {
    let (stdout, out) = std::io::pipe().context("make a pipe")?;
    let (stderr, err) = std::io::pipe().context("make a pipe")?;
    let mut command = netns.command(&binary("lb-test-server")?);
    command
        .arg(name)
        .arg(format!("http:{HTTP_TARGET}"))
        .args(udp.iter().map(|address| format!("udp:{address}")))
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err);
    Ok(Starting { process: Process::start(&mut command)?, stdout, stderr })
}

impl Starting {
    /// Waits until it listens.
    fn ready(mut self) -> Result<Process> {
        let mut line = String::new();
        BufReader::new(self.stdout).read_line(&mut line).context("wait for a server")?;
        if line.trim() != "ready" {
            let mut reason = String::new();
            self.stderr.read_to_string(&mut reason).context("read what a server says")?;
            bail!("a server did not start: {}", reason.trim());
        }
        Ok(self.process)
    }
}
