//! The programs against the model (`lb_tests::model`): random Services, random
//! changes to them, random packets, each followed on its whole way through the
//! node. `PROPTEST_CASES` sets the number of scenarios.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by ending; clippy knows only those in the functions marked as tests"
)]

mod scenario;
mod world;

use std::cell::RefCell;

use lb_tests::privilege::quick;
use lb_tests::prog::Rig;
use proptest::test_runner::{Config, TestRunner};

use scenario::scenarios;
use world::World;

#[test]
fn programs_and_model_agree() {
    let Some(rig) = Rig::take() else { return };
    let rig = RefCell::new(rig);
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = if quick() { 50 } else { 200 };
    }
    let run = TestRunner::new(config).run(&scenarios(), |scenario| {
        let mut rig = rig.borrow_mut();
        let mut world = World::new(&mut rig, &scenario);
        for op in &scenario.ops {
            world.apply(&mut rig, op);
        }
        world.compare_counters(&rig);
        Ok(())
    });
    if let Err(error) = run {
        panic!("{error}");
    }
}
