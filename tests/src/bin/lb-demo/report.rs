//! One line for each scenario: whether it held, and what was seen.

use anyhow::{Result, bail};
use lb_tests::interrupt;
use std::io::IsTerminal as _;
use std::time::Instant;

/// The scenarios so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    all: usize,
    held: usize,
}

impl Report {
    /// Runs a scenario, which tells what it saw. Fails only if the demo was
    /// interrupted; a scenario that did not hold is counted.
    pub(crate) fn scenario(
        &mut self,
        name: &str,
        scenario: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        if interrupt::seen() {
            bail!("interrupted");
        }
        let begin = Instant::now();
        let result = scenario();
        let time = begin.elapsed().as_secs_f64();
        if interrupt::seen() {
            bail!("interrupted");
        }
        self.all += 1;
        match result {
            Ok(seen) => {
                self.held += 1;
                println!("{}  {name:<44} {time:>5.2} s  {seen}", mark("ok    ", 32));
            }
            Err(error) => {
                println!("{}  {name:<44} {time:>5.2} s  {error:#}", mark("FAILED", 31));
            }
        }
        Ok(())
    }

    /// How many there were.
    pub(crate) fn all(&self) -> usize {
        self.all
    }

    /// How many of them held.
    pub(crate) fn held(&self) -> usize {
        self.held
    }
}

fn mark(text: &str, colour: u8) -> String {
    if std::io::stdout().is_terminal() {
        format!("\x1b[{colour}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
