//! Datagrams from outside to a node port whose backends are on another node, through
//! one processor: by our programs, and by the rules that kube-proxy makes of the same
//! Services. All take turns of short turns, so that whatever else the machine does
//! meets all of them.

mod bed;
mod table;
mod way;

use crate::part::Outcome;
use anyhow::{Context as _, Result, ensure};
use bed::Bed;
use lb_tests::interrupt;
use table::Table;
use way::{Kind, Stage, Way};

/// Options of `lb-bench north-south`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many Services there are
    #[arg(long, value_name = "N", default_value_t = SERVICES,
        value_parser = clap::value_parser!(u32).range(1..=16_000))]
    services: u32,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = ROUNDS,
        value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

const SERVICES: u32 = 1_000;
const ROUNDS: u32 = 16;

impl Options {
    /// Those of a run of all parts.
    pub(crate) const fn of_all() -> Self {
        Self { services: SERVICES, rounds: ROUNDS }
    }
}

/// Measures all of it.
pub(crate) fn run(options: &Options, quick: bool) -> Result<Outcome> {
    ensure!(nix::unistd::geteuid().is_root(), "this makes network namespaces, so it needs root");
    let bed = |stage: Stage| {
        Bed::new(stage, options.services).with_context(|| Way { stage, again: false }.to_string())
    };
    let beds = Stage::ALL.map(bed).into_iter().collect::<Result<Vec<_>>>()?;
    let mut table = Table::new();
    let mut ways = Way::all();
    for _ in 0..if quick { 2 } else { options.rounds } {
        for kind in Kind::ALL {
            for way in &ways {
                interrupt::check()?;
                let bed = beds.iter().find(|bed| bed.stage() == way.stage).context("no node")?;
                let each = bed.measure(kind, if quick { 1_000 } else { kind.frames() });
                table.add(kind, *way, each.with_context(|| way.to_string())?);
            }
        }
        // What came first comes last in the next round.
        ways.reverse();
    }
    beds.into_iter().try_for_each(Bed::end)?;
    print!("{table}");
    Ok(Outcome { figures: table.json(), targets: table.targets(), charts: vec![table.chart()] })
}
