//! What a packet costs: set-up, build, and then `lb-bench` of the tests' crate,
//! which measures the BPF programs side by side.

use crate::{setup, shell};
use anyhow::Result;

/// Builds and runs it.
pub(crate) fn run() -> Result<()> {
    setup::require_root("`cargo xtask bench`")?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the BPF programs, and the measurement");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-tests", "--bin", "lb-bench"]))?;
    let binary = shell::target_directory()?.join("debug/lb-bench");
    shell::run(&mut shell::command(&binary.to_string_lossy()))
}
