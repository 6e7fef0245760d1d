//! The Kubernetes API as a source of objects: Services, EndpointSlices, this
//! machine's Node and the ServiceCIDRs, never Pods. Nothing is handed over until
//! the lists of all of them were complete, and nothing that is known goes because
//! the API can't be asked. Events about them are published.

mod addresses;
mod client;
mod config;
mod connect;
mod contact;
mod events;
mod pace;
mod rest;
mod slim;
mod store;
#[cfg(test)]
mod tests;
mod watch;

pub use self::config::{api_server, state_file};
pub use self::rest::RestMetrics;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use hyper::Uri;
use kube::config::{InClusterError, KubeconfigError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::addresses::{ApiAddresses, is_api};
use self::contact::Contact;
use self::pace::Pace;
use self::store::{News, Store};
use self::watch::{Selection, Shared, follow};
use super::{Condition, Events, Snapshot, Tally};
use crate::model::{Changed, EndpointSlice, Node, Service, ServiceCidr};

/// How the API is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// How the agent proves who it is.
    pub access: Access,
    /// The API server, if not the one that belongs to it.
    pub api_server: Option<Uri>,
    /// This machine's Node object.
    pub node_name: String,
    /// Where the addresses of the API servers are kept.
    pub state_file: PathBuf,
}

/// How the agent proves who it is.
#[derive(Clone, Debug)]
pub enum Access {
    /// As a kubeconfig says.
    Kubeconfig(PathBuf),
    /// With the token that a pod of the cluster is given.
    InCluster,
}

/// Services, but for those that no proxy serves. Those of another proxy come
/// along: their addresses must be spared where unused ones are dropped.
const SERVICES: Selection<'_> = Selection {
    labels: "!service.kubernetes.io/headless",
    fields: "spec.clusterIP!=None",
    optional: false,
};

/// The EndpointSlices of those Services that are served here.
const ENDPOINT_SLICES: Selection<'_> = Selection {
    labels: "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
    fields: "",
    optional: false,
};

/// ServiceCIDRs: before Kubernetes 1.33 there are none.
const SERVICE_CIDRS: Selection<'_> = Selection { labels: "", fields: "", optional: true };

/// The API, as it is followed.
#[derive(Debug)]
pub struct Kubernetes {
    url: String,
    store: Arc<Mutex<Store>>,
    contact: Arc<Contact>,
    addresses: Arc<ApiAddresses>,
    changes: mpsc::Receiver<()>,
    tally: Arc<Tally>,
    events: Events,
    requests: RestMetrics,
    /// What follows; it ends with this value.
    _tasks: JoinSet<()>,
}

impl Kubernetes {
    /// Begins to follow it, whether it answers or not.
    pub async fn follow(options: &Options) -> Result<Self, KubernetesError> {
        let config = config::config(options).await?;
        let url = config.cluster_url.to_string();
        let addresses = Arc::new(ApiAddresses::read(&options.state_file));
        let (contact, pace): (Arc<Contact>, Arc<Pace>) = (Arc::default(), Arc::default());
        let heard = {
            let (contact, pace) = (Arc::clone(&contact), Arc::clone(&pace));
            move |path: &str| {
                let kind = path.rsplit('/').next().unwrap_or_default();
                if contact.heard(kind) {
                    pace.tell(News::Complete);
                }
            }
        };
        let requests = RestMetrics::default();
        let client = client::client(&config, Arc::clone(&addresses), &requests, heard).map_err(
            |source| KubernetesError::Client { url: url.clone(), source: Box::new(source) },
        )?;
        let tally = Arc::new(Tally::default());
        let store = Arc::new(Mutex::new(Store::new(&tally)));
        let shared = Shared {
            store: Arc::clone(&store),
            contact: Arc::clone(&contact),
            pace: Arc::clone(&pace),
            tally: Arc::clone(&tally),
        };
        let mut tasks = JoinSet::new();
        let (events, told) = Events::new();
        let node = options.node_name.clone();
        tasks.spawn(events::publish(client.clone(), node, Arc::clone(&store), told));
        tasks.spawn(follow::<Service>(client.clone(), SERVICES, shared.clone()));
        tasks.spawn(follow::<EndpointSlice>(client.clone(), ENDPOINT_SLICES, shared.clone()));
        tasks.spawn(follow::<ServiceCidr>(client.clone(), SERVICE_CIDRS, shared.clone()));
        let own = format!("metadata.name={}", options.node_name);
        tasks.spawn(async move {
            let own = Selection { fields: &own, ..Selection::default() };
            follow::<Node>(client, own, shared).await;
        });
        let (sender, changes) = mpsc::channel(1);
        tasks.spawn(async move { pace.run(sender).await });
        Ok(Self { url, store, contact, addresses, changes, tally, events, requests, _tasks: tasks })
    }

    /// Waits until there may be something new.
    pub async fn changed(&mut self) -> bool {
        self.changes.recv().await.is_some()
    }

    /// Waits until everything was listed.
    pub async fn complete(&mut self) {
        let mut told = None;
        while !self.store().missing().is_empty() {
            let complaint = self.condition().complaint;
            if told != complaint {
                tracing::warn!("waiting: {}", complaint.as_deref().unwrap_or("the API answers"));
                told = complaint;
            }
            if !self.changed().await {
                return;
            }
        }
    }

    /// Everything that the API has, once it was listed.
    pub fn load(&mut self) -> Result<Snapshot, KubernetesError> {
        let mut store = self.store();
        let missing = store.missing();
        if !missing.is_empty() {
            return Err(self.incomplete(&missing));
        }
        let snapshot = store.take();
        drop(store);
        let api = |slice: &Changed<EndpointSlice>| slice.versions().any(is_api);
        if snapshot.changes.endpoint_slices.iter().any(api) {
            self.addresses.learn(&snapshot.objects);
        }
        Ok(snapshot)
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }

    /// Where events go.
    pub fn events(&self) -> Events {
        self.events.clone()
    }

    /// What requests are counted in.
    pub fn requests(&self) -> RestMetrics {
        self.requests.clone()
    }

    /// How it is.
    pub fn condition(&self) -> Condition {
        let since = self.contact.lost_since();
        let since = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok());
        Condition {
            kind: "kubernetes",
            place: self.url.clone(),
            complete: self.store().missing().is_empty(),
            no_contact_since: since.map(|since| since.as_secs_f64()),
            complaint: self.contact.complaint(&self.url),
        }
    }

    fn incomplete(&self, missing: &[&str]) -> KubernetesError {
        let missing = missing.join(", ");
        let reason = self.contact.complaint(&self.url).unwrap_or_else(|| {
            format!("the Kubernetes API at {} has not told all of them yet", self.url)
        });
        KubernetesError::Incomplete { missing, reason }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the API can't be asked, or has no objects to hand over yet.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The kubeconfig can't be read.
    #[error("the kubeconfig {} can't be used: {source}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// The kubeconfig asks for what the agent can't do.
    #[error("the kubeconfig {} can't be used: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: &'static str,
    },
    /// This is no pod of a cluster.
    #[error("--in-cluster needs what a pod of the cluster is given: {0}")]
    InCluster(#[source] InClusterError),
    /// The credentials can't be used.
    #[error("the Kubernetes API at {url} can't be asked: {source}")]
    Client {
        /// The API server.
        url: String,
        /// Why.
        source: Box<kube::Error>,
    },
    /// Not everything was listed yet.
    #[error("waiting for the first lists of {missing}: {reason}")]
    Incomplete {
        /// What is missing.
        missing: String,
        /// Why.
        reason: String,
    },
}
