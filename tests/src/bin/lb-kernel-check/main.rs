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

use anyhow::{Result, bail};
use std::process::ExitCode;

/// Where the report goes in a virtual machine.
const SERIAL: &str = "/dev/ttyS1";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = if std::process::id() == 1 {
        // A kernel hands down what its command line says, whatever else that is.
        let all_tables = arguments.iter().any(|argument| argument == ALL);
        let result = boot::prepare().and_then(|()| boot::run_checks(SERIAL, all_tables));
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        boot::power_off();
        result
    } else {
        read(&arguments).and_then(|(report, all_tables)| checks::run(report, all_tables))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Asks for all packet tables.
const ALL: &str = "all";

/// Where the report goes, and whether all packet tables are asked for. No report
/// has the name of an option: who types one wants to know what there is.
fn read(arguments: &[String]) -> Result<(&str, bool)> {
    match arguments {
        [report] if !report.starts_with('-') => Ok((report, false)),
        [report, all] if !report.starts_with('-') && all == ALL => Ok((report, true)),
        _ => bail!("usage: lb-kernel-check REPORT [{ALL}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_what_else_it_does_not_know_get_the_usage() {
        let read_words = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
            read(&words).map(|(report, all)| (report.to_owned(), all)).map_err(|e| e.to_string())
        };
        assert_eq!(read_words(&["report"]), Ok(("report".to_owned(), false)));
        assert_eq!(read_words(&["report", "all"]), Ok(("report".to_owned(), true)));
        for words in [&[][..], &["--help"], &["-h"], &["report", "--all"], &["report", "all", "x"]]
        {
            let usage = "usage: lb-kernel-check REPORT [all]".to_owned();
            assert_eq!(read_words(words), Err(usage), "{words:?}");
        }
    }
}
