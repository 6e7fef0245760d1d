//! The agent's own health, as kube-proxy tells its: whether the kernel keeps up
//! with what is wanted, and whether the node stays.

use crate::model::Node;
use k8s_openapi::jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a change may wait to be in force: twice kube-proxy's period of 30 s.
const OVERDUE: Duration = Duration::from_mins(1);

/// Go's zero time, which stands for never.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// What the agent's loop says and whoever asks reads.
#[derive(Debug, Default)]
pub(in crate::agent) struct ProxyHealth(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Since when something is wanted that is not in force.
    waiting: Option<Instant>,
    /// When the kernel was last brought up to date.
    updated: Option<SystemTime>,
    /// Whether there ever was a Node object.
    node_seen: bool,
    /// Whether it is gone since, or about to go.
    node_leaves: bool,
}

/// The answer, with the fields of kube-proxy's.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    /// Without regard to the node.
    healthy: bool,
    /// Both families are brought up to date together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    status: BTreeMap<&'static str, FamilyAnswer>,
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyAnswer {
    last_updated: String,
    healthy: bool,
}

fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(i128::MAX);
    Timestamp::from_nanosecond(nanoseconds).map_or_else(|_| NEVER.to_owned(), |at| at.to_string())
}

impl State {
    fn keeps_up(&self, now: Instant) -> bool {
        self.waiting.is_none_or(|since| now.saturating_duration_since(since) < OVERDUE)
    }

    fn answer(&self, now: Instant, clock: SystemTime, node: bool) -> (bool, String) {
        let keeps_up = self.keeps_up(now);
        let node_eligible = node.then_some(!self.node_leaves);
        let healthy = keeps_up && node_eligible != Some(false);
        let updated = self.updated.map(rfc3339);
        let family = updated.clone().map(|at| FamilyAnswer { last_updated: at, healthy: keeps_up });
        let status = family.into_iter().flat_map(|one| [("IPv4", one.clone()), ("IPv6", one)]);
        let answer = Answer {
            // Who is healthy has looked just now, as older kube-proxies had it.
            last_updated: if healthy {
                rfc3339(clock)
            } else {
                updated.unwrap_or_else(|| NEVER.to_owned())
            },
            current_time: rfc3339(clock),
            node_eligible,
            healthy: keeps_up,
            status: status.collect(),
        };
        // Plain strings can't fail.
        (healthy, serde_json::to_string(&answer).unwrap_or_default())
    }
}

impl ProxyHealth {
    /// Something is to be brought in force.
    pub(in crate::agent) fn set_waiting(&self, now: Instant) {
        self.change(|state| {
            state.waiting.get_or_insert(now);
        });
    }

    /// All that is wanted is in force.
    pub(in crate::agent) fn set_updated(&self, clock: SystemTime) {
        self.change(|state| {
            state.waiting = None;
            state.updated = Some(clock);
        });
    }

    /// The Node object of this machine. Without a name for it, or while nobody
    /// has written it, the node stays.
    pub(in crate::agent) fn set_node(&self, node: Option<&Node>) {
        self.change(|state| {
            state.node_seen |= node.is_some();
            state.node_leaves = node.map_or(state.node_seen, |node| node.leaving);
        });
    }

    /// Whether nothing has been waiting for too long.
    pub(in crate::agent) fn keeps_up(&self, now: Instant) -> bool {
        self.read(|state| state.keeps_up(now))
    }

    /// Whether new connections should come to this node, and the answer in full.
    pub(super) fn healthz(&self, now: Instant, clock: SystemTime) -> (bool, String) {
        self.read(|state| state.answer(now, clock, true))
    }

    /// Whether the agent works, and the answer in full.
    pub(super) fn livez(&self, now: Instant, clock: SystemTime) -> (bool, String) {
        self.read(|state| state.answer(now, clock, false))
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    const LATER: &str = "2026-11-25T10:00:00.5Z";

    fn at(text: &str) -> SystemTime {
        let timestamp: Timestamp = text.parse().unwrap();
        UNIX_EPOCH + Duration::from_millis(timestamp.as_millisecond().unsigned_abs())
    }

    #[test]
    fn a_change_that_waits_a_minute_is_one_too_long() {
        let health = ProxyHealth::default();
        let begin = Instant::now();
        health.set_updated(at("2026-11-25T09:00:00Z"));
        health.set_waiting(begin);
        // The first that waits counts.
        health.set_waiting(begin + Duration::from_secs(50));
        assert!(health.keeps_up(begin + Duration::from_millis(59_999)));
        let late = begin + OVERDUE;
        assert!(!health.keeps_up(late));
        let expected = r#""healthy":false,"status":{"IPv4":{"lastUpdated":"2026-11-25T09:00:00Z","healthy":false},"IPv6":{"lastUpdated":"2026-11-25T09:00:00Z","healthy":false}}}"#;
        let head =
            r#"{"lastUpdated":"2026-11-25T09:00:00Z","currentTime":"2026-11-25T10:00:00.5Z","#;
        assert_eq!(health.livez(late, at(LATER)), (false, format!("{head}{expected}")));
        let eligible = format!(r#"{head}"nodeEligible":true,{expected}"#);
        assert_eq!(health.healthz(late, at(LATER)), (false, eligible));
        health.set_updated(at(LATER));
        assert!(health.keeps_up(late));
    }

    #[test]
    fn whoever_is_healthy_was_updated_just_now() {
        let health = ProxyHealth::default();
        let expected = r#"{"lastUpdated":"2026-11-25T10:00:00.5Z","currentTime":"2026-11-25T10:00:00.5Z","nodeEligible":true,"healthy":true}"#;
        let now = Instant::now();
        assert_eq!(health.healthz(now, at(LATER)), (true, expected.to_owned()));
        // Even the first change may be late.
        health.set_waiting(now);
        let (healthy, text) = health.healthz(now + OVERDUE, at(LATER));
        assert!(!healthy && text.starts_with(r#"{"lastUpdated":"0001-01-01T00:00:00Z""#), "{text}");
    }

    #[test]
    fn a_node_that_goes_is_no_place_for_new_connections_but_no_reason_to_restart() {
        let health = ProxyHealth::default();
        let now = Instant::now();
        let node = |leaving| Node {
            name: ObjectName { namespace: String::new(), name: "n1".into() },
            zone: None,
            addresses: Vec::new(),
            pod_cidrs: Vec::new(),
            leaving,
        };
        let fit = || health.healthz(now, at(LATER)).0;
        health.set_node(None);
        assert!(fit(), "a node that nobody has written yet");
        health.set_node(Some(&node(false)));
        assert!(fit());
        for leaving in [Some(node(true)), None] {
            health.set_node(leaving.as_ref());
            let (healthy, text) = health.healthz(now, at(LATER));
            assert!(!healthy && text.contains(r#""nodeEligible":false,"healthy":true"#), "{text}");
            assert!(health.livez(now, at(LATER)).0);
        }
        health.set_node(Some(&node(false)));
        assert!(fit(), "it came back");
    }
}
