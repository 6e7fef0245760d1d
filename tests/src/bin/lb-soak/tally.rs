//! What the soak counts, and the first things that were wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many sentences are kept of what was wrong.
const SENTENCES: usize = 20;

/// A number that several threads count.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// One more.
    pub(crate) fn one(&self) {
        self.add(1);
    }

    /// So many more.
    pub(crate) fn add(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// So far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything that is counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    stop: AtomicBool,
    /// Answered requests of short connections and flows.
    pub(crate) short: Count,
    /// Answered requests of those that stay.
    pub(crate) long: Count,
    /// Not answered, and rightly so: the Service had no endpoints.
    pub(crate) refused: Count,
    /// Datagrams sent again, though somebody had to answer.
    pub(crate) repeated: Count,
    /// Answers from a backend that must not.
    pub(crate) wrong: Count,
    /// Requests that failed, and must not.
    pub(crate) failed: Count,
    /// Versions of the Services.
    pub(crate) changes: Count,
    /// Agents killed.
    pub(crate) kills: Count,
    /// Agents replaced.
    pub(crate) upgrades: Count,
    /// Agents ended and started again.
    pub(crate) stops: Count,
    /// Faults injected.
    pub(crate) faults: Count,
    /// What was not put right again in time: faults, and changes.
    pub(crate) lasting: Count,
    sentences: Mutex<Vec<String>>,
}

impl Tally {
    /// Says what was wrong, with the first of which a reader can begin.
    pub(crate) fn note(&self, count: &Count, sentence: String) {
        count.one();
        let mut sentences = self.sentences.lock().unwrap_or_else(PoisonError::into_inner);
        if sentences.len() < SENTENCES {
            sentences.push(sentence);
        }
    }

    /// The first things that were wrong since the last time that this was asked.
    pub(crate) fn news(&self) -> Vec<String> {
        std::mem::take(&mut self.sentences.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether all that was asked was answered rightly.
    pub(crate) fn is_clean(&self) -> bool {
        // Some may be lost on a machine that has much else to do.
        let lost = self.repeated.get() * 1000 > self.short.get() + self.long.get();
        self.wrong.get() + self.failed.get() + self.lasting.get() == 0 && !lost
    }

    /// Whether to go on.
    pub(crate) fn going(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Tells all threads to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Rests so long, or until told to end.
    pub(crate) fn rest(&self, time: Duration) {
        let begin = Instant::now();
        while self.going() && begin.elapsed() < time {
            thread::sleep(time.saturating_sub(begin.elapsed()).min(Duration::from_millis(50)));
        }
    }
}
