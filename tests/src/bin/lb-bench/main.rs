//! `cargo xtask bench`: what a packet costs in each program, as a multiple of one
//! look-up in the flow table; what packets from outside and real traffic cost, beside
//! the rules that kube-proxy makes; and how well policies keep what they promise. What
//! is compared is measured side by side in one run.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

mod balance;
mod chart;
mod figures;
mod north_south;
mod packets;
mod part;
mod programming;
mod report;
mod target;
mod traffic;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use lb_tests::interrupt;
use part::Part;
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where a run of all parts is on record, below the top directory.
const RECORD: [&str; 2] = ["docs/performance.json", "docs/performance.svg"];

/// Measures all parts, or one by its name
#[derive(Debug, Parser)]
#[command(name = "lb-bench", bin_name = "cargo xtask bench")]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Write all figures to a file
    #[arg(long, value_name = "FILE", global = true)]
    json: Option<PathBuf>,
    /// Draw the main figures into a file
    #[arg(long, value_name = "FILE", global = true)]
    svg: Option<PathBuf>,
    /// Put the run on record: docs/performance.json, docs/performance.svg
    #[arg(long, conflicts_with_all = ["json", "svg", "quick"])]
    record: bool,
    /// Short rounds: tells whether it works, not how fast
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// What a packet costs in each program
    Packets {
        /// Only count instructions, look-ups and calls, and put them on record
        #[arg(long)]
        record: bool,
    },
    /// Packets from outside to a node port, beside the rules that kube-proxy makes
    NorthSouth(north_south::Options),
    /// Real traffic, beside the rules that kube-proxy makes
    Traffic(traffic::Options),
    /// How fast Services come into force, few and very many
    Programming(programming::Options),
    /// What each policy promises, and what moves when a backend goes or comes
    Balance,
    /// A server that the traffic goes to
    #[command(hide = true)]
    Serve {
        /// What it calls itself
        number: u8,
    },
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<()> {
    let Args { what, json, svg, record, quick } = args;
    if record && what.is_some() {
        bail!("only a run of all parts is put on record");
    }
    let parts = match what {
        None => Part::all(quick),
        Some(What::Packets { record: true }) => return packets::record(&top().join(packets::FILE)),
        Some(What::Packets { record: false }) => {
            vec![Part::new("packets", move || packets::run(quick))]
        }
        Some(What::NorthSouth(options)) => {
            vec![Part::new("north-south", move || north_south::run(&options, quick))]
        }
        Some(What::Traffic(options)) => {
            vec![Part::new("traffic", move || traffic::run(&options, quick))]
        }
        Some(What::Programming(options)) => {
            vec![Part::new("programming", move || programming::run(&options, quick))]
        }
        Some(What::Balance) => vec![Part::new("balance", balance::run)],
        Some(What::Serve { number }) => return traffic::serve(number),
    };
    interrupt::install();
    let report = Report::of(parts)?;
    let recorded = RECORD.map(|file| record.then(|| top().join(file)));
    let [recorded_json, recorded_svg] = recorded;
    if let Some(file) = json.or(recorded_json) {
        report.write_json(&file)?;
    }
    if let Some(file) = svg.or(recorded_svg) {
        report.draw(&file)?;
    }
    Ok(())
}

/// The top directory of the repository that this was built of.
fn top() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}
