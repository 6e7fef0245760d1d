//! An agent dies at every point of an update, also in the middle of a write:
//! what it leaves serves, and the next one makes of it what a first one would
//! have made of nothing. `PROPTEST_CASES` sets the number of sequences.

use super::kernel::torn;
use super::meaning::{Meaning, meaning};
use super::*;
use proptest::test_runner::{Config, TestRunner};

/// Sequences by default: about a hundred updates.
const SEQUENCES: u32 = 16;

/// What was tried.
#[derive(Debug, Default)]
struct Tried {
    updates: usize,
    writes: usize,
    deaths: usize,
}

impl World {
    /// The same kernel, and nobody who writes.
    fn fork(&self, kernel: Image) -> Self {
        let travellers = Travellers::default();
        let (programmed, held) = (self.programmed.clone(), BTreeSet::new());
        Self { kernel, programmed, now: self.now, travellers, held }
    }

    /// Another agent starts and brings everything to `desired`; long after, what
    /// rests is freed.
    fn recover(mut self, desired: &Desired) -> Meaning {
        let (programmed, mut changes) = adopt(self.kernel.clone(), self.now);
        self.programmed = programmed;
        changes.extend(self.programmed.expire(self.now));
        changes.extend(self.steps(desired));
        self.now += Duration::from_secs(10);
        changes.extend(self.programmed.expire(self.now));
        for change in &changes {
            write(&mut self.kernel, change);
        }
        meaning(&self.kernel)
    }

    fn steps(&mut self, desired: &Desired) -> Vec<Change> {
        let plan = plan(&mut self.programmed, desired, &BTreeSet::new(), &facts(), self.now);
        assert_eq!(plan.refused, []);
        plan.changes
    }

    /// Goes to `desired`, and lets the agent die at each point of the way.
    fn die_everywhere(&mut self, desired: &Desired, tried: &mut Tried) {
        let mut first = World::new(blank());
        first.apply(desired);
        let expected = meaning(&first.kernel);
        let before = view(&self.kernel);
        let now = self.now;
        let mut alive = self.fork(self.kernel.clone());
        let mut changes = self.programmed.expire(now);
        changes.extend(self.steps(desired));
        let mut finished = self.kernel.clone();
        for change in &changes {
            write(&mut finished, change);
        }
        let after = view(&finished);
        tried.updates += 1;
        for (count, change) in changes.iter().enumerate() {
            let halves = torn(&alive.kernel, change);
            for kernel in halves.into_iter().chain([alive.kernel.clone()]) {
                complete(&view(&kernel), &before, &after, false);
                let found = alive.fork(kernel).recover(desired);
                assert_eq!(found, expected, "after {count} of {changes:#?}");
                tried.deaths += 1;
            }
            write(&mut alive.kernel, change);
        }
        tried.writes += changes.len();
        self.kernel = finished;
    }
}

/// Without a filter, of which nothing is ever taken away: it is big, and copied
/// often here.
fn blank() -> Image {
    Image { filter: Vec::new(), ..kernel(40, 100, 300, 100) }
}

/// Without the Service ports that want what others have: who wins depends on
/// who was first.
fn peaceful(mut desired: Desired) -> Desired {
    let refused = World::new(blank()).apply(&desired).refused;
    for (key, _) in refused {
        desired.services.remove(&key);
    }
    desired
}

#[test]
fn wherever_an_agent_dies_the_next_one_makes_it_exact() {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = SEQUENCES;
    }
    let tried = std::cell::RefCell::new(Tried::default());
    let run = TestRunner::new(config).run(&any_sequence(), |steps| {
        let mut world = World::new(blank());
        for (desired, (wait, ..)) in steps {
            world.now += Duration::from_millis(wait);
            world.die_everywhere(&peaceful(desired), &mut tried.borrow_mut());
        }
        Ok(())
    });
    println!("{:?}", tried.borrow());
    if let Err(error) = run {
        panic!("{error}");
    }
}
