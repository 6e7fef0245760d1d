//! What had to be put right, as somebody else removed or altered it: in the
//! log, in the status, in the metrics.

use super::status::{CheckInfo, RepairInfo, SharedStatus, unix_now};
use crate::drift::{Drift, Part};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// From one look to the next, at least.
const INTERVAL: Duration = Duration::from_secs(2);
/// At most: what is wrong is to be right within five seconds.
const LONGEST: Duration = Duration::from_secs(4);
/// How many times as long as a look the pause after it is: changes wait while it
/// looks, and few of them should.
const SHARE: u32 = 200;

/// How long to wait after a look that took so long.
pub(super) fn pause(took: Duration) -> Duration {
    took.saturating_mul(SHARE).clamp(INTERVAL, LONGEST)
}

/// Counts what had to be put right.
#[derive(Clone, Debug)]
pub(super) struct RepairMetrics {
    repairs: Family<[(&'static str, &'static str); 1], Counter>,
    duration: Histogram,
}

impl RepairMetrics {
    /// Nothing yet; every kind is told of.
    pub(super) fn new() -> Self {
        let repairs = Family::default();
        for part in Part::ALL {
            let _: Counter = repairs.get_or_create_owned(&label(part));
        }
        Self { repairs, duration: Histogram::new(exponential_buckets(0.0001, 2.0, 14)) }
    }

    /// Adds them to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Rows, hooks and pins that were put right, as somebody else had changed them";
        registry.register("lb_repairs", help, self.repairs.clone());
        let help = "How long it took to compare the kernel with what it should hold";
        registry.register("lb_check_duration_seconds", help, self.duration.clone());
    }
}

fn label(part: Part) -> [(&'static str, &'static str); 1] {
    [("what", part.name())]
}

/// Remembers what had to be put right.
pub(super) struct Repairs {
    metrics: RepairMetrics,
    status: Arc<SharedStatus>,
    info: CheckInfo,
}

impl Repairs {
    pub(super) fn new(status: Arc<SharedStatus>, metrics: RepairMetrics) -> Self {
        Self { metrics, status, info: CheckInfo::default() }
    }

    /// The kernel was compared with what it should hold, and put right.
    pub(super) fn checked(&mut self, drift: &[Drift], took: Duration) {
        let mut kinds: BTreeMap<Part, Vec<&Drift>> = BTreeMap::new();
        for drift in drift {
            kinds.entry(drift.part).or_default().push(drift);
        }
        for (part, drift) in kinds {
            let count = u64::try_from(drift.len()).unwrap_or(u64::MAX);
            self.metrics.repairs.get_or_create(&label(part)).inc_by(count);
            *self.info.repairs.entry(part.name().to_owned()).or_default() += count;
            let (Some(first), more) = (drift.first(), count - 1) else { continue };
            let others = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            let text = format!("{first}{others}");
            tracing::warn!("put right, as somebody changed it: {text}");
            self.info.last_repair = Some(RepairInfo { at: unix_now(), text });
        }
        self.metrics.duration.observe(took.as_secs_f64());
        self.info.at = unix_now();
        self.info.duration_seconds = took.as_secs_f64();
        let info = self.info.clone();
        self.status.update(|status| status.last_check = Some(info));
    }
}
