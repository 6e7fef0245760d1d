//! Bounded fuzzing: builds every target of `fuzz/` with coverage feedback, and
//! runs each for a while.
//!
//! This is what `cargo fuzz` does without the address sanitizer, so that it
//! needs neither `cargo fuzz` nor a nightly compiler.

use crate::{setup, shell};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::path::{Path, PathBuf};

/// LLVM's edge coverage in the form that libFuzzer reads.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1";

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long each target runs
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Only this target
    target: Option<String>,
}

/// Runs the targets that were asked for.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::run(setup::Purpose::Tests)?;
    let targets = targets()?;
    let wanted = |name: &String| options.target.as_ref().is_none_or(|only| only == name);
    if !targets.iter().any(wanted) {
        bail!("no such fuzz target; there are: {}", targets.join(", "));
    }
    let wanted: Vec<&String> = targets.iter().filter(|name| wanted(name)).collect();
    fuzz(&wanted, options.seconds)
}

/// Runs every target for so many seconds; how many there are.
pub(crate) fn all(seconds: u32) -> Result<usize> {
    let targets = targets()?;
    fuzz(&targets.iter().collect::<Vec<_>>(), seconds)?;
    Ok(targets.len())
}

fn fuzz(targets: &[&String], seconds: u32) -> Result<()> {
    let mut build = shell::cargo();
    let host = host()?;
    // With a target named, the flags are for the targets alone: build scripts
    // would not link with them.
    build.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml", "--target", &host]);
    shell::run(build.env("RUSTFLAGS", RUSTFLAGS))?;
    for name in targets {
        println!("fuzz: {name} for {seconds} s");
        let found = directory().join("target/corpus").join(name);
        let crashes = directory().join("artifacts").join(name);
        for dir in [&found, &crashes] {
            std::fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        }
        let binary = directory().join("target").join(&host).join("release").join(name);
        let mut fuzz = shell::command(&binary.to_string_lossy());
        fuzz.arg(&found);
        let seeds = directory().join("corpus").join(name);
        if seeds.is_dir() {
            fuzz.arg(seeds);
        }
        fuzz.arg(format!("-artifact_prefix={}/", crashes.display()))
            .arg(format!("-max_total_time={seconds}"))
            .args(["-timeout=10", "-verbosity=0", "-print_final_stats=1"]);
        shell::run(&mut fuzz).with_context(|| {
            format!("fuzz target {name}; its input is in {}", crashes.display())
        })?;
    }
    Ok(())
}

/// The name of the platform that this is.
fn host() -> Result<String> {
    let mut rustc = shell::command("rustc");
    let name = shell::output(rustc.args(["--print", "host-tuple"]));
    Ok(name.context("ask rustc for the name of this platform")?.trim().to_owned())
}

/// The names of the targets: one file each.
fn targets() -> Result<Vec<String>> {
    let dir = directory().join("fuzz_targets");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry.with_context(|| format!("read {}", dir.display()))?.path();
        if path.extension().is_some_and(|ext| ext == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn directory() -> PathBuf {
    Path::new(shell::root()).join("fuzz")
}
