//! One node: its source, its network, its maps and hooks, and the loop that
//! keeps them in line.

use super::health::{HealthPorts, ProxyHealth};
use super::memory;
use super::metrics::SyncMetrics;
use super::repairs::{self, Repairs};
use super::report::Report;
use super::stale::StaleSockets;
use super::status::{SyncInfo, unix_now};
use super::verify::{Answer, sizes};
use super::{AgentError, AgentInfo, Config, HookInfo, facts::facts, room, supervisor, sysctl};
use crate::cli::BehaviourArgs;
use crate::dataplane::{HookOptions, Hooks, SyncReport};
use crate::desired::{Compiler, Demand, Problem, SlowStart, service_cidrs, spared_addresses};
use crate::drift::Verification;
use crate::model;
use crate::netlink::{NetworkState, NetworkWatcher};
use crate::reconcile::{ApplyReport, NetworkFacts, Programmer, QUARANTINE};
use crate::source::{Seen, Snapshot, Source, SourceError, Trigger};
use ipnet::IpNet;
use lb_common::limits::MAX_AFFINITY;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// How soon something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// How soon larger maps are tried again.
const REGROW: Duration = Duration::from_mins(1);

/// The source, and what it told of Services when it was opened, if anything.
pub(super) struct Start {
    pub(super) source: Source,
    snapshot: Option<Snapshot>,
    compiler: Compiler,
}

impl Start {
    /// Opens the source: nothing else is touched before that worked.
    pub(super) async fn open(config: &Config) -> Result<Self, AgentError> {
        let (source, snapshot) = Source::open(&config.source).await?;
        let mut compiler = Compiler::new(config.compile.clone());
        if let Some(snapshot) = &snapshot {
            compiler.update(&snapshot.objects, &snapshot.changes);
        }
        Ok(Self { source, snapshot, compiler })
    }

    /// How much room in the maps the Services need that are known.
    pub(super) fn demand(&self) -> Demand {
        self.compiler.desired().demand()
    }
}

/// How the loop keeps an eye on the kernel.
pub(super) struct Watch {
    /// What had to be put right.
    pub(super) repairs: Repairs,
    /// Who wants to know whether all is well.
    pub(super) questions: mpsc::Receiver<Answer>,
    /// When it looks next.
    pub(super) next: Option<Instant>,
}

/// Everything that the loop works with.
pub(super) struct Node {
    source: Source,
    /// Whether the source has told what there is. Before that nothing is put in
    /// force: it would take the place of what is.
    told: bool,
    network: NetworkWatcher,
    programmer: Programmer,
    hooks: Hooks,
    stale: StaleSockets,
    compiler: Compiler,
    behaviour: BehaviourArgs,
    /// This machine's Node object.
    own: Option<Arc<model::Node>>,
    /// Where the cluster takes Services' addresses from.
    service_cidrs: Vec<IpNet>,
    slow_start: SlowStart,
    problems: Vec<Problem>,
    health: Arc<ProxyHealth>,
    health_ports: HealthPorts,
    facts: NetworkFacts,
    report: Report,
    sync: SyncMetrics,
    /// What the source had seen when it was read last.
    seen: Seen,
    /// What triggered changes that are not in force yet.
    triggers: Vec<Trigger>,
    /// Least time between two updates that the source asks for.
    min_sync_period: Duration,
    /// Before this the source is not read.
    not_before: Option<Instant>,
    /// When it is, if it has told of changes since.
    reread: Option<Instant>,
    /// When something that failed is tried again.
    retry: Option<Instant>,
    /// When the system's settings are looked at again.
    recheck: Option<Instant>,
    /// When the weights of new backends change.
    reweigh: Option<Instant>,
    /// When ports that can't be listened on are tried again.
    relisten: Option<Instant>,
    /// When larger maps may be tried again, after that failed.
    regrow: Option<Instant>,
    /// Whether a Service port has session affinity.
    remembers: bool,
    /// Whether one has an address of IPv4, and whether of IPv6.
    families: [bool; 2],
    watch: Watch,
}

