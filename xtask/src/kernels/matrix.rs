//! Reports of several kernels as one table, and as the record of what the
//! verifier counts.

use super::report::Report;
use crate::shell;
use anyhow::{Context as _, Result};
use std::fmt::Write as _;

/// The record, which the tests read.
const RECORD: &str = "tests/data/verifier-budget.txt";

/// What it begins with.
const HEAD: &str = "\
# How many instructions the verifier goes through, by program and kernel series.
# `cargo xtask test-kernels --record` writes this file.
";

/// A column for each kernel, a line for each program and check; below it, what
/// is wrong.
pub(super) fn table(reports: &[Report]) -> String {
    let mut rows = vec![row("", reports, |report| Some(report.kernel.clone()))];
    for name in names(reports, |report| report.programs.iter().map(|p| p.name.as_str()).collect()) {
        rows.push(row(name, reports, |report| {
            let program = report.programs.iter().find(|program| program.name == name)?;
            let count = program.count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            Some(if program.fault.is_none() { count } else { format!("{count} FAILED") })
        }));
    }
    for name in names(reports, |report| report.checks.iter().map(|c| c.name.as_str()).collect()) {
        rows.push(row(name, reports, |report| {
            let check = report.checks.iter().find(|check| check.name == name)?;
            Some(if check.good { check.remark.clone() } else { "FAILED".to_owned() })
        }));
    }
    rows.push(row("time", reports, |report| Some(format!("{} s", report.time.as_secs()))));
    let mut text = aligned(&rows);
    for report in reports {
        for fault in faults(report) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n{}: {fault}", report.kernel);
        }
    }
    text
}

fn faults(report: &Report) -> Vec<String> {
    let programs = report.programs.iter().filter_map(|program| {
        program.fault.as_ref().map(|fault| format!("{}: {fault}", program.name))
    });
    let checks = report.checks.iter().filter(|check| !check.good);
    let checks = checks.map(|check| format!("{}: {}", check.name, check.remark));
    programs.chain(checks).chain(report.broken.clone()).collect()
}

/// Names in the order in which they first come.
fn names<'a>(reports: &'a [Report], of: impl Fn(&'a Report) -> Vec<&'a str>) -> Vec<&'a str> {
    let mut names = Vec::new();
    for name in reports.iter().flat_map(of) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn row(name: &str, reports: &[Report], cell: impl Fn(&Report) -> Option<String>) -> Vec<String> {
    let cells = reports.iter().map(|report| cell(report).unwrap_or_else(|| "-".to_owned()));
    std::iter::once(name.to_owned()).chain(cells).collect()
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Writes the counts of these kernels in place of their series' in the record;
/// what it has of others stays.
pub(super) fn record(reports: &[Report]) -> Result<()> {
    let path = shell::root().join(RECORD);
    let old = std::fs::read_to_string(&path).with_context(|| format!("read {RECORD}"))?;
    std::fs::write(&path, recorded(&old, reports)).with_context(|| format!("write {RECORD}"))?;
    println!("kernels: {RECORD} is written");
    Ok(())
}

fn recorded(old: &str, reports: &[Report]) -> String {
    let table: Vec<Vec<&str>> = old
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    let old_series = table.first().map_or(&[][..], |line| line.get(1..).unwrap_or_default());
    let fresh: Vec<(String, &Report)> = reports
        .iter()
        .filter(|report| report.programs.iter().any(|program| program.count.is_some()))
        .map(|report| (series(&report.kernel), report))
        .collect();
    let mut all: Vec<String> = old_series
        .iter()
        .map(|s| (*s).to_owned())
        .chain(fresh.iter().map(|(s, _)| s.clone()))
        .collect();
    all.sort_by_key(|series| {
        series.split('.').map(|part| part.parse().unwrap_or(0)).collect::<Vec<u32>>()
    });
    all.dedup();
    let mut rows = vec![std::iter::once("program".to_owned()).chain(all.clone()).collect()];
    for name in names(reports, |report| report.programs.iter().map(|p| p.name.as_str()).collect()) {
        let old_row = table.iter().find(|row| row.first() == Some(&name));
        let mut row = vec![name.to_owned()];
        for series in &all {
            let new = fresh.iter().find(|(known, _)| known == series).and_then(|(_, report)| {
                report.programs.iter().find(|program| program.name == name)?.count
            });
            let kept = || {
                let column = old_series.iter().position(|known| known == series)?;
                old_row.and_then(|row| row.get(column + 1)).map(|count| (*count).to_owned())
            };
            row.push(
                new.map(|count| count.to_string()).or_else(kept).unwrap_or_else(|| "-".to_owned()),
            );
        }
        rows.push(row);
    }
    HEAD.to_owned() + &aligned(&rows)
}

/// `6.1` of `6.1.0-56-cloud-amd64`.
fn series(release: &str) -> String {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    format!("{}.{}", numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::report::{Check, Program, Report};
    use super::{HEAD, recorded, table};

    fn report(kernel: &str, count: u64, fault: Option<&str>) -> Report {
        let fault = fault.map(str::to_owned);
        Report {
            kernel: kernel.to_owned(),
            programs: vec![Program { name: "lb_xdp".to_owned(), count: Some(count), fault }],
            checks: vec![Check { name: "pods".to_owned(), good: false, remark: "lost".to_owned() }],
            ..Report::default()
        }
    }

    #[test]
    fn a_table_has_a_column_a_kernel_and_says_what_failed() {
        let reports = [report("6.1.0", 100, None), report("6.12.3", 7, Some("too large"))];
        let expected = "        6.1.0   6.12.3
lb_xdp  100     7 FAILED
pods    FAILED  FAILED
time    0 s     0 s

6.1.0: pods: lost

6.12.3: lb_xdp: too large

6.12.3: pods: lost
";
        assert_eq!(table(&reports), expected);
    }

    #[test]
    fn a_record_keeps_the_kernels_that_were_not_asked() {
        let first = recorded("", &[report("6.12.3", 7, None), report("6.1.0", 100, None)]);
        assert_eq!(first, format!("{HEAD}program  6.1  6.12\nlb_xdp   100  7\n"));
        let second = recorded(&first, &[report("6.1.9", 90, None)]);
        assert_eq!(second, format!("{HEAD}program  6.1  6.12\nlb_xdp   90   7\n"));
    }
}
