//! `cargo xtask bench`: what a packet costs in each program, as a multiple of one
//! look-up in the flow table; and what real traffic costs, beside the rules that
//! kube-proxy makes. Each is measured side by side in one run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

mod figures;
mod measure;
mod traffic;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use lb_tests::count::budget;
use lb_tests::interrupt;
use lb_tests::prog::Rig;
use lb_tests::prog::paths::Scene;
use measure::Table;
use std::fs;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "lb-bench", bin_name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a packet costs in each program
    Packets {
        /// Only count, and write what is on record
        #[arg(long)]
        record: bool,
    },
    /// Real traffic, beside the rules that kube-proxy makes
    Traffic(traffic::Options),
    /// A server that the traffic goes to
    #[command(hide = true)]
    Serve {
        /// What it calls itself
        number: u8,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().what {
        What::Packets { record } => packets(record),
        What::Traffic(options) => {
            interrupt::install();
            traffic::run(&options)
        }
        What::Serve { number } => traffic::serve(number),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn packets(record: bool) -> Result<()> {
    let mut rig = Rig::take_vast().context("this loads BPF programs, so it needs root")?;
    if record {
        let text = budget::text(&budget::count(&mut rig)?);
        return fs::write(budget::FILE, text).with_context(|| format!("write {}", budget::FILE));
    }
    let mut table = Table::default();
    for scene in Scene::all() {
        table.add(&mut rig, scene)?;
    }
    print!("{table}");
    println!("\n{} of the targets missed", table.missed());
    Ok(())
}
