//! Measurements: set-up, build, and then a binary of the tests' crate, which does
//! the rest.

use crate::{setup, shell};
use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a packet costs in each program, as multiples of a look-up (the default)
    Packets(Packets),
    /// Real traffic: without Services, through this, and through kube-proxy's rules
    Traffic(Traffic),
}

/// What `lb-bench packets` is told.
#[derive(Debug, Args, Default)]
struct Packets {
    /// Only count instructions, look-ups and calls, and put them on record
    #[arg(long)]
    record: bool,
}

/// What `lb-bench traffic` is told.
#[derive(Debug, Args)]
struct Traffic {
    /// How many Services there are, one size after the other
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    services: Vec<u32>,
    /// How often everything is measured
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Short rounds and few Services: tells whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Write all figures to a file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How well the policies keep what they promise.
pub(crate) fn balance() -> Result<()> {
    setup::require_root("`cargo xtask balance`")?;
    setup::run(setup::Purpose::Demo)?;
    println!("build: the BPF programs, and the measurement");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-tests", "--bin", "lb-balance"]))?;
    let binary = shell::target_directory()?.join("debug/lb-balance");
    shell::run(&mut shell::command(&binary.to_string_lossy()))
}

/// What a packet, or real traffic, costs.
pub(crate) fn bench(options: Bench) -> Result<()> {
    setup::require_root("`cargo xtask bench`")?;
    let what = options.what.unwrap_or(What::Packets(Packets::default()));
    setup::run(match what {
        What::Packets(_) => setup::Purpose::Demo,
        What::Traffic(_) => setup::Purpose::Bench,
    })?;
    println!("build: the agent with its BPF programs, and the measurement, for release");
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "--release", "-p", "lb-userspace", "--bin", "lb"]);
    shell::run(build.args(["-p", "lb-tests", "--bin", "lb-bench"]))?;
    let binary = shell::target_directory()?.join("release/lb-bench");
    let mut bench = shell::command(&binary.to_string_lossy());
    match what {
        What::Packets(Packets { record }) => {
            bench.arg("packets").args(record.then_some("--record"))
        }
        What::Traffic(traffic) => bench.arg("traffic").args(traffic.arguments()?),
    };
    // In our place, so that an interrupt reaches the measurement, which cleans up.
    let error = bench.exec();
    Err(error).with_context(|| format!("can't start {}", binary.display()))
}

impl Traffic {
    fn arguments(self) -> Result<Vec<OsString>> {
        let Self { services, rounds, quick, json } = self;
        let mut arguments: Vec<OsString> = Vec::new();
        if !services.is_empty() {
            let sizes: Vec<String> = services.iter().map(u32::to_string).collect();
            arguments.extend(["--services".into(), sizes.join(",").into()]);
        }
        if let Some(rounds) = rounds {
            arguments.extend(["--rounds".into(), rounds.to_string().into()]);
        }
        if quick {
            arguments.push("--quick".into());
        }
        if let Some(file) = json {
            // It runs at the top of the repository.
            let file = std::path::absolute(&file).context("where the figures go")?;
            arguments.extend(["--json".into(), file.into()]);
        }
        Ok(arguments)
    }
}
