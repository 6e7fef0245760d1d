//! What a packet costs in each program: rounds of all ways one after the other, and
//! their medians as multiples of one look-up in the flow table.

use crate::chart::{Bar, Chart, Series};
use crate::figures::median;
use crate::part::Outcome;
use crate::target::Target;
use anyhow::{Context as _, Result};
use lb_tests::count::{Counter, Counts, budget};
use lb_tests::interrupt;
use lb_tests::prog::Rig;
use lb_tests::prog::cost::{Driver, MISS, Under};
use lb_tests::prog::paths::{Path, Scene};
use serde_json::{Value, json};
use std::fmt;
use std::fs;
use std::path::Path as FilePath;
use std::sync::MutexGuard;

const ROUNDS: usize = 9;
const PACKETS: u32 = 200_000;
/// Of a way that makes rows: as many as are forgotten in no time.
const NEW_FLOWS: u32 = 8_000;

/// Where the counts are on record, below the top directory.
pub(crate) const FILE: &str = budget::FILE;

/// Counts, and writes what is on record.
pub(crate) fn record(file: &FilePath) -> Result<()> {
    let mut rig = rig()?;
    let text = budget::text(&budget::count(&mut rig)?);
    fs::write(file, text).with_context(|| format!("write {}", file.display()))
}

/// Measures all ways.
pub(crate) fn run(quick: bool) -> Result<Outcome> {
    let mut rig = rig()?;
    let mut table = Table::default();
    for scene in Scene::all() {
        interrupt::check()?;
        table.add(&mut rig, scene, if quick { 2 } else { ROUNDS })?;
    }
    print!("{table}");
    let targets = table.rows.iter().filter_map(Row::promise).collect();
    Ok(Outcome { figures: table.json(), targets, charts: vec![table.chart()] })
}

fn rig() -> Result<MutexGuard<'static, Rig>> {
    Rig::take_vast().context("this loads BPF programs, so it needs root")
}

/// What was measured.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    scene: String,
    name: &'static str,
    /// Nanoseconds without what a program costs that does nothing.
    net: f64,
    /// As a multiple of one look-up among as many flows.
    lookups: f64,
    target: Option<f64>,
    /// Of ways through a program of the object.
    counts: Option<Counts>,
}

impl Row {
    fn promise(&self) -> Option<Target> {
        let name = format!("{}, {}: look-ups", self.scene, self.name);
        self.target.map(|target| Target::at_most(target, name, self.lookups, 0.0))
    }

    /// All figures, for programs.
    fn json(&self) -> Value {
        json!({
            "scene": self.scene,
            "way": self.name,
            "nanoseconds": self.net,
            "lookups": self.lookups,
            "counts": self.counts.map(|counts| counts.to_string()),
        })
    }
}

impl Table {
    /// Measures all ways of a scene.
    fn add(&mut self, rig: &mut Rig, scene: Scene, rounds: usize) -> Result<()> {
        let fresh = scene.install(rig);
        scene.establish(rig);
        let paths = scene.paths(fresh);
        let counter = Counter::new(rig)?;
        let drivers: Vec<Driver> = paths.iter().map(|path| driver(rig, path)).collect();
        let mut times = vec![Vec::new(); paths.len()];
        for _ in 0..rounds {
            for ((path, driver), times) in paths.iter().zip(&drivers).zip(&mut times) {
                times.push(round(rig, path, driver));
            }
            // What began is forgotten, and what was there made again.
            rig.clear_flows();
            scene.establish(rig);
        }
        let medians: Vec<f64> = times.into_iter().map(median).collect();
        let of = |name: &str| {
            let place = paths.iter().position(|path| path.name == name);
            place.map_or(f64::NAN, |place| medians[place])
        };
        for (path, median) in paths.iter().zip(&medians) {
            let counts = match path.under {
                Under::Test => Some(counter.count(path.prog, path.by.index, &path.frame)?.counts),
                Under::Nothing | Under::Lookup { .. } => None,
            };
            let many = path.vary.is_some();
            let nothing = of(if many { "nothing, many flows" } else { "nothing" });
            let lookup = of(if many { "a look-up, many flows" } else { "a look-up" }) - nothing;
            let net = median - nothing;
            let (scene, name, target) = (scene.name(), path.name, path.target);
            self.rows.push(Row { scene, name, net, lookups: net / lookup, target, counts });
        }
        Ok(())
    }

    fn json(&self) -> Value {
        self.rows.iter().map(Row::json).collect()
    }

    /// The ways with a target.
    fn chart(&self) -> Chart {
        let mut groups: Vec<(String, Vec<Bar>)> = Vec::new();
        for row in self.rows.iter().filter(|row| row.target.is_some()) {
            let (label, value) = (row.name.to_owned(), row.net);
            let bar = Bar { label, series: Series::Ours, value, error: 0.0 };
            match groups.last_mut() {
                Some((scene, bars)) if *scene == row.scene => bars.push(bar),
                _ => groups.push((row.scene.clone(), vec![bar])),
            }
        }
        Chart { title: "Nanoseconds of a packet in a program".to_owned(), groups, mark: None }
    }
}

fn driver(rig: &Rig, path: &Path) -> Driver {
    rig.driver(path.prog, path.by.index, &path.frame, path.vary, path.under)
}

/// Nanoseconds of a packet; each must take the way that it should.
fn round(rig: &mut Rig, path: &Path, driver: &Driver) -> f64 {
    let packets = if path.begins.is_some() { NEW_FLOWS } else { PACKETS };
    let begun = |rig: &Rig| path.begins.map_or(0, |port| rig.service_traffic(port).connections);
    let hook = path.prog.hook();
    rig.take_verdicts(hook);
    let before = begun(rig);
    let (nanoseconds, action) = driver.run(packets);
    if let Under::Lookup { .. } = path.under {
        assert_ne!(action, MISS.unsigned_abs(), "{}: no row", path.name);
    }
    if let Some(verdict) = path.verdict {
        let counted = rig.take_verdicts(hook);
        let expected = [(verdict.name(), u64::from(packets))].into();
        assert_eq!(counted, expected, "{}", path.name);
    }
    if path.begins.is_some() {
        assert_eq!(begun(rig) - before, u64::from(packets), "{}", path.name);
    }
    f64::from(nanoseconds)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, blank) = (Counts::NAMES, "");
        writeln!(f, "{blank:<10} {blank:<24} {:>8} {:>9} {what}", "ns net", "look-ups")?;
        for row in &self.rows {
            let counts = row.counts.map_or_else(String::new, |counts| counts.to_string());
            let line = format!(
                "{:<10} {:<24} {:>8.0} {:>9.2} {counts:width$}",
                row.scene,
                row.name,
                row.net,
                row.lookups,
                width = what.len(),
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
