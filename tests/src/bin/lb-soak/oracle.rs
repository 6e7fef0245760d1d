//! Which backend may answer a request: by what was published when, and what was
//! seen in force on the node that translates it.
//!
//! A version of the Services may answer from the moment before it is written
//! until a later one was seen in force. So while no agent runs the old one may,
//! and a change that an agent has put in force must hold from then on.

use crate::services::State;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long versions are remembered that are in force nowhere.
const MEMORY: Duration = Duration::from_mins(1);

/// Versions of the Services, the oldest first.
#[derive(Debug)]
pub(crate) struct Oracle {
    nodes: usize,
    versions: Mutex<VecDeque<Version>>,
}

#[derive(Debug)]
struct Version {
    number: u64,
    state: State,
    published: Instant,
    /// Since when it is known to be in force, by node.
    in_force: Vec<Option<Instant>>,
}

/// Who may answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allowed {
    /// By some version that may be in force.
    pub(crate) any: BTreeSet<usize>,
    /// By all of them.
    pub(crate) always: BTreeSet<usize>,
    /// Whether nobody is an answer, too.
    pub(crate) nobody: bool,
}

impl Oracle {
    /// Nothing is published yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, versions: Mutex::default() }
    }

    fn versions(&self) -> MutexGuard<'_, VecDeque<Version>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version is about to be written.
    pub(crate) fn publish(&self, number: u64, state: State, now: Instant) {
        let mut versions = self.versions();
        let in_force = vec![None; self.nodes];
        versions.push_back(Version { number, state, published: now, in_force });
        while versions.len() > 1 && is_over(&versions, now) {
            versions.pop_front();
        }
    }

    /// A version as it was published.
    pub(crate) fn state(&self, number: u64) -> Option<State> {
        let versions = self.versions();
        versions.iter().find(|version| version.number == number).map(|v| v.state.clone())
    }

    /// The latest one.
    pub(crate) fn latest(&self) -> Option<State> {
        self.versions().back().map(|version| version.state.clone())
    }

    /// A version was seen in force on a node.
    pub(crate) fn seen(&self, node: usize, number: u64, at: Instant) {
        let mut versions = self.versions();
        if let Some(version) = versions.iter_mut().find(|version| version.number == number) {
            version.in_force[node].get_or_insert(at);
        }
    }

    /// For how long the latest version has been waiting to be in force.
    pub(crate) fn waiting(&self, node: usize, now: Instant) -> Duration {
        let versions = self.versions();
        let first_unseen =
            versions.iter().rev().take_while(|version| version.in_force[node].is_none()).last();
        first_unseen.map_or(Duration::ZERO, |version| now.duration_since(version.published))
    }

    /// Who may answer a request to a Service by way of a node, that was sent
    /// and answered in this time.
    pub(crate) fn allowed(
        &self,
        node: usize,
        service: usize,
        from: Instant,
        to: Instant,
    ) -> Allowed {
        let versions = self.versions();
        let mut allowed = Allowed { any: BTreeSet::new(), always: BTreeSet::new(), nobody: false };
        let mut first = true;
        let mut replaced: Option<Instant> = None;
        for version in versions.iter().rev() {
            if version.published <= to && replaced.is_none_or(|at| at >= from) {
                let pods = version.state[service].as_ref().map(|kept| kept.pods.clone());
                let pods = pods.unwrap_or_default();
                allowed.nobody |= pods.is_empty();
                allowed.always = if first { pods.clone() } else { &allowed.always & &pods };
                allowed.any.extend(pods);
                first = false;
            }
            replaced = [replaced, version.in_force[node]].into_iter().flatten().min();
        }
        allowed
    }
}

/// Whether the oldest version was replaced everywhere long ago.
fn is_over(versions: &VecDeque<Version>, now: Instant) -> bool {
    let long_ago = |at: &Instant| now.duration_since(*at) > MEMORY;
    let nodes = versions.front().map_or(0, |version| version.in_force.len());
    (0..nodes).all(|node| {
        versions.iter().skip(1).filter_map(|version| version.in_force[node]).any(|at| long_ago(&at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::first;

    fn only(pod: usize) -> State {
        let mut state = first(6);
        state[0].as_mut().unwrap().pods = [pod].into();
        state
    }

    fn at(oracle: &Oracle, from: Instant, to: Instant) -> Vec<usize> {
        oracle.allowed(0, 0, from, to).any.into_iter().collect()
    }

    #[test]
    fn a_version_may_answer_until_a_later_one_was_seen_in_force() {
        let oracle = Oracle::new(2);
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        oracle.publish(0, only(0), start);
        oracle.seen(0, 0, second(1));
        oracle.publish(1, only(1), second(10));
        assert_eq!(at(&oracle, second(8), second(9)), [0], "not published yet");
        assert_eq!(at(&oracle, second(11), second(12)), [0, 1], "not known to be in force");
        assert_eq!(oracle.waiting(0, second(12)), Duration::from_secs(2));
        oracle.publish(2, only(2), second(13));
        oracle.seen(0, 2, second(15));
        assert_eq!(oracle.waiting(0, second(16)), Duration::ZERO);
        assert_eq!(at(&oracle, second(16), second(17)), [2], "both others are replaced");
        assert_eq!(at(&oracle, second(14), second(17)), [0, 1, 2], "it began before");
        // Of the other node nothing is known.
        assert_eq!(oracle.allowed(1, 0, second(16), second(17)).any, [0, 1, 2].into());
        assert_eq!(oracle.waiting(1, second(16)), Duration::from_secs(16));
    }

    #[test]
    fn nobody_may_answer_for_a_service_that_is_gone() {
        let oracle = Oracle::new(1);
        let start = Instant::now();
        let mut gone = only(0);
        gone[0] = None;
        oracle.publish(0, only(0), start);
        oracle.publish(1, gone, start + Duration::from_secs(1));
        let asked = |from, to| {
            let [from, to] = [from, to].map(|n| start + Duration::from_secs(n));
            oracle.allowed(0, 0, from, to)
        };
        assert!(!asked(0, 0).nobody);
        let both = asked(2, 3);
        assert!(both.nobody && both.any == [0].into() && both.always.is_empty());
        oracle.seen(0, 1, start + Duration::from_secs(4));
        assert_eq!(asked(5, 6).any, [].into());
    }

    #[test]
    fn what_was_replaced_long_ago_is_forgotten() {
        let oracle = Oracle::new(1);
        let start = Instant::now();
        for number in 0..100 {
            let now = start + Duration::from_secs(number);
            oracle.publish(number, only(0), now);
            oracle.seen(0, number, now);
        }
        assert!(oracle.versions().len() < 70, "{}", oracle.versions().len());
        assert!(oracle.state(99).is_some() && oracle.state(1).is_none());
    }
}
