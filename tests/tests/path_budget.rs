//! What a packet costs on each way through the programs, against the record:
//! instructions, and what they ask of maps and helpers. No machine's noise is in it.

use lb_tests::count::budget;
use lb_tests::prog::Rig;

#[test]
fn no_way_costs_more_than_on_record() {
    let Some(mut rig) = Rig::take_vast() else { return };
    let lines = budget::count(&mut rig).unwrap();
    assert_eq!(budget::excesses(&lines), Vec::<String>::new(), "\n{}", budget::text(&lines));
}
