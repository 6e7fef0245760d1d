//! A cluster whose first node suffers the damage.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Agent, metric};
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::{self, patient};
use lb_tests::ip;
use lb_tests::manifest::Service;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// From the damage to its repair.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// A cluster, and a connection that must live through everything.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    established: Connection,
    backend: String,
    /// How often each kind of damage was suffered.
    suffered: BTreeMap<String, u64>,
}

pub(crate) fn web() -> Service {
    Service::new("web", 1).http(30_080).udp(30_053)
}

pub(crate) fn setup() -> Setup {
    Setup::tc(Wiring::Routed)
}

impl Scene {
    /// All pods are endpoints.
    pub(crate) fn new(setup: Setup) -> Result<Self> {
        Self::with(setup, |topology| vec![web().endpoints(topology.pods())])
    }

    pub(crate) fn with(
        setup: Setup,
        services: impl FnOnce(&Topology) -> Vec<Service>,
    ) -> Result<Self> {
        let cluster = Cluster::new(setup, services)?;
        let to = web().http_addresses()[0];
        let mut established = cluster.pod(0, 0).netns.run(|| Connection::open(to))??;
        let backend = established.get()?.backend;
        Ok(Self { cluster, established, backend, suffered: BTreeMap::new() })
    }

    pub(crate) fn agent(&self) -> &Agent {
        &self.cluster.agents[0]
    }

    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.agent().pin_dir().join(name)
    }

    /// The pin of a hook of an interface of the first node.
    pub(crate) fn link(&self, interface: &str, hook: &str) -> Result<PathBuf> {
        Ok(self.pin(&format!("links/{}-{hook}", self.index(interface)?)))
    }

    pub(crate) fn index(&self, interface: &str) -> Result<u32> {
        let node = &self.cluster.node(0).netns;
        let shown = node.output("ip", &["-o", "link", "show", interface])?;
        let index = shown.split(':').next().context("no index")?;
        Ok(index.parse()?)
    }

    /// Runs a tool of somebody else's on something that is pinned.
    pub(crate) fn bpftool(&self, arguments: &str) -> Result<String> {
        let pins = self.agent().pin_dir().display().to_string();
        let arguments = arguments.replace("PINS", &pins);
        ip::command("bpftool", &arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// What `lb verify` says without asking the agent.
    pub(crate) fn differences(&self) -> Result<Vec<String>> {
        let manifests = self.cluster.manifests.path().display().to_string();
        let node = self.agent().node();
        self.agent().verify(&["--manifests", &manifests, "--node-name", node])
    }

    /// Pods and the client outside get answers, of every protocol and family.
    pub(crate) fn serves(&self) -> Result<()> {
        let outside = self.cluster.node(0).addresses.both();
        for kind in Kind::ALL {
            let (pod, client) = (&self.cluster.pod(0, 0).netns, &self.cluster.topology.client);
            let port = if kind == Kind::Http { 30_080 } else { 30_053 };
            let inside = web().addresses.both().map(|to| (pod, (to, kind.port())));
            let outside = outside.map(|to| (client, (to, port)));
            for (netns, to) in inside.into_iter().chain(outside) {
                let to: SocketAddr = to.into();
                netns.run(|| kind.ask(to))?.with_context(|| format!("{kind} to {to}"))?;
            }
        }
        Ok(())
    }

    /// Does the damage, and sees to it that it is told of and put right: first
    /// with an agent that sleeps, then with one that works.
    pub(crate) fn suffers(
        &mut self,
        what: &str,
        line: &str,
        damage: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        self.suffers_somehow(what, line, false, &damage).with_context(|| format!("{what}: {line}"))
    }

    /// The same, of something without which the first pod is not served.
    pub(crate) fn suffers_outage(
        &mut self,
        what: &str,
        line: &str,
        damage: impl Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        self.suffers_somehow(what, line, true, &damage).with_context(|| format!("{what}: {line}"))
    }

    fn suffers_somehow(
        &mut self,
        what: &str,
        line: &str,
        outage: bool,
        damage: &dyn Fn(&Self) -> Result<()>,
    ) -> Result<()> {
        let before = self.repaired()?;
        self.agent().signal(Signal::SIGSTOP)?;
        damage(self)?;
        let told = self.differences();
        let served = if outage { Some(self.tally(1)) } else { None };
        self.agent().signal(Signal::SIGCONT)?;
        let told = told?;
        if let Some(tally) = served.transpose()? {
            ensure!(!tally.failures.is_empty(), "the damage does no harm");
        }
        ensure!(told.iter().any(|told| told.contains(line)), "not told of: {told:?}");
        self.recovers(before)?;

        let before = self.repaired()?;
        damage(self)?;
        self.recovers(before)?;
        *self.suffered.entry(what.to_owned()).or_default() += 2;
        Ok(())
    }

    /// How often the agent has said that it put something right.
    pub(crate) fn repaired(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.agent().log())?;
        Ok(log.matches("put right, as somebody changed it: ").count())
    }

    /// Everything is as it was, in time.
    fn recovers(&mut self, before: usize) -> Result<()> {
        deadline::until("a repair", patient(LIMIT), || {
            (self.repaired().ok()? > before).then_some(())
        })?;
        let told = self.agent().verify(&[])?;
        ensure!(told.is_empty(), "{told:?}");
        self.serves()?;
        let answer = self.established.get().context("the connection from before")?;
        ensure!(answer.backend == self.backend, "the connection moved to {}", answer.backend);
        Ok(())
    }

    /// Everything that was suffered is told of, and nothing is left of it.
    pub(crate) fn ends_well(&self) -> Result<()> {
        ensure!(self.differences()? == [""; 0]);
        let status = self.agent().text("status")?;
        ensure!(status.contains("; put right: "), "{status}");
        for (what, times) in &self.suffered {
            let sample = format!("lb_repairs_total{{what=\"{what}\"}}");
            let counted = metric(&self.cluster.node(0).netns, &sample)?;
            ensure!(counted >= *times, "{what}: {counted} repairs are counted");
        }
        Ok(())
    }

    /// As [`Tally::of`] from the first pod to the Service.
    pub(crate) fn tally(&self, count: u64) -> Result<Tally> {
        Tally::of(&self.cluster.pod(0, 0).netns, Kind::Http, web().http_addresses()[0], count)
    }
}
