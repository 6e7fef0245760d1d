//! Whether the API server answers, and if not, since when and why. That is told
//! by kind: a role may allow one and not the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use k8s_openapi::jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};

/// Shared by those who ask the API.
#[derive(Debug, Default)]
pub(super) struct Contact(Mutex<BTreeMap<&'static str, Failure>>);

/// Why a kind can't be followed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    /// Since when, without an answer in between.
    pub(super) since: SystemTime,
    /// Whether there was an answer, if not the one that was asked for.
    pub(super) answered: bool,
    /// What was said or happened.
    pub(super) reason: String,
}

impl Contact {
    /// What was asked for a kind was answered; whether that is news.
    pub(super) fn heard(&self, kind: &str) -> bool {
        self.failures().remove(kind).is_some()
    }

    /// A kind can't be followed; whether that is news. As long as nothing is heard,
    /// the first reason stays, so that it is told once.
    pub(super) fn failed(&self, kind: &'static str, answered: bool, reason: String) -> bool {
        let mut failures = self.failures();
        let known = failures.get(kind);
        if known.is_some_and(|known| known.answered == answered) {
            return false;
        }
        let since = known.map_or_else(SystemTime::now, |known| known.since);
        failures.insert(kind, Failure { since, answered, reason });
        true
    }

    /// Since when there was no answer for at least one kind.
    pub(super) fn lost_since(&self) -> Option<SystemTime> {
        self.failures().values().map(|failure| failure.since).min()
    }

    /// What is wrong, in one sentence.
    pub(super) fn complaint(&self, url: &str) -> Option<String> {
        let failures = self.failures();
        if let Some(failure) = failures.values().find(|failure| !failure.answered) {
            let since = earliest(failures.values());
            return Some(format!(
                "no contact with the Kubernetes API at {url} since {since}: {}",
                failure.reason
            ));
        }
        let (_, first) = failures.first_key_value()?;
        let kinds: Vec<&str> = failures.keys().copied().collect();
        let (kinds, since) = (kinds.join(", "), earliest(failures.values()));
        Some(format!(
            "the Kubernetes API at {url} does not tell of {kinds} since {since}: {}",
            first.reason
        ))
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Failure>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The earliest of the times, to the second, and never later.
fn earliest<'a>(failures: impl Iterator<Item = &'a Failure>) -> impl fmt::Display {
    let first = failures.map(|failure| failure.since).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let since = first.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp::UNIX_EPOCH + SignedDuration::try_from(since).unwrap_or_default();
    time.round(TimestampRound::new().smallest(Unit::Second).mode(RoundMode::Trunc)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_until_something_is_heard() {
        let contact = Contact::default();
        assert_eq!(contact.complaint("https://api"), None);
        assert!(contact.failed("services", false, "connection refused".into()));
        assert!(!contact.failed("services", false, "timed out".into()));
        let complaint = contact.complaint("https://api").unwrap();
        assert!(
            complaint.starts_with("no contact with the Kubernetes API at https://api since 20")
                && complaint.ends_with("Z: connection refused"),
            "{complaint}"
        );
        let since = contact.lost_since();
        assert!(contact.failed("services", true, "forbidden".into()));
        assert!(contact.failed("nodes", true, "forbidden".into()));
        assert_eq!(contact.lost_since(), since);
        let complaint = contact.complaint("https://api").unwrap();
        assert!(complaint.contains("does not tell of nodes, services since"), "{complaint}");
        assert!(contact.heard("services") && contact.heard("nodes") && !contact.heard("nodes"));
        assert_eq!((contact.lost_since(), contact.complaint("")), (None, None));
    }
}
