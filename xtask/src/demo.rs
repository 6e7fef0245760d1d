//! The demo: set-up, build, and then `lb-demo` of the tests' crate, which makes
//! a small cluster out of network namespaces and sends traffic through it.

use crate::{setup, shell};
use anyhow::{Context as _, Result};
use clap::Args;
use std::os::unix::process::CommandExt as _;

/// Options of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave the cluster standing, and print how to look around
    #[arg(long)]
    keep: bool,
    /// Remove a cluster that was left standing, and nothing else
    #[arg(long, conflicts_with = "keep")]
    remove: bool,
}

/// Builds and runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask demo`")?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the agent with its BPF programs, and the demo");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]))?;
    let binary = shell::target_directory()?.join("debug/lb-demo");
    let mut demo = shell::command(&binary.to_string_lossy());
    for (asked, option) in [(options.keep, "--keep"), (options.remove, "--remove")] {
        if asked {
            demo.arg(option);
        }
    }
    // In our place, so that an interrupt reaches the demo, which cleans up.
    let error = demo.exec();
    Err(error).with_context(|| format!("can't start {}", binary.display()))
}
