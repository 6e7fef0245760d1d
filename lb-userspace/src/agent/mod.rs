//! The agent: follows its source and the network, and keeps the kernel in
//! line with both. It holds no state that matters: the kernel does.

mod aging;
mod birth;
mod configz;
mod facts;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
mod http;
mod memory;
mod metrics;
mod node;
mod pidfd;
mod repairs;
mod report;
mod room;
mod server;
mod socket;
mod stale;
mod status;
mod supervisor;
mod sysctl;
mod takeover;
mod verify;

pub(crate) use socket::remove_stale_socket;
pub use socket::{SocketError, ask, ask_to_verify};
pub(crate) use status::unix_now;
pub use status::{
    AgentInfo, AgentStatus, CheckInfo, HookInfo, ProblemInfo, RepairInfo, SocketInfo, SourceInfo,
    SyncInfo,
};
pub use takeover::TakeoverError;
pub use verify::{VerifyConfig, VerifyError, verify};

use crate::cli::{BehaviourArgs, ListenAddress};
use crate::dataplane::maps::{MapsError, costs};
use crate::dataplane::{DataplaneError, HookOptions, Hooks, PinDir, RehearsalError};
use crate::desired::CompileOptions;
use crate::netlink::{NetlinkError, WatchOptions};
use crate::privilege::{self, PrivilegeError};
use crate::source::{Source, SourceConfig, SourceError};
use aging::{Aging, AgingMetrics};
use health::{Healthz, ProbeMetrics, ProxyHealth};
use http::Pages;
use metrics::{Parts, SyncMetrics};
use nix::sys::stat::{Mode, umask};
use node::{Node, Start, Watch, hook_options};
use repairs::{RepairMetrics, Repairs};
use report::Report;
use socket::StatusSocket;
use status::SharedStatus;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use takeover::Incumbent;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use verify::Verifier;

/// Where metrics are served if nobody says otherwise; kube-proxy's port.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10_249);

/// What the agent is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the Services come from.
    pub source: SourceConfig,
    /// Name of this node and default policy.
    pub compile: CompileOptions,
    /// How long new backends take to their whole weight.
    pub slow_start: Duration,
    /// Least time between two updates of the kernel that Services ask for.
    pub min_sync_period: Duration,
    /// Which interfaces.
    pub network: WatchOptions,
    /// How the data plane is set up; without source ports, they are chosen.
    pub hooks: HookOptions,
    /// How Services behave.
    pub behaviour: BehaviourArgs,
    /// Whether the source ports were chosen by the user.
    pub snat_ports_given: bool,
    /// Whether the sizes of the flow tables were: IPv4, IPv6.
    pub flows_given: [bool; 2],
    /// The status socket.
    pub socket: PathBuf,
    /// Whether an agent that uses the pin directory is replaced.
    pub takeover: bool,
    /// Where metrics are served, if the user said so.
    pub metrics: Option<ListenAddress>,
    /// Where the agent's own health is told, if the user said so.
    pub healthz: Option<ListenAddress>,
}

