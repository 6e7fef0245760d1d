//! An agent that dies between any two writes to the maps, or whose writes fail,
//! leaves what serves, and the next one makes it exact: random updates on the
//! maps in the kernel, asked by the programs in the kernel.
//!
//! `LB_CRASH_UPDATES` sets the number of updates; `LB_SEED` repeats a run.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by ending and prints its figures; clippy knows only those in the \
              functions marked as tests"
)]

mod audit;
mod expect;
mod services;
mod world;

use audit::{audit, audit_leftovers};
use expect::Reference;
use lb_tests::faults::Faults;
use lb_tests::privilege::{quick, root_or_skip};
use lb_tests::prog::Random;
use lb_userspace::reconcile::{Programmer, QUARANTINE};
use services::State;
use std::time::Duration;
use world::{Between, World};

/// How often agents die on the way to one state, at most.
const KILLS: usize = 3;

/// How many updates.
fn updates(usual: usize) -> usize {
    let asked = std::env::var("LB_CRASH_UPDATES").ok().and_then(|number| number.parse().ok());
    asked.unwrap_or(if quick() { usual / 5 } else { usual })
}

/// Ends an update that is in force.
fn settle(world: &mut World, agent: &mut Programmer, state: &State, random: &mut Random) {
    let desired = Reference::new(state);
    audit(&world.maps, &desired);
    world.tried.updates += 1;
    if random.one_in(20) {
        world.check_all(&desired, random);
        world.now += Duration::from_secs(10);
        agent.expire(world.now).expect("frees what rested");
        audit_leftovers(&world.maps, &desired);
    }
    world.wait(random);
}

#[test]
fn an_agent_that_dies_between_two_writes_leaves_what_serves() {
    if !root_or_skip() {
        return;
    }
    let mut random = Random::seeded();
    let mut world = World::new();
    let mut agent = world.agent();
    let mut state = State::empty();
    for _ in 0..updates(1_000) {
        let mut between = Between::new(Reference::new(&state));
        state = state.changed(&mut random);
        between.push(Reference::new(&state));
        for attempt in 0.. {
            let State { desired, facts } = &state;
            let mut update = agent.begin(desired, facts, world.now).expect("a plan");
            // A long update that always dies early would never end.
            let last = random.pick(&[4, 32, 128]);
            let mut left = if attempt < KILLS { random.below(last) } else { usize::MAX };
            let mut done = false;
            while left > 0 && !done {
                done = !agent.step(&mut update).expect("a write");
                if !done {
                    world.tried.writes += 1;
                    world.check(&between, &mut random);
                }
                left -= 1;
            }
            if done {
                let report = agent.finish(update);
                if !report.wants_retry() {
                    assert_eq!(report.refused, []);
                    break;
                }
                // What was freed a moment ago rests; where an agent that starts can't
                // wait for packets, so does all that ever was in use. What waits keeps
                // what it had, as if the agent had died before it came to it.
                assert!(attempt <= KILLS + 1, "waits for ever: {:?}", report.refused);
                world.check(&between, &mut random);
                world.tried.waits += 1;
                world.now += QUARANTINE;
                continue;
            }
            // It dies here, and what is desired may change before the next one
            // starts.
            drop((agent, update));
            world.tried.kills += 1;
            world.wait(&mut random);
            if random.one_in(4) {
                state = state.changed(&mut random);
                between.push(Reference::new(&state));
            }
            agent = world.agent();
        }
        settle(&mut world, &mut agent, &state, &mut random);
    }
}

#[test]
fn a_write_that_fails_is_named_and_made_up_for() {
    if !root_or_skip() {
        return;
    }
    let errors = [libc::E2BIG, libc::ENOMEM, libc::EINTR];
    Faults::run(|faults| {
        let mut random = Random::seeded();
        let mut world = World::new();
        let mut agent = world.agent();
        let mut state = State::empty();
        for _ in 0..updates(150) {
            let mut between = Between::new(Reference::new(&state));
            state = state.changed(&mut random);
            between.push(Reference::new(&state));
            // Every write of the update fails once.
            for good in 0.. {
                let error = errors[good % errors.len()];
                faults.fail_after(good, error);
                let applied = agent.apply(&state.desired, &state.facts, world.now);
                let met = faults.heal();
                world.check(&between, &mut random);
                match applied {
                    Ok(report) => {
                        assert!(!met, "a failure went unnoticed");
                        assert_eq!(report.refused, []);
                        break;
                    }
                    Err(failure) => {
                        assert!(met, "{failure}");
                        let said = failure.to_string();
                        let named = said.starts_with("Service") || said.starts_with("ranges of ");
                        let reason = std::io::Error::from_raw_os_error(error).to_string();
                        assert!(named && said.ends_with(&reason), "{said}");
                        assert!(!said.contains("Service id"), "{said}");
                        world.tried.failures += 1;
                        // As the agent does before it tries again.
                        world.now += QUARANTINE;
                    }
                }
            }
            settle(&mut world, &mut agent, &state, &mut random);
        }
    });
}
