//! Runs of words in the slot array. A run that was in force is kept out of use
//! for the quarantine, as a packet may still be reading it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// A run of words; every word holds two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Extent {
    /// First word.
    pub(super) start: u32,
    /// Number of words.
    pub(super) words: u32,
}

impl Extent {
    /// Words that `slots` slots need.
    pub(super) const fn words_for(slots: u32) -> u32 {
        slots.div_ceil(2)
    }

    const fn end(self) -> u32 {
        self.start.saturating_add(self.words)
    }

    /// Whether a word is inside.
    pub(super) const fn has(self, word: u32) -> bool {
        word >= self.start && word < self.end()
    }
}

/// The free runs of the slot array.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ExtentPool {
    /// Free runs: start to length; neighbours are always joined.
    by_start: BTreeMap<u32, u32>,
    /// The same, by length.
    by_length: BTreeSet<(u32, u32)>,
    /// Runs that were in force a moment ago, the oldest first.
    quarantine: VecDeque<(Instant, Extent)>,
}

impl ExtentPool {
    /// A pool of `words` words without those of `taken`. Words that `blank`
    /// denies may have been in force a moment ago, until `until`.
    pub(super) fn new(
        words: u32,
        taken: impl IntoIterator<Item = Extent>,
        blank: impl Fn(u32) -> bool,
        until: Instant,
    ) -> Self {
        let mut pool = Self::default();
        let mut taken: Vec<_> = taken.into_iter().collect();
        taken.sort_unstable();
        let mut next = 0;
        for extent in taken.into_iter().chain([Extent { start: words, words: 0 }]) {
            pool.adopt_gap(next, extent.start, &blank, until);
            next = next.max(extent.end());
        }
        pool
    }

    fn adopt_gap(
        &mut self,
        mut start: u32,
        end: u32,
        blank: &impl Fn(u32) -> bool,
        until: Instant,
    ) {
        while start < end {
            let is_blank = blank(start);
            let stop = (start..end).find(|&word| blank(word) != is_blank).unwrap_or(end);
            let extent = Extent { start, words: stop - start };
            if is_blank {
                self.insert(extent);
            } else {
                self.quarantine.push_back((until, extent));
            }
            start = stop;
        }
    }

    /// The smallest free run that holds `words`, cut to size.
    pub(super) fn allocate(&mut self, words: u32, now: Instant) -> Option<Extent> {
        self.expire(now);
        let &(length, start) = self.by_length.range((words, 0)..).next()?;
        self.remove(Extent { start, words: length });
        if length > words {
            self.insert(Extent { start: start + words, words: length - words });
        }
        Some(Extent { start, words })
    }

    /// Whether runs are in quarantine.
    pub(super) fn has_resting(&self) -> bool {
        !self.quarantine.is_empty()
    }

    /// Takes back a run that nobody has seen.
    pub(super) fn give_back(&mut self, extent: Extent) {
        self.insert(extent);
    }

    /// Takes back a run that may be read until `until`.
    pub(super) fn release(&mut self, extent: Extent, until: Instant) {
        self.quarantine.push_back((until, extent));
    }

    /// How many words are free or in quarantine.
    #[cfg(test)]
    pub(super) fn free(&self) -> u64 {
        let quarantined = self.quarantine.iter().map(|(_, extent)| extent.words);
        self.by_start.values().copied().chain(quarantined).map(u64::from).sum()
    }

    fn expire(&mut self, now: Instant) {
        while let Some((_, extent)) = self.quarantine.pop_front_if(|(until, _)| *until <= now) {
            self.insert(extent);
        }
    }

    fn insert(&mut self, mut extent: Extent) {
        if extent.words == 0 {
            return;
        }
        if let Some((&start, &words)) = self.by_start.range(..extent.start).next_back()
            && start + words == extent.start
        {
            self.remove(Extent { start, words });
            extent = Extent { start, words: words + extent.words };
        }
        if let Some(&words) = self.by_start.get(&extent.end()) {
            self.remove(Extent { start: extent.end(), words });
            extent.words += words;
        }
        self.by_start.insert(extent.start, extent.words);
        self.by_length.insert((extent.words, extent.start));
    }

    fn remove(&mut self, extent: Extent) {
        self.by_start.remove(&extent.start);
        self.by_length.remove(&(extent.words, extent.start));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn what_was_written_before_a_restart_is_not_touched_at_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let taken = [Extent { start: 4, words: 2 }];
        let mut pool = ExtentPool::new(10, taken, |word| word >= 8, later);
        assert_eq!(pool.free(), 8);
        assert_eq!(pool.allocate(2, now), Some(Extent { start: 8, words: 2 }));
        assert_eq!(pool.allocate(3, now), None);
        assert_eq!(pool.allocate(3, later), Some(Extent { start: 0, words: 3 }));
        assert_eq!(pool.allocate(3, later), None);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(
            steps in proptest::collection::vec((1_u32..20, any::<bool>()), 1..200),
        ) {
            let mut now = Instant::now();
            let mut pool = ExtentPool::new(100, [], |_| true, now);
            let mut held: VecDeque<Extent> = VecDeque::new();
            let mut resting: Vec<(Instant, Extent)> = Vec::new();
            for (words, release) in steps {
                now += Duration::from_millis(100);
                resting.retain(|(until, _)| *until > now);
                if release && let Some(extent) = held.pop_front() {
                    let until = now + Duration::from_secs(1);
                    pool.release(extent, until);
                    resting.push((until, extent));
                } else if let Some(extent) = pool.allocate(words, now) {
                    let others = held.iter().chain(resting.iter().map(|(_, extent)| extent));
                    for other in others {
                        prop_assert!(
                            extent.end() <= other.start || other.end() <= extent.start,
                            "{extent:?} overlaps {other:?}"
                        );
                    }
                    held.push_back(extent);
                }
            }
            let until = now;
            for extent in held {
                pool.release(extent, until);
            }
            now += Duration::from_secs(2);
            prop_assert_eq!(pool.allocate(100, now), Some(Extent { start: 0, words: 100 }));
        }
    }
}
