//! Whether the kernel holds what it should: asked of the agent's loop, or told
//! from a directory of manifests without an agent.

use super::facts::facts;
use crate::cli::BehaviourArgs;
use crate::dataplane::maps::MapsError;
use crate::dataplane::{self, DataplaneError, SocketClients};
use crate::desired::{CompileOptions, Desired, compile, service_cidrs, spared_addresses};
use crate::drift::Verification;
use crate::netlink::{NetlinkError, WatchOptions, snapshot};
use crate::reconcile::{self, NetworkFacts};
use crate::source::SourceError;
use crate::source::manifests::ManifestDir;
use std::path::PathBuf;
use std::time::Instant;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

/// Where the loop sends its answer.
pub(super) type Answer = oneshot::Sender<Result<Verification, String>>;

/// Asks the loop.
#[derive(Clone, Debug)]
pub(super) struct Verifier(mpsc::Sender<Answer>);

impl Verifier {
    /// One that asks, and what the loop receives.
    pub(super) fn new() -> (Self, mpsc::Receiver<Answer>) {
        let (sender, receiver) = mpsc::channel(4);
        (Self(sender), receiver)
    }

    /// What the loop finds.
    pub(super) async fn verify(&self) -> Result<Verification, String> {
        let (sender, receiver) = oneshot::channel();
        let ending = || "the agent is ending".to_owned();
        self.0.send(sender).await.map_err(|_closed| ending())?;
        receiver.await.unwrap_or_else(|_closed| Err(ending()))
    }
}

/// What an agent would be told; the rest makes no difference.
#[derive(Clone, Debug)]
pub struct VerifyConfig {
    /// The manifest directory.
    pub manifests: PathBuf,
    /// Name of this node and default policy.
    pub compile: CompileOptions,
    /// Which interfaces.
    pub network: WatchOptions,
    /// How Services behave.
    pub behaviour: BehaviourArgs,
    /// Whose sockets are served.
    pub socket_clients: SocketClients,
    /// Where the pins are.
    pub pin_dir: PathBuf,
}

/// Why it can't be told without an agent.
#[derive(Debug, Error)]
pub enum VerifyError {
    /// The manifests can't be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The network can't be read.
    #[error(transparent)]
    Network(#[from] NetlinkError),
    /// The maps can't be read.
    #[error(transparent)]
    Maps(Box<MapsError>),
    /// The hooks can't be read.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
}

impl From<MapsError> for VerifyError {
    fn from(error: MapsError) -> Self {
        Self::Maps(Box::new(error))
    }
}

/// Compares the kernel with what an agent would make of the manifests and of the
/// network as they are now.
pub fn verify(config: &VerifyConfig) -> Result<Verification, VerifyError> {
    let objects = ManifestDir::new(&config.manifests).load()?.objects;
    let (desired, _problems) = compile(&objects, &config.compile);
    let name = config.compile.node_name.as_deref();
    let mut nodes = objects.nodes.values().map(|node| &node.object);
    let node = nodes.find(|node| name.is_some_and(|name| node.name.name == name));
    let mut network = config.network.clone();
    network.uplink_addresses =
        node.iter().flat_map(|node| node.addresses.iter().copied()).collect();
    let state = snapshot(&network)?;
    let ranges = service_cidrs(&objects).into_iter().chain(spared_addresses(&objects));
    let facts = NetworkFacts {
        service_cidrs: ranges.collect(),
        ..facts(&state, node.map(AsRef::as_ref), &config.behaviour)
    };
    let attached = dataplane::verify(&config.pin_dir, &state, config.socket_clients)?;
    let mut differences = attached.drift;
    // Without its pins there is nothing to read.
    if differences.iter().all(|drift| !drift.place.starts_with("pin maps/")) {
        differences
            .splice(0..0, reconcile::verify(&config.pin_dir, &desired, &facts, Instant::now())?);
    }
    let (hooks, pins) = (attached.hooks, attached.pins);
    Ok(Verification { hooks, pins, differences, ..sizes(&desired) })
}

/// How much is desired.
pub(super) fn sizes(desired: &Desired) -> Verification {
    let services = desired.services.values();
    Verification {
        service_ports: services.len(),
        backends: services.map(|service| service.backends.len()).sum(),
        ..Verification::default()
    }
}
