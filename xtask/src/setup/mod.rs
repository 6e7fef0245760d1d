//! What building, demo and tests need, beyond git and Rust: found out first,
//! and only what is missing is installed, with a line that says why.
//!
//! The second run finds everything, and costs a few look-ups.

mod backports;
pub(crate) mod compiler;
mod linker;
mod packages;
pub(crate) mod packaging;
mod tools;

use anyhow::{Context as _, Result, bail};
use std::time::Instant;

/// The oldest kernel whose verifier and helpers the programs are written for.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// What the set-up is for; tests need more than the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Build, and run the demo.
    Demo,
    /// Build, and run every check.
    Tests,
    /// Build, and run checks on other kernels.
    Kernels,
    /// Build, and measure beside what kube-proxy would do.
    Bench,
    /// Build packages, and check them.
    Package,
    /// Build what the container image consists of.
    Image,
}

/// Installs what is missing.
pub(crate) fn run(purpose: Purpose) -> Result<()> {
    let begin = Instant::now();
    kernel()?;
    packages::tools(purpose)?;
    let compiler = compiler::ensure(purpose)?;
    linker::ensure(compiler)?;
    if matches!(purpose, Purpose::Tests | Purpose::Package) {
        tools::ensure()?;
        packaging::cargo_deb()?;
    }
    if purpose == Purpose::Image {
        packaging::static_builds()?;
    }
    println!("setup: everything is there ({:.1} s)", begin.elapsed().as_secs_f64());
    Ok(())
}

/// Root is what loading programs and making namespaces needs.
pub(crate) fn require_root(what: &str) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "{what} loads BPF programs and makes network namespaces, which needs root: run it as root"
        );
    }
    Ok(())
}

fn kernel() -> Result<()> {
    let name = nix::sys::utsname::uname().context("ask the kernel for its version")?;
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(found) if found < OLDEST_KERNEL => bail!(
            "kernel {release} is too old: the BPF programs need {}.{} or newer",
            OLDEST_KERNEL.0,
            OLDEST_KERNEL.1
        ),
        Some(_) | None => Ok(()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn kernel_releases_of_distributions_are_understood() {
        assert_eq!(version("6.18.5"), Some((6, 18)));
        assert_eq!(version("5.15.0-113-generic"), Some((5, 15)));
        assert_eq!(version("6.1-rc3+"), Some((6, 1)));
        assert_eq!(version("unknown"), None);
    }
}
