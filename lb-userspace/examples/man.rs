//! Writes the manual pages of `lb` and its subcommands into a directory:
//! `cargo run -p lb-userspace --example man -- DIR`. `cargo xtask package` does.

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use lb_userspace::cli::Cli;
use std::path::PathBuf;

fn main() -> Result<()> {
    let directory = std::env::args_os().nth(1).context("name a directory for the pages")?;
    let directory = PathBuf::from(directory);
    std::fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
    clap_mangen::generate_to(Cli::command(), &directory)
        .with_context(|| format!("write to {}", directory.display()))
}
