//! What a kernel makes of the programs, as `cargo xtask test-kernels` asks it:
//! `lb-kernel-check REPORT [all]` on this machine, or as the first process of a
//! virtual machine; `all` is all packet tables.
//!
//! What is found out goes to the report, one line each, its words separated by
//! tabs: `kernel RELEASE`, `program NAME COUNT VERDICT`,
//! `check NAME ok|FAILED REMARK`, and `end`. Standard output gets the rest.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is the log of a check")]

mod boot;
mod checks;

use anyhow::{Context as _, Result};
use std::process::ExitCode;

/// Where the report goes in a virtual machine.
const SERIAL: &str = "/dev/ttyS1";

fn main() -> ExitCode {
    let result = if std::process::id() == 1 {
        let result = boot::prepare().and_then(|()| boot::run_checks(SERIAL, all_tables()));
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        boot::power_off();
        result
    } else {
        check()
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all packet tables are asked for; a kernel hands down what its command
/// line says.
fn all_tables() -> bool {
    std::env::args().skip(1).any(|argument| argument == "all")
}

fn check() -> Result<()> {
    let path = std::env::args().nth(1).context("usage: lb-kernel-check REPORT [all]")?;
    checks::run(&path, all_tables())
}
