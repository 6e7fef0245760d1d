//! Measurements that send packets through the BPF programs: set-up, build, and then
//! a binary of the tests' crate, which does the rest.

use crate::{setup, shell};
use anyhow::Result;

/// How well the policies keep what they promise.
pub(crate) fn balance() -> Result<()> {
    run("balance", "lb-balance")
}

/// What a packet costs in each program.
pub(crate) fn bench() -> Result<()> {
    run("bench", "lb-bench")
}

fn run(command: &str, binary: &str) -> Result<()> {
    setup::require_root(&format!("`cargo xtask {command}`"))?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the BPF programs, and the measurement");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-tests", "--bin", binary]))?;
    let binary = shell::target_directory()?.join("debug").join(binary);
    shell::run(&mut shell::command(&binary.to_string_lossy()))
}
