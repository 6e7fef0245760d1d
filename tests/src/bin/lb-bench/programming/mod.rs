//! How fast the agent brings Services into force, with few and with very many: all of
//! them at the start, and then one change after the other, from the file that is in
//! its place to the first connection that meets it.

mod calls;
mod figures;

use crate::part::Outcome;
use anyhow::{Context as _, Result, ensure};
use calls::Calls;
use figures::{Change, Figures};
use lb_tests::interrupt;
use lb_tests::scale::{APART, Field, Shape, Size};
use lb_userspace::dataplane::maps::costs;
use std::thread;
use std::time::{Duration, Instant};

/// Services and endpoints of each, in the order in which they are measured. One
/// Service more is the one that changes.
const SIZES: [Size; 4] = [
    Size { services: 999, endpoints: 2, rich: false },
    Size { services: 9_999, endpoints: 2, rich: false },
    Size { services: 29_999, endpoints: 2, rich: false },
    Size { services: 4_999, endpoints: 50, rich: false },
];

/// Options of `lb-bench programming`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// In which form the manifests are kept
    #[arg(long, value_name = "SHAPE", value_enum, default_value = "beside")]
    shape: Shape,
    /// How many changes are measured with each number of Services
    #[arg(long, value_name = "N", default_value_t = CHANGES,
        value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
}

/// Changes with each number of Services.
const CHANGES: u32 = 100;

impl Options {
    /// Those of a run of all parts.
    pub(crate) const fn of_all() -> Self {
        Self { shape: Shape::Beside, changes: CHANGES }
    }
}

/// Measures all of it, and prints it.
pub(crate) fn run(options: &Options, quick: bool) -> Result<Outcome> {
    ensure!(nix::unistd::geteuid().is_root(), "this makes network namespaces, so it needs root");
    let sizes = if quick { &SIZES[..1] } else { &SIZES[..] };
    let changes = if quick { 5 } else { options.changes };
    println!("{}", Figures::HEAD.join("\n"));
    let mut all = Vec::new();
    for size in sizes {
        let figures = measure(*size, options.shape, changes)
            .with_context(|| format!("{} Services", size.services + 1))?;
        print!("{figures}");
        all.push(figures);
    }
    let targets = all.iter().flat_map(Figures::targets).collect();
    let figures = all.iter().map(Figures::json).collect();
    Ok(Outcome { figures, targets, charts: vec![figures::chart(&all)] })
}

fn measure(size: Size, shape: Shape, changes: u32) -> Result<Figures> {
    let (field, cold) = Field::start(size, shape)?;
    let mut figures = Figures::new(size, cold, field.processor_time()?);
    let maps = costs(field.agent.pin_dir())?;
    figures.maps = maps.into_iter().map(|(map, bytes)| (map.to_owned(), bytes)).collect();
    let calls = Calls::of(field.pid()?)?;
    for _ in 0..changes {
        interrupt::check()?;
        thread::sleep(APART);
        let (used, called) = (field.processor_time()?, calls.count()?);
        let took = field.change(true)?;
        let used = field.processor_time()?.saturating_sub(used);
        let calls = calls.count()?.saturating_sub(called);
        let [services, rows, bytes] = field.last_sync()?;
        ensure!(services == 1, "an endpoint changed {services} Service ports");
        figures.add(Change { took, used, calls, rows, bytes });
        thread::sleep(APART);
        field.change(false)?;
    }
    let begin = Instant::now();
    field.agent.text("services")?;
    figures.listing = begin.elapsed();
    figures.memory = figures::memory(field.pid()?)?;
    Ok(figures)
}

/// A duration in milliseconds.
fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
