//! How many changes a source has seen, whether they are in force or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::model::{AddressFamily, Changes};

/// Counts what comes; the source adds, whoever wants to know reads.
#[derive(Debug, Default)]
pub struct Tally {
    pub(super) services: Arc<AtomicU64>,
    pub(super) endpoint_slices: Arc<AtomicU64>,
    /// When something came last, in milliseconds since 1970.
    last: AtomicU64,
}

/// Changes that were seen until some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Of Services.
    pub services: u64,
    /// Of EndpointSlices.
    pub endpoint_slices: u64,
}

/// When what changed an EndpointSlice happened, as its controller noted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// Family of the slice.
    pub family: AddressFamily,
    /// When.
    pub at: SystemTime,
}

impl Tally {
    /// What was seen so far.
    pub fn seen(&self) -> Seen {
        Seen {
            services: self.services.load(Ordering::Relaxed),
            endpoint_slices: self.endpoint_slices.load(Ordering::Relaxed),
        }
    }

    /// Something is to be brought in force.
    pub fn queued(&self) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        self.last.store(milliseconds, Ordering::Relaxed);
    }

    /// When something was last, in seconds since 1970.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds of this age fit")]
    pub fn last_queued(&self) -> f64 {
        self.last.load(Ordering::Relaxed) as f64 / 1e3
    }

    /// Adds changes of Services.
    #[cfg(test)]
    pub(crate) fn count_services(&self, more: u64) {
        self.services.fetch_add(more, Ordering::Relaxed);
    }

    /// Adds what differs from the last time that everything was read.
    pub(super) fn add(&self, changes: &Changes) {
        for (count, changes) in [
            (&self.services, changes.services.len()),
            (&self.endpoint_slices, changes.endpoint_slices.len()),
        ] {
            count.fetch_add(changes as u64, Ordering::Relaxed);
        }
    }
}
