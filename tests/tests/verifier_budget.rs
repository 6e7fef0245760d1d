//! What the verifier of the running kernel goes through for each program,
//! against the record: a change that makes it a lot more shows here, not when
//! a kernel refuses the program.

use lb_tests::budget;
use lb_tests::privilege::root_or_skip;
use lb_tests::stack;

#[test]
fn no_program_takes_much_more_than_on_record() {
    if !root_or_skip() {
        return;
    }
    let uname = nix::sys::utsname::uname().unwrap();
    let release = uname.release().to_str().unwrap();
    let mut excesses = Vec::new();
    for probe in budget::load().unwrap() {
        // Kernels before 5.16 don't tell.
        if let Some(count) = probe.verified.unwrap()
            && let Some(excess) = budget::excess(release, probe.program, count)
        {
            excesses.push(format!("{}: {count} instructions, {excess}", probe.program));
        }
    }
    assert_eq!(excesses, Vec::<String>::new());
}

#[test]
fn every_chain_of_calls_has_the_stack_that_older_kernels_give() {
    let depths = stack::depths().unwrap();
    assert_eq!(depths.len(), 5 + lb_common::names::PROGS_SOCKET.len());
    let deep: Vec<_> = depths.iter().filter(|(_, depth)| **depth > stack::LIMIT).collect();
    assert!(deep.is_empty(), "more than {} bytes: {deep:?}", stack::LIMIT);
}