/// Why the agent can't start or go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The source can't be read at the start, or not at all.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The process has too few rights.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The data plane can't be set up.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The maps can't be opened.
    #[error(transparent)]
    Maps(Box<MapsError>),
    /// An agent is to be replaced, and this one could not start.
    #[error(transparent)]
    Rehearsal(#[from] RehearsalError),
    /// An agent can't be replaced.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// The network can't be followed.
    #[error(transparent)]
    Network(#[from] NetlinkError),
    /// The status socket can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Signals can't be waited for.
    #[error("signals can't be waited for: {0}")]
    Signal(#[source] io::Error),
    /// Changes of the source are no longer noticed.
    #[error("changes of the Services are no longer noticed: what follows their source ended")]
    WatchLost,
    /// The metrics address can't be used.
    #[error("metrics can't be served on {address}: {source}; name another --metrics-addr, or off")]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The address of `/healthz` can't be used.
    #[error("/healthz can't be served on {address}: {source}; name another --healthz-addr, or off")]
    Healthz {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl From<MapsError> for AgentError {
    fn from(error: MapsError) -> Self {
        Self::Maps(Box::new(error))
    }
}

/// Does what needs more rights than the agent keeps, and gives up the others.
/// Only the calling thread and those that it starts later are concerned, so
/// this comes before any other is started.
pub fn prepare(config: &Config) -> Result<(), AgentError> {
    privilege::check()?;
    // Sockets and directories are nobody else's, from the first moment on.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    PinDir::new(&config.hooks.pin_dir).mount()?;
    privilege::shed()?;
    privilege::confine()?;
    Ok(())
}

/// Runs until SIGTERM or SIGINT. What is in force stays so.
pub async fn run(config: Config) -> Result<(), AgentError> {
    files::raise_limit();
    let mut signals = Signals::new().map_err(AgentError::Signal)?;
    // Nothing else is touched before what can be read is read.
    let mut start = Start::open(&config).await?;
    let events = start.source.events();
    let status = Arc::new(SharedStatus::default());
    let mut report = Report::new(Arc::clone(&status), events.clone());
    let (mut options, warning) = hook_options(&config);
    options.sizes = room::sizes(&start.demand(), &options.sizes);
    room::keep_flows(&PinDir::new(&options.pin_dir), &mut options.sizes, config.flows_given);
    report.set_lasting_warnings(warning);
    let place = tokio::select! {
        biased;
        () = signals.end() => return Ok(()),
        place = Place::take(&config, &options, &mut start.source) => place?,
    };
    let rest = start.source.requests();
    let sync = SyncMetrics::new(start.source.tally());
    birth::cry(&events, &config, place.healthz.is_some(), place.listener.is_some());
    let Place { hooks, socket, listener, healthz } = place;
    let health = Arc::new(ProxyHealth::default());
    let repairs = RepairMetrics::new();
    let (verifier, questions) = Verifier::new();
    let watch = Watch {
        repairs: Repairs::new(Arc::clone(&status), repairs.clone()),
        questions,
        next: None,
    };
    let mut node = Node::open(&config, start, hooks, report, sync.clone(), &health, watch)?;
    tell_costs(&config.hooks.pin_dir)?;
    let aging = AgingMetrics::new();
    let _aging = Aging::start(&config.hooks.pin_dir, aging.clone())?;
    let socket = tokio::spawn(socket.serve(Arc::clone(&status), verifier));
    let probes = ProbeMetrics::new();
    if let Some(listener) = listener {
        let address = listener.local_addr().map_or_else(|_| String::new(), |addr| addr.to_string());
        status.update(|status| status.agent.metrics = Some(address));
        let parts = Parts {
            sync: &sync,
            probes: &probes,
            aging: &aging,
            repairs: &repairs,
            rest: rest.as_ref(),
        };
        let pages = Pages {
            metrics: metrics::Metrics::new(&config.hooks.pin_dir, Arc::clone(&status), &parts),
            status: Arc::clone(&status),
            health: Arc::clone(&health),
            configz: configz::page(&config, &options),
        };
        tokio::spawn(http::serve(listener, pages));
    }
    if let Some(healthz) = healthz {
        let address = healthz.address().to_string();
        status.update(|status| status.agent.healthz = Some(address));
        healthz.serve(&health, &probes);
    }
    supervisor::ready();
    let result = tokio::select! {
        biased;
        () = signals.end() => Ok(()),
        () = node.follow() => Err(AgentError::WatchLost),
    };
    supervisor::stopping();
    tracing::info!(
        "ending; the Services stay in force: `lb cleanup --pin-dir {}` removes them",
        config.hooks.pin_dir.display()
    );
    // The socket file goes with its task.
    socket.abort();
    if let Err(error) = socket.await
        && error.is_panic()
    {
        tracing::debug!("the status socket ended early");
    }
    result
}

/// What only one agent can have: the pins, and where it answers.
struct Place {
    hooks: Hooks,
    socket: StatusSocket,
    listener: Option<TcpListener>,
    healthz: Option<Healthz>,
}

impl Place {
    /// Takes it, from the agent that has it if that is to be replaced.
    async fn take(
        config: &Config,
        options: &HookOptions,
        source: &mut Source,
    ) -> Result<Self, AgentError> {
        if config.takeover
            && let Some(incumbent) = Incumbent::find(&options.pin_dir, &config.socket)?
        {
            // The other knows what there is, so this one has to know it, too.
            source.complete().await;
            let (hooks, socket) = incumbent.replace(config, options).await?;
            let listener = metrics_listener(config.metrics).await?;
            return Ok(Self { hooks, socket, listener, healthz: Healthz::listen(config.healthz)? });
        }
        let socket = StatusSocket::bind(&config.socket)?;
        let listener = metrics_listener(config.metrics).await?;
        let healthz = Healthz::listen(config.healthz)?;
        Ok(Self { hooks: Hooks::open(options)?, socket, listener, healthz })
    }
}

/// A port that is taken ends the agent only where the user named it.
async fn metrics_listener(
    metrics: Option<ListenAddress>,
) -> Result<Option<TcpListener>, AgentError> {
    let address = match metrics {
        Some(ListenAddress::Off) => return Ok(None),
        Some(ListenAddress::On(address)) => address,
        None => METRICS,
    };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) if metrics.is_none() => {
            tracing::warn!(
                "no metrics: {address} can't be used ({source}); name another --metrics-addr, or off"
            );
            Ok(None)
        }
        Err(source) => Err(AgentError::Metrics { address, source }),
    }
}

/// Logs what the maps cost, the dearest first.
fn tell_costs(pin_dir: &Path) -> Result<(), MapsError> {
    const MIB: f64 = 1024.0 * 1024.0;
    let mut costs = costs(pin_dir)?;
    costs.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    let mib = |bytes: u64| bytes as f64 / MIB;
    let total = mib(costs.iter().map(|(_, bytes)| bytes).sum());
    let each: Vec<_> =
        costs.iter().map(|(map, bytes)| format!("{map} {:.1}", mib(*bytes))).collect();
    tracing::info!("the maps take {total:.1} MiB: {}", each.join(", "));
    Ok(())
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
