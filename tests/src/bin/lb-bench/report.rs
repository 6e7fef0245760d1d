//! Runs parts one after the other, and writes down what they have found.

use crate::chart::{self, Chart};
use crate::part::{Outcome, Part};
use crate::target::Target;
use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use std::time::Instant;

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    machine: Value,
    seconds: f64,
    parts: Map<String, Value>,
    targets: Vec<Target>,
    charts: Vec<Chart>,
}

impl Report {
    /// Runs the parts.
    pub(crate) fn of(parts: Vec<Part>) -> Result<Self> {
        let begin = Instant::now();
        let (machine, mut figures) = (machine()?, Map::new());
        let (mut all_targets, mut all_charts) = (Vec::new(), Vec::new());
        for Part { name, run } in parts {
            let begin = Instant::now();
            println!("\n{name}");
            let Outcome { figures: found, targets, charts } =
                run().with_context(|| name.to_owned())?;
            if !targets.is_empty() {
                println!();
            }
            for target in &targets {
                println!("{target}");
            }
            let took = begin.elapsed().as_secs_f64();
            println!("{name} took {took:.0} seconds");
            let targets_found: Vec<Value> = targets.iter().map(Target::json).collect();
            let part = json!({ "seconds": took, "targets": targets_found, "figures": found });
            figures.insert(name.to_owned(), part);
            all_targets.extend(targets);
            all_charts.extend(charts);
        }
        let seconds = begin.elapsed().as_secs_f64();
        let missed = all_targets.iter().filter(|target| !target.is_met()).count();
        println!(
            "\n{missed} of {} targets missed; {machine}; {seconds:.0} seconds",
            all_targets.len()
        );
        Ok(Self { machine, seconds, parts: figures, targets: all_targets, charts: all_charts })
    }

    /// Writes all figures to a file.
    pub(crate) fn write_json(&self, file: &Path) -> Result<()> {
        let missed = self.targets.iter().filter(|target| !target.is_met());
        let all = json!({
            "machine": self.machine,
            "seconds": self.seconds,
            "targets_missed": missed.count(),
            "parts": self.parts,
        });
        let text = serde_json::to_string_pretty(&all)? + "\n";
        fs::write(file, text).with_context(|| format!("write {}", file.display()))
    }

    /// Draws what there is to see.
    pub(crate) fn draw(&self, file: &Path) -> Result<()> {
        chart::draw(file, &self.charts).with_context(|| format!("draw {}", file.display()))
    }
}

/// Where it is measured.
fn machine() -> Result<Value> {
    let name = nix::sys::utsname::uname().context("ask the kernel for its version")?;
    let load = fs::read_to_string("/proc/loadavg").context("read the load")?;
    let processors = std::thread::available_parallelism().context("count processors")?;
    Ok(json!({
        "kernel": name.release().to_string_lossy(),
        "processors": processors.get(),
        "load_before": load.split(' ').next().unwrap_or_default(),
    }))
}
