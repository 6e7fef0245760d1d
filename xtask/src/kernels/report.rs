//! What `lb-kernel-check` found out about one kernel.

use anyhow::{Context as _, Result};
use std::path::Path;
use std::time::Duration;

/// A kernel's report.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// Its release, or what was asked for where no kernel ran.
    pub(super) kernel: String,
    pub(super) programs: Vec<Program>,
    pub(super) checks: Vec<Check>,
    /// Whether it came to its end; why not.
    pub(super) broken: Option<String>,
    pub(super) time: Duration,
}

/// What the kernel made of a program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) name: String,
    /// Instructions that the verifier went through.
    pub(super) count: Option<u64>,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
}

/// How a check ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) good: bool,
    pub(super) remark: String,
}

impl Report {
    /// Reads what a kernel wrote.
    pub(super) fn read(path: &Path, time: Duration) -> Result<Self> {
        let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mut report = Self::parse(&String::from_utf8_lossy(&text));
        report.time = time;
        Ok(report)
    }

    /// Of a kernel that did not run.
    pub(super) fn none(name: &str, why: &str) -> Self {
        Self { kernel: name.to_owned(), broken: Some(why.to_owned()), ..Self::default() }
    }

    /// Whether all is well.
    pub(super) fn good(&self) -> bool {
        self.broken.is_none()
            && !self.programs.is_empty()
            && self.programs.iter().all(|program| program.fault.is_none())
            && self.checks.iter().all(|check| check.good)
    }

    /// Takes what the verifier counts as it is.
    pub(super) fn forgive(&mut self) {
        let counted = self.programs.iter_mut().filter(|program| program.count.is_some());
        counted.for_each(|program| program.fault = None);
    }

    fn parse(text: &str) -> Self {
        let mut report = Self::none(
            "unknown",
            "its checks did not come to their end: its console shows how far",
        );
        for line in text.lines() {
            match line.trim_end().split('\t').collect::<Vec<_>>()[..] {
                ["kernel", release] => release.clone_into(&mut report.kernel),
                ["program", name, count, verdict] => report.programs.push(Program {
                    name: name.to_owned(),
                    count: count.parse().ok(),
                    fault: (verdict != "ok").then(|| verdict.to_owned()),
                }),
                ["check", name, result, remark] => report.checks.push(Check {
                    name: name.to_owned(),
                    good: result == "ok",
                    remark: remark.to_owned(),
                }),
                ["end"] => report.broken = None,
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn a_report_is_good_if_all_of_it_is_and_it_has_an_end() {
        let text =
            "kernel\t6.1.0\r\nprogram\tlb_xdp\t100\tok\r\ncheck\tpods\tok\t2 passed\r\nend\r\n";
        let report = Report::parse(text);
        assert_eq!(report.kernel, "6.1.0");
        assert_eq!(report.programs[0].count, Some(100));
        assert!(report.good());
        assert!(!Report::parse(text.trim_end().trim_end_matches("end")).good());
        assert!(!Report::parse(&text.replace("\tok\t2", "\tFAILED\t2")).good());
        assert!(!Report::parse(&text.replace("100\tok", "-\ttoo large")).good());
        assert!(!Report::parse("kernel\t6.1.0\nend\n").good(), "nothing was checked");
    }
}
