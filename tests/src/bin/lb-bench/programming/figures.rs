//! What was found with one number of Services.

use super::milliseconds;
use crate::chart::{Bar, Chart, Series};
use crate::target::Target;
use anyhow::{Context as _, Result};
use lb_tests::scale::Size;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Megabytes, as people count memory.
#[expect(clippy::cast_precision_loss, reason = "a number for people")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Memory of a process in bytes.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Its own.
    pub(super) own: u64,
    /// With the maps that it sees, as the system counts it.
    pub(super) resident: u64,
    /// The most of that.
    pub(super) most: u64,
}

/// What was found.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) services: u32,
    pub(super) endpoints: u32,
    /// From the start of the agent to the first connection.
    pub(super) cold: Duration,
    /// Processor time for that.
    pub(super) cold_used: Duration,
    /// What the maps cost, in bytes.
    pub(super) maps: BTreeMap<String, u64>,
    pub(super) memory: Memory,
    /// How long `lb services` takes.
    pub(super) listing: Duration,
    changes: Vec<Change>,
}

/// One change, and what the agent did for it.
#[derive(Debug)]
pub(super) struct Change {
    /// Until it was in force.
    pub(super) took: Duration,
    /// Processor time.
    pub(super) used: Duration,
    /// System calls.
    pub(super) calls: u64,
    /// Rows of maps.
    pub(super) rows: u64,
    /// Bytes of maps.
    pub(super) bytes: u64,
}

impl Figures {
    /// The head of the table.
    pub(super) const HEAD: [&str; 2] = [
        "                     cold start     one endpoint more                            \
         |    agent     |  maps",
        "Services endpoints |     s  CPU s | p50 ms  p99 ms  CPU ms  calls  rows  bytes \
         |   MB at most |    MB",
    ];

    pub(super) fn new(size: Size, cold: Duration, cold_used: Duration) -> Self {
        let services = u32::from(size.services) + 1;
        Self {
            services,
            endpoints: services * u32::from(size.endpoints),
            cold,
            cold_used,
            maps: BTreeMap::new(),
            memory: Memory::default(),
            listing: Duration::ZERO,
            changes: Vec::new(),
        }
    }

    /// Adds a change.
    pub(super) fn add(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// In how many milliseconds such a share of the changes was in force.
    pub(super) fn change(&self, percent: usize) -> f64 {
        milliseconds(self.at(percent, |change| change.took))
    }

    /// What so many percent of the changes do not exceed.
    fn at<T: Ord + Default>(&self, percent: usize, figure: impl Fn(&Change) -> T) -> T {
        let mut sorted: Vec<T> = self.changes.iter().map(figure).collect();
        sorted.sort_unstable();
        let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
        sorted.into_iter().nth(place).unwrap_or_default()
    }

    /// What all maps cost, in bytes.
    pub(super) fn maps_bytes(&self) -> u64 {
        self.maps.values().sum()
    }

    /// Processor time of a change at the mean, in milliseconds: it is told in ticks of
    /// ten.
    fn change_used(&self) -> f64 {
        let changes = u32::try_from(self.changes.len()).unwrap_or(u32::MAX).max(1);
        let used: Duration = self.changes.iter().map(|change| change.used).sum();
        milliseconds(used / changes)
    }

    /// What is promised.
    pub(super) fn targets(&self) -> Vec<Target> {
        let name = |what: &str| {
            format!("{} Services, {} endpoints: {what}", self.services, self.endpoints)
        };
        let target = |what: &str, most, measured| Target::at_most(most, name(what), measured, 0.0);
        let cold = self.cold.as_secs_f64();
        let mut targets = match (self.services, self.endpoints) {
            (10_000, _) => vec![
                target("cold start, s", 1.0, cold),
                target("the agent's memory, at most, MB", 150.0, mb(self.memory.most)),
                target("maps, MB", 64.0, mb(self.maps_bytes())),
            ],
            (_, 250_000) => vec![target("cold start, s", 5.0, cold)],
            _ => Vec::new(),
        };
        targets.push(target("a change, p99, ms", 10.0, self.change(99)));
        targets
    }

    /// All figures, for programs.
    pub(super) fn json(&self) -> Value {
        let Memory { own, resident, most } = self.memory;
        let took = self.changes.iter().map(|change| milliseconds(change.took));
        json!({
            "services": self.services,
            "endpoints": self.endpoints,
            "cold_start": {
                "seconds": self.cold.as_secs_f64(),
                "processor_seconds": self.cold_used.as_secs_f64(),
            },
            "change": {
                "p50_milliseconds": self.change(50),
                "p99_milliseconds": self.change(99),
                "all_milliseconds": took.collect::<Vec<_>>(),
                "processor_milliseconds": self.change_used(),
                "system_calls": self.at(50, |change| change.calls),
                "rows": self.at(50, |change| change.rows),
                "bytes": self.at(50, |change| change.bytes),
            },
            "agent_bytes": { "own": own, "resident": resident, "most": most },
            "map_bytes": self.maps,
            "map_bytes_in_all": self.maps_bytes(),
            "lb_services_seconds": self.listing.as_secs_f64(),
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:>8} {:>9} | {:>5.2} {:>6.2} | {:>6.1} {:>7.1} {:>7.1} {:>6} {:>5} {:>6} | {:>4.0} {:>7.0} | {:>5.1}",
            self.services,
            self.endpoints,
            self.cold.as_secs_f64(),
            self.cold_used.as_secs_f64(),
            self.change(50),
            self.change(99),
            self.change_used(),
            self.at(50, |change| change.calls),
            self.at(50, |change| change.rows),
            self.at(50, |change| change.bytes),
            mb(self.memory.own),
            mb(self.memory.most),
            mb(self.maps_bytes()),
        )
    }
}

/// How long changes take.
pub(super) fn chart(all: &[Figures]) -> Chart {
    let group = |figures: &Figures| {
        let bar = |label: &str, percent| Bar {
            label: label.to_owned(),
            series: Series::Ours,
            value: figures.change(percent),
            error: 0.0,
        };
        let name = format!("{} Services, {} endpoints", figures.services, figures.endpoints);
        (name, vec![bar("half of all", 50), bar("99 of 100", 99)])
    };
    Chart {
        title: "A change in force, milliseconds; the line is the target".to_owned(),
        groups: all.iter().map(group).collect(),
        mark: Some(10.0),
    }
}

/// What a process has.
pub(super) fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map(|kib| kib * 1024).with_context(|| format!("{name} is not in {path}"))
    };
    Ok(Memory { own: field("RssAnon:")?, resident: field("VmRSS:")?, most: field("VmHWM:")? })
}
