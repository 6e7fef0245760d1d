//! The whole report: where it was measured, all sizes, and the targets.

use super::size::Size;
use super::target::Target;
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt;
use std::time::Duration;

/// What a run has found.
#[derive(Debug)]
pub(crate) struct Report {
    kernel: String,
    processors: usize,
    /// Processes that wanted to run before it began, over a minute.
    load: String,
    pub(crate) sizes: Vec<Size>,
    pub(crate) took: Duration,
}

impl Report {
    /// Notes what the machine is.
    pub(crate) fn new() -> Result<Self> {
        let name = nix::sys::utsname::uname().context("ask the kernel for its version")?;
        let load = std::fs::read_to_string("/proc/loadavg").context("read the load")?;
        Ok(Self {
            kernel: name.release().to_string_lossy().into_owned(),
            processors: std::thread::available_parallelism().context("count processors")?.get(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            sizes: Vec::new(),
            took: Duration::ZERO,
        })
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets: Vec<Target> = self.sizes.iter().flat_map(Target::of).collect();
        if let [few, .., many] = self.sizes.as_slice() {
            targets.extend(Target::between(few, many));
        }
        targets
    }

    /// All figures, for programs.
    pub(crate) fn json(&self) -> Value {
        json!({
            "kernel": self.kernel,
            "processors": self.processors,
            "load_before": self.load,
            "seconds": self.took.as_secs_f64(),
            "sizes": self.sizes.iter().map(Size::json).collect::<Vec<_>>(),
            "targets": self.targets().iter().map(Target::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for target in self.targets() {
            writeln!(f, "{target}")?;
        }
        writeln!(
            f,
            "\nkernel {}, {} processors, load {} before it began; {:.0?}",
            self.kernel, self.processors, self.load, self.took
        )
    }
}
