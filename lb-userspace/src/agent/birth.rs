//! What is told of the node when an agent starts on it, as kube-proxy does.

use super::health::HEALTHZ;
use super::{Config, METRICS};
use crate::cli::ListenAddress;
use crate::source::{Event, Events};

/// Tells that it starts, and which of its default ports it could not have.
pub(super) fn cry(events: &Events, config: &Config, has_healthz: bool, has_metrics: bool) {
    let event = |warning, reason, note| {
        events.tell(Event { about: None, warning, reason, action: "StartAgent", note });
    };
    let version = env!("CARGO_PKG_VERSION");
    event(false, "Starting", format!("lb {version} serves the Services of this node"));
    let off = |asked| asked == Some(ListenAddress::Off);
    if !has_healthz && !off(config.healthz) {
        let note = format!("no /healthz: {HEALTHZ} can't be used");
        event(true, "FailedToStartProxierHealthcheck", note);
    }
    if !has_metrics && !off(config.metrics) {
        let note = format!("no metrics: {METRICS} can't be used");
        event(true, "FailedToStartMetricServer", note);
    }
}
