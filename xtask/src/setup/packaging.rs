//! What packages are made with: cargo-deb; for the image, the standard library and the
//! C compiler of a static C library.

use super::packages;
use crate::shell;
use anyhow::{Context as _, Result, bail};

/// The version of cargo-deb that the package's description is written for.
const CARGO_DEB: &str = "3.8.0";

/// The target whose programs need no file beside them.
pub(crate) fn static_target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Finds cargo-deb, or builds it.
pub(super) fn cargo_deb() -> Result<()> {
    let version = || shell::output(shell::cargo().args(["deb", "--version"]));
    if version().is_some_and(|found| found.trim().ends_with(CARGO_DEB)) {
        return Ok(());
    }
    println!("setup: cargo install cargo-deb {CARGO_DEB}, which makes the Debian package");
    let mut install = shell::cargo();
    install.args(["install", "--locked", "--quiet", &format!("cargo-deb@{CARGO_DEB}")]);
    install.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    shell::run(&mut install).context("build cargo-deb")?;
    if version().is_none() {
        bail!("cargo-deb was built, but `cargo deb --version` fails");
    }
    Ok(())
}

/// Finds what static programs are built with, or installs it.
pub(super) fn static_builds() -> Result<()> {
    if shell::which("musl-gcc").is_none() {
        println!("setup: musl-gcc is missing; it compiles what of a static program is in C");
        packages::install(&["musl-tools"])?;
    }
    let target = static_target();
    let mut rustc = shell::command("rustc");
    let there = shell::output(rustc.args(["--print", "target-libdir", "--target", &target]));
    if there.is_some_and(|path| std::path::Path::new(path.trim()).is_dir()) {
        return Ok(());
    }
    println!("setup: rustup target add {target}, for static programs");
    let mut rustup = shell::command("rustup");
    shell::run(rustup.args(["target", "add", &target]))
        .with_context(|| format!("the standard library for {target} is missing"))
}
