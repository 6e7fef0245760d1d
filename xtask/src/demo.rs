//! The demo: set-up, build, and then `lb-demo` of the tests' crate, which makes
//! a small cluster out of network namespaces and sends traffic through it.

use crate::{setup, shell};
use anyhow::{Context as _, Result, bail};
use clap::Args;

/// Options of `cargo xtask demo`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave the cluster standing, and print how to look around
    #[arg(long)]
    keep: bool,
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
    if options.keep {
        demo.arg("--keep");
    }
    let status = demo.status().with_context(|| format!("can't start {}", binary.display()))?;
    if !status.success() {
        bail!("the demo failed ({status})");
    }
    Ok(())
}
