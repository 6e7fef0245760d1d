//! Stages of a long run: a heading before, the time after, a table at the end.

use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};

/// The stages that ran so far.
pub(crate) struct Stages {
    begin: Instant,
    done: Vec<(&'static str, Duration, String)>,
}

impl Stages {
    pub(crate) fn new() -> Self {
        Self { begin: Instant::now(), done: Vec::new() }
    }

    /// Runs one stage. What it returns is its remark in the table.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        stage: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        println!("\n=== {name}");
        let begin = Instant::now();
        let result = stage().with_context(|| format!("stage {name}"));
        let remark = result.as_ref().map_or("FAILED", String::as_str).to_owned();
        self.done.push((name, begin.elapsed(), remark));
        result.map(drop)
    }

    /// Prints the table.
    pub(crate) fn summary(&self) {
        println!("\n=== summary");
        for (name, time, remark) in &self.done {
            println!("{name:<20} {:>7.1} s  {remark}", time.as_secs_f64());
        }
        println!("{:<20} {:>7.1} s", "all", self.begin.elapsed().as_secs_f64());
    }
}
