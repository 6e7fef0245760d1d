//! Every check in order, cheapest first; the first that fails ends the run.

use crate::setup::{self, compiler};
use crate::stage::Stages;
use crate::{fuzz, package, shell};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Leave out fuzzing and the long tests
    #[arg(long)]
    quick: bool,
}

/// Everything but the BPF crate, which only builds for its own target.
const HOST: [&str; 3] = ["--workspace", "--exclude", "lb-ebpf"];

/// How long each fuzz target runs here.
const FUZZ_SECONDS: u32 = 20;

/// Runs the checks.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask test`")?;
    let mut stages = Stages::new();
    let result = all(options, &mut stages);
    stages.summary();
    result
}

fn all(options: &Options, stages: &mut Stages) -> Result<()> {
    stages.run("setup", || setup::run(setup::Purpose::Tests).map(|()| String::new()))?;
    stages.run("format", || plain(shell::cargo().args(["fmt", "--all", "--", "--check"])))?;
    stages.run("clippy, host", || {
        let mut clippy = shell::cargo();
        clippy.arg("clippy").args(HOST).args(["--all-targets", "--", "-D", "warnings"]);
        plain(&mut clippy)
    })?;
    stages.run("clippy, BPF", clippy_bpf)?;
    stages.run("documentation", || {
        let mut doc = shell::cargo();
        doc.arg("doc").args(HOST).args(["--no-deps", "--document-private-items"]);
        plain(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    stages.run("host tests", || {
        let mut test = shell::cargo();
        test.args(["test", "--no-fail-fast"]).args(HOST).args(["--exclude", "lb-tests"]);
        counted(&mut test)
    })?;
    stages.run("build", || {
        plain(shell::cargo().args(["build", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]))
    })?;
    stages.run("packages", || {
        package::run(&package::Options { debug: true }).map(|()| String::new())
    })?;
    stages.run("privileged tests", || {
        let mut test = shell::cargo();
        // One failure must not hide the next.
        test.args(["test", "-p", "lb-tests", "--no-fail-fast"]);
        // A test that can't run must fail here instead of being skipped.
        test.env("LB_REQUIRE_ROOT", "1");
        if options.quick {
            test.env("LB_QUICK", "1");
        }
        counted(&mut test)
    })?;
    if !options.quick {
        stages.run("fuzzing", || {
            fuzz::all(FUZZ_SECONDS).map(|count| format!("{count} targets, {FUZZ_SECONDS} s each"))
        })?;
    }
    Ok(())
}

fn plain(command: &mut Command) -> Result<String> {
    shell::run(command).map(|()| String::new())
}

fn clippy_bpf() -> Result<String> {
    let Some(compiler) = compiler::find() else {
        bail!("no compiler for BPF; `cargo xtask setup` installs one");
    };
    let mut clippy = match compiler.toolchain() {
        Some(toolchain) => shell::cargo_of(toolchain),
        None => shell::cargo(),
    };
    clippy.args(["clippy", "-p", "lb-ebpf", "--target", compiler::TARGET]);
    if compiler == compiler::Compiler::Nightly {
        clippy.args(["-Z", "build-std=core"]);
    }
    // The compiler's own target directory: sharing one would make both
    // compilers build everything anew, in turns.
    clippy.args(["--target-dir"]);
    clippy.arg(shell::target_directory()?.join("bpf-clippy")).args(["--", "-D", "warnings"]);
    // `aya_ebpf` alone uses unstable features. The architecture is that of the
    // kernel, which the BPF target does not know.
    let arch = std::env::consts::ARCH;
    clippy
        .env("RUSTC_BOOTSTRAP", "aya_ebpf,lb_bpf")
        .env("RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\""));
    plain(&mut clippy)
}

/// Runs tests, shows their output, and counts those that passed: a run in
/// which none did proves nothing.
fn counted(command: &mut Command) -> Result<String> {
    let line = shell::shown(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("can't start `{line}`"))?;
    let stdout = child.stdout.take().context("the tests have no output")?;
    let mut passed = 0;
    for text in BufReader::new(stdout).lines() {
        let text = text.context("read the tests' output")?;
        passed += passed_of(&text).unwrap_or(0);
        println!("{text}");
    }
    let status = child.wait().with_context(|| format!("wait for `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    if passed == 0 {
        bail!("`{line}` ran no test");
    }
    Ok(format!("{passed} tests"))
}

/// N of "test result: ok. N passed; ...".
fn passed_of(line: &str) -> Option<u32> {
    let (count, _) = line.strip_prefix("test result: ok. ")?.split_once(" passed")?;
    count.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::passed_of;

    #[test]
    fn passed_tests_are_counted_from_the_result_line() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(passed_of(line), Some(12));
        assert_eq!(passed_of("test a::b ... ok"), None);
    }
}
