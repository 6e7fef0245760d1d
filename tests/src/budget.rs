//! How many instructions the kernel's verifier goes through for each program,
//! against what is on record: it gives up at a million, and what it costs grows
//! by surprise. `cargo xtask test-kernels --record` writes the record.

use lb_common::names;
use lb_userspace::dataplane::{DataplaneError, Delivery, HookOptions, MapSizes, Probe, probe};
use std::collections::BTreeMap;

/// The record: a line of kernel series, then a line for each program.
const RECORD: &str = include_str!("../data/verifier-budget.txt");

/// How much more than its record a program may take, in percent: another
/// compiler, another patch level of the kernel.
const MARGIN: u64 = 20;

/// Counts by program and kernel series.
#[derive(Debug, Default, PartialEq, Eq)]
struct Record<'a>(BTreeMap<&'a str, BTreeMap<&'a str, u64>>);

/// The TC program for packets that enter, as `--skip-stack` makes it: it has ways that
/// are not there by default.
const SKIPPING: &str = "lb_ingress:skip";

/// Loads every program as the agent does by default, and the one for packets that enter
/// with `--skip-stack` besides.
pub fn load() -> Result<Vec<Probe>, DataplaneError> {
    // What the verifier does is the same for maps of every size.
    let sizes = MapSizes {
        services: 64,
        backends: 64,
        slots: 256,
        frontends: 64,
        flows_v4: 256,
        flows_v6: 256,
        interfaces: 64,
        affinity: 64,
        prefixes: 64,
    };
    let mut options = HookOptions { sizes, ..HookOptions::new("/sys/fs/bpf/lb-budget") };
    let mut probes = probe(&options, |_| true)?;
    options.behaviour.delivery = Delivery::PastStack;
    let skipping = probe(&options, |program| program == names::PROG_INGRESS)?;
    probes.extend(skipping.into_iter().map(|found| Probe { program: SKIPPING, ..found }));
    Ok(probes)
}

/// Why this count is too high on a kernel of this release, if it is.
pub fn excess(release: &str, program: &str, count: u32) -> Option<String> {
    Record::parse(RECORD).excess(release, program, u64::from(count))
}

impl<'a> Record<'a> {
    fn parse(text: &'a str) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let series: Vec<&str> =
            lines.next().unwrap_or_default().split_whitespace().skip(1).collect();
        let mut record = BTreeMap::new();
        for line in lines {
            let mut words = line.split_whitespace();
            let Some(program) = words.next() else { continue };
            let counts = words.map(|word| word.parse().ok());
            let row =
                series.iter().zip(counts).filter_map(|(series, count)| Some((*series, count?)));
            record.insert(program, row.collect());
        }
        Self(record)
    }

    /// A series that is not on record is held to the most that any other needs.
    fn excess(&self, release: &str, program: &str, count: u64) -> Option<String> {
        let row = self.0.get(program);
        let known = row.and_then(|row| row.get(series(release)).or_else(|| row.values().max()));
        let Some(recorded) = known else {
            return Some(format!(
                "{program} is not on record: `cargo xtask test-kernels --record`"
            ));
        };
        let limit = recorded * (100 + MARGIN) / 100;
        (count > limit).then(|| format!("more than {recorded} on record and {MARGIN} %"))
    }
}

/// `6.1` of `6.1.0-56-cloud-amd64`.
fn series(release: &str) -> &str {
    let end = release.match_indices(|c: char| !c.is_ascii_digit()).nth(1);
    end.map_or(release, |(end, _)| &release[..end])
}

#[cfg(test)]
mod tests {
    use super::{RECORD, Record, SKIPPING, series};
    use lb_common::names;

    #[test]
    fn a_release_belongs_to_a_series() {
        assert_eq!(series("6.1.0-56-cloud-amd64"), "6.1");
        assert_eq!(series("6.12.107+deb13-cloud-amd64"), "6.12");
        assert_eq!(series("7.2"), "7.2");
    }

    #[test]
    fn more_than_the_record_and_the_margin_is_told() {
        let record = Record::parse("# words\nprogram 6.1 6.12\nlb_xdp 1000 2000\nlb_new - 10\n");
        assert_eq!(record.excess("6.1.0", "lb_xdp", 1200), None);
        assert!(record.excess("6.1.0", "lb_xdp", 1201).is_some());
        assert_eq!(record.excess("6.12.3", "lb_xdp", 2400), None);
        // On no record: the most of the others.
        assert_eq!(record.excess("6.18.1", "lb_xdp", 2400), None);
        assert!(record.excess("6.18.1", "lb_xdp", 2401).is_some());
        assert_eq!(record.excess("6.1.0", "lb_new", 12), None);
        assert!(record.excess("6.1.0", "lb_other", 1).is_some());
    }

    #[test]
    fn the_record_has_every_program() {
        let record = Record::parse(RECORD);
        assert_eq!(record.0.len(), 5 + names::PROGS_SOCKET.len() + [SKIPPING].len());
    }
}
