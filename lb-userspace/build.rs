//! Builds the BPF object of `lb-ebpf`; the agent embeds it.
//!
//! `cargo xtask setup` installs the compiler and the linker that this looks
//! for; where one is missing, the error is one sentence that says so.

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain, build_ebpf};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The toolchain that `cargo xtask setup` links where nightly's own `core`
/// cannot be had: a compiler that comes with `core` for BPF.
const LINKED: &str = "lb-bpf";

fn main() {
    if let Err(error) = build() {
        println!("cargo::error={error:#}");
        std::process::exit(1);
    }
}

fn build() -> Result<()> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?;
    let root = Path::new(&manifest).join("../lb-ebpf");
    println!("cargo:rerun-if-changed={manifest}/../lb-common/src");
    println!("cargo:rerun-if-changed={manifest}/../Cargo.toml");
    linker_on_path()?;
    let toolchain = toolchain()?;
    let root_dir = root.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", root.display()))?;
    build_ebpf([Package { name: "lb-ebpf", root_dir, ..Default::default() }], toolchain)
        .context("the BPF programs can't be built")
}

/// The compiler to use, in the order in which `cargo xtask setup` tries them.
fn toolchain() -> Result<Toolchain<'static>> {
    let Some(list) = output("rustup", &["toolchain", "list"]) else {
        // Without rustup there is one compiler only.
        let own = output("rustc", &["--print", "sysroot"]);
        if own.is_none_or(|sysroot| !has_core(&sysroot)) {
            return Err(no_compiler());
        }
        stable_compiler();
        return Ok(Toolchain::default());
    };
    let sysroot = |name: &str| {
        let known = list.lines().any(|line| line.starts_with(name));
        known.then(|| output("rustup", &["run", name, "rustc", "--print", "sysroot"])).flatten()
    };
    if sysroot(LINKED).is_some_and(|sysroot| has_core(&sysroot)) {
        stable_compiler();
        return Ok(Toolchain::Custom(LINKED));
    }
    let source = |sysroot: String| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if sysroot("nightly").is_some_and(|sysroot| source(sysroot).is_dir()) {
        return Ok(Toolchain::Nightly);
    }
    Err(no_compiler())
}

fn no_compiler() -> anyhow::Error {
    anyhow!("no compiler here has `core` for BPF: run `cargo xtask setup`, which installs one")
}

/// Whether a compiler comes with `core` for BPF.
fn has_core(sysroot: &str) -> bool {
    Path::new(sysroot.trim()).join("lib/rustlib/bpfel-unknown-none").is_dir()
}

/// Such a compiler is a stable one; `aya_ebpf` uses unstable features, and our
/// programs one: instructions that the language has no words for.
fn stable_compiler() {
    // SAFETY: the build script has started no thread.
    #[expect(clippy::disallowed_methods, reason = "a build script has one thread")]
    unsafe {
        std::env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf,lb_bpf");
    }
}

/// Makes sure that the compiler will find `bpf-linker`: cargo installs it into
/// its own directory, which need not be on PATH.
fn linker_on_path() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    dirs.extend(home.map(|home| home.join("bin")));
    if !dirs.iter().any(|dir| dir.join("bpf-linker").is_file()) {
        return Err(anyhow!("bpf-linker is not installed: run `cargo xtask setup`"));
    }
    let path = std::env::join_paths(dirs).context("PATH")?;
    // SAFETY: the build script has started no thread.
    #[expect(clippy::disallowed_methods, reason = "a build script has one thread")]
    unsafe {
        std::env::set_var("PATH", path);
    }
    Ok(())
}

/// What a program prints if it succeeds.
fn output(program: &str, args: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    // Cargo hands its own compiler down, which would win over the one asked for.
    command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    let output = command.args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