/// What the loop wakes up for.
enum Event {
    Source,
    Network(NetworkState),
    NetworkLost(String),
    Verify(Answer),
    Timer,
}

impl Node {
    /// Reads the network, takes what is in force, and brings it up to date.
    pub(super) fn open(
        config: &Config,
        start: Start,
        hooks: Hooks,
        report: Report,
        sync: SyncMetrics,
        health: &Arc<ProxyHealth>,
        watch: Watch,
    ) -> Result<Self, AgentError> {
        let Start { source, snapshot, compiler } = start;
        let network = NetworkWatcher::new(config.network.clone())?;
        report.set_agent(agent_info(config));
        if let Some(complaint) = config.behaviour.complaint() {
            tracing::warn!("{complaint}");
        }
        let pin_dir = &config.hooks.pin_dir;
        let programmer = Programmer::open(pin_dir, Instant::now())?;
        tracing::info!(
            "agent {} on {}: {} Service ports found in force",
            env!("CARGO_PKG_VERSION"),
            pin_dir.display(),
            programmer.services()
        );
        let mut node = Self {
            source,
            told: false,
            network,
            programmer,
            hooks,
            stale: StaleSockets::default(),
            compiler,
            behaviour: config.behaviour.clone(),
            own: None,
            service_cidrs: Vec::new(),
            slow_start: SlowStart::new(config.slow_start),
            problems: Vec::new(),
            health: Arc::clone(health),
            health_ports: HealthPorts::new(Arc::clone(health)),
            facts: NetworkFacts::default(),
            report,
            sync,
            seen: Seen::default(),
            triggers: Vec::new(),
            min_sync_period: config.min_sync_period,
            not_before: None,
            reread: None,
            retry: None,
            recheck: None,
            reweigh: None,
            relisten: None,
            regrow: None,
            remembers: false,
            families: [false; 2],
            watch,
        };
        // What can't be read may be what is in force.
        node.programmer.hold();
        if let Some(snapshot) = snapshot {
            node.note(&snapshot);
        }
        node.catch_up();
        node.apply();
        node.attach();
        node.serve_sockets(pin_dir)?;
        node.put_right();
        memory::give_back();
        Ok(node)
    }

    /// Takes what has changed since the source was read, before anything is put
    /// in force: the kernel needs a while to check programs, and meanwhile an
    /// agent that is replaced may have put newer objects in force than those.
    fn catch_up(&mut self) {
        let loaded = self.source.load();
        self.tell_source();
        match loaded {
            Ok(snapshot) if snapshot.changed => {
                self.take(&snapshot);
            }
            Ok(_unchanged) => {}
            Err(error) => {
                self.report.set_source_error(Some(error.to_string()));
                self.retry_in(RETRY);
            }
        }
        if self.told {
            self.facts = self.look();
        }
    }

    /// Follows every change. Returns only if that is no longer possible.
    pub(super) async fn follow(&mut self) {
        loop {
            match self.next().await {
                Some(Event::Source) => match self.not_before {
                    Some(at) if at > Instant::now() => {
                        self.reread = Some(at);
                        self.tell_source();
                    }
                    _ => self.reread(),
                },
                Some(Event::Network(state)) => self.network_changed(&state),
                Some(Event::NetworkLost(error)) => {
                    self.report.set_network_error(Some(error));
                    tokio::time::sleep(RETRY).await;
                }
                Some(Event::Verify(answer)) => {
                    // Who asked may have left.
                    let _ = answer.send(self.verify());
                }
                Some(Event::Timer) => self.tick(),
                None => return,
            }
        }
    }

