//! How well the policies keep what they promise: set-up, build, and then
//! `lb-balance` of the tests' crate, which sends connections through the BPF
//! programs.

use crate::{setup, shell};
use anyhow::Result;

/// Builds and runs it.
pub(crate) fn run() -> Result<()> {
    setup::require_root("`cargo xtask balance`")?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the BPF programs, and the measurement");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-tests", "--bin", "lb-balance"]))?;
    let binary = shell::target_directory()?.join("debug/lb-balance");
    shell::run(&mut shell::command(&binary.to_string_lossy()))
}
