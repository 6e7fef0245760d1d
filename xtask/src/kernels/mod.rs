//! The programs on other kernels: Debian's, each booted in a virtual machine
//! with what is needed of our own, and the one that runs here.
//!
//! `lb-kernel-check` of the tests' crate does the checks, on each of them; what
//! it reports becomes one table.

mod apt;
mod archive;
mod image;
mod machine;
mod matrix;
mod programs;
mod report;

use crate::setup::{self, Purpose};
use crate::shell;
use anyhow::{Context as _, Result, bail};
use clap::Args;
use report::Report;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Options of `cargo xtask test-kernels`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only this kernel, or `here` for the one that runs; may be repeated
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Look for newer packages of kernels that are here already
    #[arg(long)]
    update: bool,
    /// Seconds that a virtual machine may take
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    limit: u64,
    /// Run all packet tables, which takes many minutes on an emulated processor
    #[arg(long)]
    all: bool,
    /// Write what the verifier counts to the record that later runs are held to
    #[arg(long)]
    record: bool,
}

/// A kernel of Debian's.
struct Kernel {
    /// What `--kernel` and the table call it.
    name: &'static str,
    /// The suite that has it.
    suite: &'static str,
}

const KERNELS: [Kernel; 3] = [
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "6.12", suite: "trixie" },
    Kernel { name: "newest", suite: "sid" },
];

/// The kernel that runs here.
const HERE: &str = "here";

/// Runs the checks on every kernel, prints the table, fails if anything failed.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask test-kernels`")?;
    for name in &options.kernel {
        if name != HERE && KERNELS.iter().all(|kernel| kernel.name != name) {
            let names = KERNELS.map(|kernel| kernel.name).join(", ");
            bail!("no kernel {name}: there are {names} and {HERE}");
        }
    }
    let chosen = |name: &str| options.kernel.is_empty() || options.kernel.iter().any(|k| k == name);
    setup::run(Purpose::Kernels)?;
    let directory = shell::target_directory()?.join("kernels");
    let programs = programs::stage(&directory.join("lb"))?;
    let mut reports = Vec::new();
    if chosen(HERE) {
        reports.push(said(HERE, here(&programs, &directory, options.all)));
    }
    for kernel in KERNELS.iter().filter(|kernel| chosen(kernel.name)) {
        let limit = Duration::from_secs(options.limit);
        let place = directory.join(kernel.suite);
        let report = apt::kernel(kernel.suite, &place, options.update)
            .and_then(|files| image::write(&place.join("initramfs"), &files, &programs))
            .and_then(|image| machine::boot(&image, &place, limit, options.all))
            .with_context(|| format!("kernel {}", kernel.name));
        reports.push(said(kernel.name, report));
    }
    if options.record {
        matrix::record(&reports)?;
        reports.iter_mut().for_each(Report::forgive);
    }
    print!("\n{}", matrix::table(&reports));
    if !reports.iter().all(Report::good) {
        bail!("not every kernel passes; the logs are in {}", directory.display());
    }
    Ok(())
}

/// What can't be run is a report, too: the other kernels are still checked.
fn said(name: &str, report: Result<Report>) -> Report {
    report.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Report::none(name, &format!("{error:#}"))
    })
}

/// The checks on this machine.
fn here(programs: &programs::Programs, directory: &Path, all: bool) -> Result<Report> {
    println!("kernels: the one that runs here");
    let (path, log) = (directory.join("here.report"), directory.join("here.log"));
    let begin = Instant::now();
    std::fs::write(&path, "").with_context(|| format!("write {}", path.display()))?;
    let output = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let mut check = shell::command(&programs.check.to_string_lossy());
    check
        .arg(&path)
        .args(all.then_some("all"))
        .stdin(Stdio::null())
        .stderr(output.try_clone().context("share the log")?)
        .stdout(output);
    check.status().context("start the checks")?;
    Report::read(&path, begin.elapsed())
}

/// A kernel's image and its modules, each behind those that it needs.
pub(crate) struct Files {
    /// What the machine boots.
    kernel: PathBuf,
    /// The modules.
    modules: Vec<PathBuf>,
}