    async fn next(&mut self) -> Option<Event> {
        let own =
            [self.retry, self.recheck, self.reweigh, self.relisten, self.reread, self.watch.next];
        let parts = [self.programmer.next_expiry(), self.stale.due()];
        let deadline = own.into_iter().chain(parts).flatten().min();
        let timer = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            more = self.source.changed() => more.then_some(Event::Source),
            state = self.network.changed() => Some(match state {
                Ok(state) => Event::Network(state.clone()),
                Err(error) => Event::NetworkLost(error.to_string()),
            }),
            Some(answer) = self.watch.questions.recv() => Some(Event::Verify(answer)),
            () = timer => Some(Event::Timer),
        }
    }

    /// Reads what the source has told of.
    fn reread(&mut self) {
        self.reread = None;
        let loaded = self.source.load_touched();
        self.reload(loaded);
    }

    fn reload(&mut self, loaded: Result<Snapshot, SourceError>) {
        self.tell_source();
        match loaded {
            Ok(snapshot) => {
                if snapshot.changed {
                    let uplinks_changed = self.take(&snapshot);
                    self.facts = self.look();
                    self.apply();
                    if uplinks_changed {
                        self.network_changed(&self.network.state().clone());
                    }
                } else {
                    let before = std::mem::replace(&mut self.seen, snapshot.seen);
                    self.sync.came_to_nothing(before, snapshot.seen, SystemTime::now());
                }
            }
            Err(error) => {
                self.report.set_source_error(Some(error.to_string()));
                self.retry_in(RETRY);
            }
        }
    }

    /// Says how the source is.
    fn tell_source(&mut self) {
        let condition = self.source.condition();
        self.report.set_source_error(condition.complaint.clone());
        self.report.set_source(condition.into());
    }

    /// Compiles what was read; true if other interfaces are uplinks now.
    fn take(&mut self, snapshot: &Snapshot) -> bool {
        self.compiler.update(&snapshot.objects, &snapshot.changes);
        self.note(snapshot)
    }

    /// Remembers of what was compiled all that the compiler does not; true if other
    /// interfaces are uplinks now.
    fn note(&mut self, snapshot: &Snapshot) -> bool {
        self.told = true;
        self.seen = snapshot.seen;
        self.triggers.extend(&snapshot.triggers);
        self.programmer.hold_only(|key| snapshot.lost.may_hold(&key.namespace, &key.name));
        if !snapshot.lost.may_hold_cidrs() {
            self.programmer.release_cidrs();
        }
        self.service_cidrs = service_cidrs(&snapshot.objects);
        self.service_cidrs.extend(spared_addresses(&snapshot.objects));
        if !snapshot.changes.services.is_empty() {
            let services = || self.compiler.desired().services.values();
            self.remembers = services().any(|service| service.affinity.is_some());
            let has = |v6| services().flat_map(|s| &s.cluster_ips).any(|ip| ip.is_ipv6() == v6);
            self.families = [has(false), has(true)];
        }
        self.problems = snapshot.problems.iter().chain(self.compiler.problems()).cloned().collect();
        let name = self.compiler.options().node_name.as_deref();
        let node = snapshot
            .objects
            .nodes
            .values()
            .find(|node| name.is_some_and(|name| node.object.name.name == name));
        self.own = node.map(|node| Arc::clone(&node.object));
        let addresses: BTreeSet<IpAddr> =
            self.own.iter().flat_map(|node| node.addresses.iter().copied()).collect();
        self.health.set_node(self.own.as_deref());
        self.report.set_missing_node(name.filter(|_| self.own.is_none()));
        self.network.set_uplink_addresses(addresses)
    }

    /// What the maps must know of this node now.
    fn look(&self) -> NetworkFacts {
        self.look_at(self.network.state())
    }

    fn look_at(&self, state: &NetworkState) -> NetworkFacts {
        let service_cidrs = self.service_cidrs.clone();
        NetworkFacts { service_cidrs, ..facts(state, self.own.as_deref(), &self.behaviour) }
    }

    fn network_changed(&mut self, state: &NetworkState) {
        self.report.set_network_error(None);
        let facts = self.look_at(state);
        if self.told && facts != self.facts {
            self.facts = facts;
            self.sync.queued();
            // The filter must know an address before a program may use it.
            self.apply();
        }
        self.attach();
    }

    fn apply(&mut self) {
        if !self.told {
            return;
        }
        let now = Instant::now();
        self.health.set_waiting(now);
        let desired = self.slow_start.weigh(self.compiler.desired(), now);
        self.reweigh = self.slow_start.next_step(now);
        match self.programmer.apply(&desired, &self.facts, now) {
            Ok(applied) => {
                self.sync.tried(applied.duration, Some(applied.full));
                if self.grow(&applied) {
                    return;
                }
                self.stale.changed(&mut self.report);
                let (seen, triggers) = (self.seen, self.triggers.drain(..));
                self.sync.in_force(applied.duration, seen, triggers, SystemTime::now());
                self.sync.set_no_local(self.compiler.desired());
                if applied.wants_retry() {
                    self.retry_in(QUARANTINE);
                }
                let sync = SyncInfo {
                    at: unix_now(),
                    duration_seconds: applied.duration.as_secs_f64(),
                    changed: applied.changed,
                    writes: applied.writes,
                    bytes: applied.bytes,
                };
                self.report.set_held(self.programmer.held());
                self.report.set_sync(sync, &self.problems, &applied);
                self.check_system();
                self.health.set_updated(SystemTime::now());
                self.listen();
                self.not_before = Instant::now().checked_add(self.min_sync_period);
            }
            Err(error) => {
                self.sync.tried(now.elapsed(), None);
                self.report.set_apply_error(error.to_string());
                self.retry_in(RETRY);
            }
        }
    }

    /// Makes the maps larger if something was refused for want of rows, and begins
    /// anew with them; false if they stay as they are.
    fn grow(&mut self, applied: &ApplyReport) -> bool {
        let lacks_affinity = self.remembers && self.hooks.map_sizes().affinity < MAX_AFFINITY;
        let wants = lacks_affinity || !applied.refused.is_empty();
        if !wants || self.regrow.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        let demand = self.compiler.desired().demand();
        let refused = applied.refused.iter().map(|(_, refusal)| refusal);
        let Some(sizes) = room::larger(&self.hooks.map_sizes(), &demand, refused) else {
            return false;
        };
        let pin_dir = self.hooks.pins().path().to_path_buf();
        let resized = self.hooks.resize(sizes).map_err(AgentError::from);
        let resized = resized.and_then(|()| Ok(self.programmer.reopen(&pin_dir)?));
        if let Err(error) = resized {
            self.report.set_apply_error(format!("the maps can't be made larger: {error}"));
            self.regrow = Some(Instant::now() + REGROW);
            return false;
        }
        self.apply();
        self.attach();
        if let Err(error) = self.serve_sockets(&pin_dir) {
            self.report.set_apply_error(error.to_string());
            self.retry_in(RETRY);
        }
        true
    }

    /// Tells load balancers what is in force.
    fn listen(&mut self) {
        let problems = self.health_ports.update(self.compiler.health_checks());
        self.relisten = (!problems.is_empty()).then(|| Instant::now() + RETRY);
        self.report.set_unheard(problems);
    }

    /// Looks at what the system is set up for; again soon, if it is not, as
    /// nothing tells when that changes.
    fn check_system(&mut self) {
        let warnings = sysctl::forwarding_warnings(self.families);
        self.recheck = (!warnings.is_empty()).then(|| Instant::now() + RETRY);
        self.report.set_warnings(warnings);
    }

    fn attach(&mut self) {
        let synced = self.hooks.sync(self.network.state());
        self.attached(synced);
    }

    fn attached(&mut self, synced: SyncReport) {
        if synced.attached + synced.detached > 0 {
            let (attached, detached) = (synced.attached, synced.detached);
            tracing::info!("{attached} hooks attached, {detached} detached");
        }
        let hooks: Vec<HookInfo> = self.hooks.status().into_iter().map(Into::into).collect();
        self.report.set_hooks(hooks, synced.failures);
        if self.report.has_hook_failures() {
            self.retry_in(RETRY);
        }
    }

    /// Puts right what somebody else removed or altered.
    fn put_right(&mut self) {
        // This is done every few seconds, come what may.
        supervisor::alive();
        let begin = Instant::now();
        let mut errors = Vec::new();
        let mut drift = Vec::new();
        if self.told {
            drift = self.programmer.repair().unwrap_or_else(|error| {
                errors.push(error.to_string());
                Vec::new()
            });
        }
        match self.hooks.repair(self.network.state()) {
            Ok(repaired) => {
                if let Some(synced) = repaired.sync {
                    self.attached(synced);
                }
                if let Some(sockets) = repaired.sockets {
                    self.report.set_sockets(sockets.into());
                }
                drift.extend(repaired.drift);
            }
            Err(error) => errors.push(error.to_string()),
        }
        self.report.set_check_error((!errors.is_empty()).then(|| errors.join("; ")));
        let took = begin.elapsed();
        self.watch.repairs.checked(&drift, took);
        self.watch.next = Some(Instant::now() + repairs::pause(took));
    }

    /// What the kernel holds otherwise than it should.
    fn verify(&self) -> Result<Verification, String> {
        if !self.told {
            return Err("the agent does not know yet what there should be".to_owned());
        }
        let now = Instant::now();
        // Weights as they are at this moment; when they change is planned.
        let mut weights = self.slow_start.clone();
        let desired = weights.weigh(self.compiler.desired(), now);
        let text = |error: &dyn std::error::Error| error.to_string();
        let rows = self.programmer.verify(&desired, &self.facts, now);
        let mut differences = rows.map_err(|error| text(&error))?;
        let hooks = self.hooks.inspect(self.network.state());
        differences.extend(hooks.map_err(|error| text(&error))?);
        let (hooks, pins) = self.hooks.sizes();
        Ok(Verification { hooks, pins, differences, ..sizes(&desired) })
    }

    /// Attaches to the calls of sockets, now that there is something to answer
    /// them with.
    fn serve_sockets(&mut self, pin_dir: &Path) -> Result<(), AgentError> {
        let sockets = self.hooks.attach_sockets();
        if sockets.cgroup.is_some() {
            self.stale.serve(pin_dir, &mut self.report)?;
        }
        self.report.set_sockets(sockets.into());
        Ok(())
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.stale.due()) {
            self.stale.look(&mut self.report);
        } else if due(self.retry) {
            self.retry = None;
            let loaded = self.source.load();
            self.reload(loaded);
            self.apply();
            self.attach();
        } else if due(self.reread) {
            self.reread();
        } else if due(self.reweigh) {
            self.apply();
        } else if due(self.recheck) {
            self.check_system();
        } else if due(self.relisten) {
            self.listen();
        } else if due(self.watch.next) {
            self.put_right();
        } else if let Err(error) = self.programmer.expire(now) {
            self.report.set_apply_error(error.to_string());
            self.retry_in(RETRY);
        }
    }

    fn retry_in(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        self.retry = Some(self.retry.map_or(at, |earlier| earlier.min(at)));
    }
}

/// How the data plane is set up, with source ports chosen where the user named
/// none; and what to mind about those.
pub(super) fn hook_options(config: &Config) -> (HookOptions, Option<String>) {
    let mut options = config.hooks.clone();
    let mut warning = None;
    if !config.snat_ports_given {
        (options.snat_ports, warning) = sysctl::snat_ports();
    }
    (options, warning)
}

fn agent_info(config: &Config) -> AgentInfo {
    AgentInfo {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: unix_now(),
        node_name: config.compile.node_name.clone(),
        metrics: None,
        healthz: None,
    }
}
