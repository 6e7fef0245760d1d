//! What must not grow: memory of an agent's process, and what its maps hold.

use crate::agents::{Seat, open};
use anyhow::Result;
use lb_common::names;
use lb_userspace::dataplane::maps::{costs, fill};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows by map.
pub(crate) type Rows = BTreeMap<&'static str, u32>;

/// Memory of its own that a process has, in KiB.
fn of_process(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

/// Memory of all maps of a node, in KiB, as the kernel accounts it.
fn of_maps(pin_dir: &Path) -> Result<u64> {
    Ok(costs(pin_dir)?.iter().map(|(_, bytes)| bytes).sum::<u64>() / 1024)
}

/// Rows of the maps in which only what is desired has rows; and of the flow
/// tables. Slots are not among the former: the tables of hash policies stay as
/// long as they once were.
pub(crate) fn rows(pin_dir: &Path) -> Result<(Rows, u64)> {
    const DESIRED: [&str; 8] = [
        names::MAP_FRONTENDS_V4,
        names::MAP_FRONTENDS_V6,
        names::MAP_SERVICES,
        names::MAP_BACKENDS,
        names::MAP_INTERFACES,
        names::MAP_NAMES,
        names::MAP_PREFIXES_V4,
        names::MAP_PREFIXES_V6,
    ];
    let mut desired = Rows::new();
    let mut flows = 0;
    for map in fill(pin_dir, &open(pin_dir)?)? {
        let used = map.used.unwrap_or(0);
        if DESIRED.contains(&map.map) {
            desired.insert(map.map, used);
        } else if [names::MAP_FLOWS_V4, names::MAP_FLOWS_V6].contains(&map.map) {
            flows += u64::from(used);
        }
    }
    Ok((desired, flows))
}

/// Which maps have other numbers of rows, and where.
pub(crate) fn difference(before: &[Rows], after: &[Rows]) -> String {
    let mut lines = Vec::new();
    for (node, (before, after)) in before.iter().zip(after).enumerate() {
        for (map, rows) in before.iter().filter(|(map, rows)| after.get(*map) != Some(rows)) {
            let now = after.get(map).copied().unwrap_or(0);
            lines.push(format!("{map} on n{} had {rows} rows and has {now}", node + 1));
        }
    }
    lines.join("; ")
}

/// A number over time.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Series {
    pub(crate) first: Option<u64>,
    pub(crate) last: u64,
    pub(crate) most: u64,
}

impl Series {
    /// One more sample.
    pub(crate) fn add(&mut self, value: u64) {
        self.first.get_or_insert(value);
        self.last = value;
        self.most = self.most.max(value);
    }

    /// Whether the last is more than the first, beyond a tenth and so much.
    pub(crate) fn grew(&self, margin: u64) -> bool {
        self.first.is_some_and(|first| self.last > first + first / 10 + margin)
    }
}

/// Samples of all nodes.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    /// The agent that is never disturbed.
    pub(crate) steady: Series,
    /// The others, whichever process they are at a time.
    pub(crate) others: Series,
    pub(crate) maps: Series,
    pub(crate) flows: Series,
}

impl Samples {
    /// Looks at everything once; the last seat is that of the agent that is
    /// never disturbed.
    pub(crate) fn take(&mut self, seats: &[Seat]) -> Result<()> {
        let own = |seat: &Seat| seat.pid().and_then(of_process);
        if let Some((steady, others)) = seats.split_last() {
            if let Some(kib) = own(steady) {
                self.steady.add(kib);
            }
            for kib in others.iter().filter_map(own) {
                self.others.add(kib);
            }
        }
        let (mut maps, mut flows) = (0, 0);
        for seat in seats {
            maps += of_maps(&seat.pin_dir)?;
            flows += rows(&seat.pin_dir)?.1;
        }
        self.maps.add(maps);
        self.flows.add(flows);
        Ok(())
    }
}
