//! Garbage through every program: nothing crashes, nothing that is not ours
//! changes, what is ours changes only where it may, and the verdicts add up.
//!
//! `LB_GARBAGE_FRAMES` sets the number of frames, `LB_SEED` repeats a run.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by ending; clippy knows only those in the functions marked as tests"
)]

mod frames;
mod oracle;

use lb_tests::privilege::quick;
use lb_tests::prog::net::PORTS;
use lb_tests::prog::{Prog, Random, Rig, action};

use frames::{frame, world};
use oracle::{answer, check};

fn frames() -> usize {
    let wanted = std::env::var("LB_GARBAGE_FRAMES").ok().and_then(|n| n.parse().ok());
    wanted.unwrap_or(if quick() { 20_000 } else { 100_000 })
}

#[test]
fn garbage_does_no_harm_and_every_run_is_counted_once() {
    let Some(mut rig) = Rig::take() else { return };
    let world = world(&mut rig);
    let mut random = Random::seeded();
    let mut runs = [0_u64; lb_common::Hook::ALL.len()];
    let (mut changed, mut ended) = (0, 0);
    let mut given_out: Option<Vec<u8>> = None;
    for _ in 0..frames() {
        let l3 = random.one_in(3);
        let frame = match given_out.take() {
            Some(answer) if random.one_in(2) => answer,
            _ => frame(&mut random, &world, l3),
        };
        let port = random.pick(&PORTS);
        for prog in Prog::ALL {
            if !prog.runs_on(&frame) {
                continue;
            }
            let (action, out) = rig.run_uncounted(prog, port.index, &frame);
            runs[prog.hook() as usize] += 1;
            check(&world, prog, &frame, action, &out);
            if out != frame {
                changed += 1;
                given_out = answer(&out, prog.is_ethernet());
            }
            ended += usize::from(action == action::TC_DROP && prog != Prog::Xdp);
        }
    }
    for hook in lb_common::Hook::ALL {
        let verdicts = rig.take_verdicts(hook);
        println!("{}: {verdicts:?}", hook.name());
        assert_eq!(verdicts.values().sum::<u64>(), runs[hook as usize], "{}", hook.name());
    }
    println!("{runs:?} runs, {changed} changed the frame, {ended} ended it");
    assert!(changed > frames() / 100, "the garbage met the translation too: {changed}");
}
