//! `bpf-linker`, which turns LLVM bitcode into one BPF object. It is built
//! against LLVM of the compiler's version: an older one can't read the bitcode.

use super::compiler::Compiler;
use super::packages;
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

/// The version that the project is tested with.
const VERSION: &str = "0.13.0";

/// LLVM versions that this bpf-linker can be built against.
const SUPPORTED: std::ops::RangeInclusive<u32> = 21..=23;

/// Finds the linker, or builds it.
pub(super) fn ensure(compiler: Compiler) -> Result<()> {
    if works() {
        return Ok(());
    }
    println!("setup: bpf-linker is missing; it links the BPF programs");
    if shell::which("cargo-binstall").is_some() {
        println!("setup: cargo binstall bpf-linker {VERSION}, which is ready made");
        let mut binstall = shell::cargo();
        binstall.args(["binstall", "--no-confirm", "--disable-strategies", "compile"]);
        if shell::output(binstall.arg(format!("bpf-linker@{VERSION}"))).is_some() && works() {
            return Ok(());
        }
    }
    let needed = compiler.llvm().context("the BPF compiler does not name its LLVM version")?;
    let (llvm, prefix) = llvm(needed)?;
    println!("setup: cargo install bpf-linker {VERSION} with LLVM {llvm} (about a minute)");
    let mut install = shell::cargo();
    install
        .args(["install", "--locked", "--quiet", "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), &format!("bpf-linker@{VERSION}")])
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTFLAGS");
    shell::run(&mut install).context("build bpf-linker")?;
    if !works() {
        bail!("bpf-linker was built, but `bpf-linker --version` fails");
    }
    Ok(())
}

fn works() -> bool {
    let mut linker = shell::command("bpf-linker");
    shell::output(linker.arg("--version")).is_some()
}

/// The oldest LLVM that fits: one that is installed with what a build needs,
/// or one that the distribution has.
fn llvm(needed: u32) -> Result<(u32, PathBuf)> {
    let fitting = || SUPPORTED.filter(|version| *version >= needed);
    let prefix = |version: u32| PathBuf::from(format!("/usr/lib/llvm-{version}"));
    let complete = |version: &u32| {
        let lib = prefix(*version).join("lib");
        let headers = ["/usr/include/zlib.h", "/usr/include/zstd.h"];
        lib.join("libLLVM.so").exists()
            && lib.join("libPolly.a").exists()
            && headers.iter().all(|header| Path::new(header).exists())
            && shell::which("c++").is_some()
    };
    if let Some(version) = fitting().find(complete) {
        return Ok((version, prefix(version)));
    }
    for version in fitting() {
        let packages = packages_of(version);
        if packages::available(&packages) {
            packages::install(&packages)?;
            return Ok((version, prefix(version)));
        }
    }
    bail!(
        "bpf-linker needs LLVM {needed} or newer to be built: install {}, or bpf-linker {VERSION} itself",
        packages_of(needed).join(", ")
    )
}

fn packages_of(version: u32) -> Vec<String> {
    vec![
        format!("llvm-{version}-dev"),
        format!("libpolly-{version}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
        "g++".to_owned(),
    ]
}
