//! `lb completions`: what a shell needs to complete commands and flags.

use crate::cli::{Cli, CompletionsArgs, print};
use clap::CommandFactory as _;
use clap_complete::generate;
use std::process::ExitCode;

/// Prints it.
pub fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(args.shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
