//! Ids that are handed out in turn: one that was released waits behind every
//! other free one, and at least for the quarantine, so that a packet that is
//! on its way with an old id meets nobody else's row.

use std::collections::VecDeque;
use std::time::Instant;

/// The free ids of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IdPool {
    /// In the order in which they are handed out, with the end of quarantine.
    free: VecDeque<(u32, Option<Instant>)>,
}

impl IdPool {
    /// `fresh` ids were never used, `used` ones may be named by somebody until
    /// `until`.
    pub(super) fn new(
        fresh: impl IntoIterator<Item = u32>,
        used: impl IntoIterator<Item = u32>,
        until: Instant,
    ) -> Self {
        let fresh = fresh.into_iter().map(|id| (id, None));
        let used = used.into_iter().map(|id| (id, Some(until)));
        Self { free: fresh.chain(used).collect() }
    }

    /// The id that was free for longest, if one is out of quarantine.
    pub(super) fn allocate(&mut self, now: Instant) -> Option<u32> {
        let rested =
            |(_, until): &mut (u32, Option<Instant>)| until.is_none_or(|until| until <= now);
        self.free.pop_front_if(rested).map(|(id, _)| id)
    }

    /// Takes back an id that nobody has seen.
    pub(super) fn give_back(&mut self, id: u32) {
        self.free.push_front((id, None));
    }

    /// Takes back an id that may still be named until `until`.
    pub(super) fn release(&mut self, id: u32, until: Instant) {
        self.free.push_back((id, Some(until)));
    }

    /// How many ids are free or in quarantine.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_released_id_waits_for_its_time_and_its_turn() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut pool = IdPool::new(1..=3, [], now);
        assert_eq!(pool.allocate(now), Some(1));
        pool.release(1, later);
        assert_eq!(pool.allocate(now), Some(2));
        assert_eq!(pool.allocate(now), Some(3));
        assert_eq!(pool.allocate(now), None);
        assert_eq!(pool.allocate(later), Some(1));
        assert_eq!(pool.allocate(later), None);
    }

    #[test]
    fn an_unseen_id_is_the_next_again() {
        let now = Instant::now();
        let mut pool = IdPool::new(1..=3, [], now);
        let id = pool.allocate(now).unwrap();
        pool.give_back(id);
        assert_eq!(pool.free(), 3);
        assert_eq!(pool.allocate(now), Some(id));
    }
}
