//! Set-up, demo and tests: `cargo xtask help`.
//!
//! One module for each command. Each prints what it does and why, and fails
//! with a sentence that says what to do.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool talks to its user"
)]

mod debian;
mod demo;
mod fuzz;
mod image;
mod kernels;
mod measure;
mod package;
mod setup;
mod shell;
mod soak;
mod stage;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Set-up, demo and tests of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Find out what building, tests and demo need, and install what is missing
    Setup,
    /// Make a small cluster out of network namespaces, and send traffic through it
    Demo(demo::Options),
    /// Measure what packets and traffic cost, beside kube-proxy's rules, and policies
    Bench(measure::Options),
    /// Kill, replace and stop agents under load for a while, and judge every answer
    Soak(soak::Options),
    /// Run every check: format, lints, documentation, tests with and without root, fuzzing
    Test(test::Options),
    /// Build the Debian package, manual pages, completions and the chart's archive, and check them
    Package(package::Options),
    /// Build what the container image consists of: a static program, and the licences
    Image,
    /// Load and run the programs on Debian's kernels too, in virtual machines
    TestKernels(kernels::Options),
    /// Run the fuzz targets for a while
    Fuzz(fuzz::Options),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Setup => setup::run(setup::Purpose::Tests),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => measure::run(&options),
        Command::Soak(options) => soak::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Package(options) => package::run(&options),
        Command::Image => image::run(),
        Command::TestKernels(options) => kernels::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
