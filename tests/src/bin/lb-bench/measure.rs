//! Rounds of all ways one after the other, and their medians as multiples.

use crate::figures::median;
use anyhow::Result;
use lb_tests::count::{Counter, Counts};
use lb_tests::prog::Rig;
use lb_tests::prog::cost::{Driver, MISS, Under};
use lb_tests::prog::paths::{Path, Scene};
use std::fmt;

const ROUNDS: usize = 9;
const PACKETS: u32 = 200_000;
/// Of a way that makes rows: as many as are forgotten in no time.
const NEW_FLOWS: u32 = 8_000;

/// What was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
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
    fn is_missed(&self) -> bool {
        self.target.is_some_and(|target| self.lookups > target)
    }
}

impl Table {
    /// Measures all ways of a scene.
    pub(crate) fn add(&mut self, rig: &mut Rig, scene: Scene) -> Result<()> {
        let fresh = scene.install(rig);
        scene.establish(rig);
        let paths = scene.paths(fresh);
        let counter = Counter::new(rig)?;
        let drivers: Vec<Driver> = paths.iter().map(|path| driver(rig, path)).collect();
        let mut times = vec![Vec::new(); paths.len()];
        for _ in 0..ROUNDS {
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

    /// How many targets are missed.
    pub(crate) fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.is_missed()).count()
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
        writeln!(f, "{blank:<10} {blank:<24} {:>8} {:>9} {what}  target", "ns net", "look-ups")?;
        for row in &self.rows {
            let target = row.target.map_or_else(String::new, |target| {
                format!("at most {target}{}", if row.is_missed() { ": missed" } else { "" })
            });
            let counts = row.counts.map_or_else(String::new, |counts| counts.to_string());
            let line = format!(
                "{:<10} {:<24} {:>8.0} {:>9.2} {counts:width$}  {target}",
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
