//! The command `lb`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_userspace::cmd::{check, cleanup};

/// Balances the load of Kubernetes Services with eBPF.
#[derive(Debug, Parser)]
#[command(name = "lb", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell per object of a directory of manifests whether it is accepted, and why not
    ///
    /// Needs neither root nor BPF. The exit status is 1 if anything is refused.
    Check(check::CheckArgs),
    /// Remove everything that was loaded, attached or pinned
    Cleanup(cleanup::CleanupArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Check(args) => check::run(&args),
        Command::Cleanup(args) => cleanup::run(&args).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // With standard error closed there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "lb: {error:#}");
        ExitCode::FAILURE
    })
}
