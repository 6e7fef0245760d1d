//! The soak: set-up, build, and then `lb-soak` of the tests' crate, which makes
//! a cluster out of network namespaces and lets nothing in it rest.

use crate::{setup, shell};
use anyhow::{Context as _, Result};
use clap::Args;
use std::os::unix::process::CommandExt as _;

/// Options of `cargo xtask soak`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long it goes on
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    minutes: u32,
    /// Build for release: less is asked of the machine
    #[arg(long)]
    release: bool,
}

/// Builds and runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask soak`")?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the agent with its BPF programs, and the soak");
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]);
    if options.release {
        build.arg("--release");
    }
    shell::run(&mut build)?;
    let profile = if options.release { "release" } else { "debug" };
    let binary = shell::target_directory()?.join(profile).join("lb-soak");
    let mut soak = shell::command(&binary.to_string_lossy());
    soak.args(["--minutes", &options.minutes.to_string()]);
    // In our place, so that an interrupt reaches the soak, which cleans up.
    let error = soak.exec();
    Err(error).with_context(|| format!("can't start {}", binary.display()))
}
