//! The metrics: kube-proxy's by kube-proxy's names (`sync`, and `rest` of the
//! source), those of the process (`process`), and the agent's own, most of which
//! are read from the kernel at each scrape (`kernel`).

mod kernel;
mod process;
mod sync;
mod text;

pub(super) use sync::SyncMetrics;

use super::aging::AgingMetrics;
use super::health::ProbeMetrics;
use super::repairs::RepairMetrics;
use super::status::SharedStatus;
use crate::source::kubernetes::RestMetrics;
use kernel::Kernel;
use process::Process;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Everything that is told.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
}

/// What parts of the agent count.
pub(super) struct Parts<'a> {
    pub(super) sync: &'a SyncMetrics,
    pub(super) probes: &'a ProbeMetrics,
    pub(super) aging: &'a AgingMetrics,
    pub(super) repairs: &'a RepairMetrics,
    /// Requests to the Kubernetes API, if that is the source.
    pub(super) rest: Option<&'a RestMetrics>,
}

impl Metrics {
    /// Metrics of what is pinned in `pin_dir`.
    pub(super) fn new(pin_dir: &Path, status: Arc<SharedStatus>, parts: &Parts<'_>) -> Self {
        let Parts { sync, probes, aging, repairs, rest } = parts;
        let mut registry = Registry::default();
        let version = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("lb_build", "The running version", version);
        sync.register(&mut registry);
        probes.register(&mut registry);
        if let Some(rest) = rest {
            rest.register(&mut registry);
        }
        registry.register_collector(Box::new(Process));
        aging.register(&mut registry);
        repairs.register(&mut registry);
        registry.register_collector(Box::new(Kernel { pin_dir: pin_dir.to_path_buf(), status }));
        Self { registry }
    }

    /// The exposition. Takes as long as the flow tables are full.
    pub(super) fn encode(&self) -> Result<String, fmt::Error> {
        let mut openmetrics = String::new();
        prometheus_client::encoding::text::encode(&mut openmetrics, &self.registry)?;
        Ok(text::classic(&openmetrics))
    }
}
