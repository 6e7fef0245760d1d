//! What a frame costs on each way, and how many of them a node forwards.

use super::way::{Kind, Stage, Way};
use crate::chart::{Bar, Chart};
use crate::figures::{median, median_with_error};
use crate::target::Target;
use serde_json::{Value, json};
use std::fmt;

/// At least so many times as many as with kube-proxy's nftables mode.
const TARGET: f64 = 4.0;

/// Nanoseconds of a frame, by kind and way, of each round.
#[derive(Debug)]
pub(crate) struct Table {
    ways: Vec<Way>,
    rows: Vec<(Kind, Way, Vec<f64>)>,
}

impl Table {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        let ways = Way::all();
        let of = |kind| ways.iter().map(move |way| (kind, *way, Vec::new()));
        let rows = Kind::ALL.into_iter().flat_map(of).collect();
        Self { ways, rows }
    }

    /// Adds what a round has shown.
    pub(crate) fn add(&mut self, kind: Kind, way: Way, nanoseconds: f64) {
        let row = self.rows.iter_mut().find(|row| (row.0, row.1) == (kind, way));
        if let Some((_, _, rounds)) = row {
            rounds.push(nanoseconds);
        }
    }

    fn rounds(&self, kind: Kind, way: Way) -> &[f64] {
        let row = self.rows.iter().find(|row| (row.0, row.1) == (kind, way));
        row.map_or(&[], |(_, _, rounds)| rounds)
    }

    /// Nanoseconds that the node takes: less what a frame costs without a node.
    fn node(&self, kind: Kind, way: Way) -> impl Iterator<Item = f64> {
        let without = self.rounds(kind, Way { stage: Stage::Nothing, again: false });
        self.rounds(kind, way).iter().zip(without).map(|(with, without)| with - without)
    }

    /// How many times as many frames as with kube-proxy's nftables mode one processor
    /// forwards that does nothing else, and twice the standard error of that.
    pub(crate) fn ratio(&self, kind: Kind, way: Way) -> (f64, f64) {
        let rules = self.node(kind, Way { stage: Stage::NFTABLES, again: false });
        median_with_error(rules.zip(self.node(kind, way)).map(|(rules, way)| rules / way))
    }

    /// The same with all that makes and takes the frames.
    fn gross_ratio(&self, kind: Kind, way: Way) -> (f64, f64) {
        let rules = self.rounds(kind, Way { stage: Stage::NFTABLES, again: false });
        median_with_error(rules.iter().zip(self.rounds(kind, way)).map(|(rules, way)| rules / way))
    }

    /// How many times as many as with kube-proxy's nftables mode.
    pub(crate) fn chart(&self) -> Chart {
        let bar = |kind: Kind, way: Way| {
            let (value, error) = self.ratio(kind, way);
            Bar { label: way.to_string(), series: way.stage.series(), value, error }
        };
        let ways = self.ways.iter().filter(|way| way.stage != Stage::Nothing && !way.again);
        let group = |kind: Kind| {
            (kind.name().to_owned(), ways.clone().map(|way| bar(kind, *way)).collect())
        };
        let title = "Packets from outside to a node port, through one processor: \
                     as multiples of kube-proxy's nftables mode; the line is the target";
        let groups = Kind::ALL.map(group).into();
        Chart { title: title.to_owned(), groups, mark: Some(TARGET) }
    }

    /// What is promised.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let target = |kind: Kind| {
            let native = Way { stage: Stage::NATIVE, again: false };
            let (measured, error) = self.ratio(kind, native);
            let name = format!("{}: {native}, of kube-proxy's nftables mode", kind.name());
            Target::at_least(TARGET, name, measured, error)
        };
        Kind::ALL.map(target).into()
    }

    /// All figures, for programs.
    pub(crate) fn json(&self) -> Value {
        let row = |(kind, way, rounds): &(Kind, Way, Vec<f64>)| {
            let [ratio, gross] = [self.ratio(*kind, *way), self.gross_ratio(*kind, *way)];
            json!({
                "flows": kind.name(),
                "way": way.to_string(),
                "nanoseconds": median(rounds.iter().copied()),
                "node_nanoseconds": median(self.node(*kind, *way)),
                "of_nftables": ratio.0,
                "of_nftables_error": ratio.1,
                "of_nftables_with_generator": gross.0,
                "of_nftables_with_generator_error": gross.1,
                "rounds": rounds,
            })
        };
        self.rows.iter().map(row).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for kind in Kind::ALL {
            writeln!(
                f,
                "\n{:<28} {:>22} | {:>37}\n{:<28} {:>7} {:>14} | {:>7} {:>14} {:>14}",
                kind.name(),
                "with the generator",
                "the node alone",
                "",
                "ns",
                "of nftables",
                "ns",
                "a second",
                "of nftables"
            )?;
            for way in &self.ways {
                let gross = median(self.rounds(kind, *way).iter().copied());
                let ratio = |(ratio, error)| format!("{ratio:.2}\u{b1}{error:.2}");
                write!(f, "  {way:<26} {gross:>7.0} ")?;
                if way.stage == Stage::Nothing {
                    writeln!(f, "{:>14} |", "")?;
                    continue;
                }
                let net = median(self.node(kind, *way));
                writeln!(
                    f,
                    "{:>14} | {net:>7.0} {:>14.0} {:>14}",
                    ratio(self.gross_ratio(kind, *way)),
                    1e9 / net,
                    ratio(self.ratio(kind, *way)),
                )?;
            }
        }
        Ok(())
    }
}
