//! The benchmark: set-up, build, and then a binary of the tests' crate, which does the
//! rest.

use crate::{setup, shell};
use anyhow::{Context as _, Result};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Options {
    /// What to measure, and how: see `cargo xtask bench --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// What packets and real traffic cost, and how well policies keep what they promise.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask bench`")?;
    setup::run(setup::Purpose::Bench)?;
    println!("build: the agent with its BPF programs, and the measurement, for release");
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "--release", "-p", "lb-userspace", "--bin", "lb"]);
    shell::run(build.args(["-p", "lb-tests", "--bin", "lb-bench"]))?;
    let binary = shell::target_directory()?.join("release/lb-bench");
    let mut bench = shell::command(&binary.to_string_lossy());
    // Files are meant from where the user is.
    bench.current_dir(std::env::current_dir().context("where this runs")?);
    // In our place, so that an interrupt reaches the measurement, which cleans up.
    let error = bench.args(&options.arguments).exec();
    Err(error).with_context(|| format!("can't start {}", binary.display()))
}
