//! Builds the BPF object of `lb-ebpf`; the agent embeds it.

use anyhow::{Context as _, Result, anyhow};
use aya_build::{Package, Toolchain, build_ebpf};
use std::process::Command;

/// The toolchain that `cargo xtask setup` links where nightly's own `core`
/// cannot be had: a compiler that comes with `core` for BPF.
const LINKED: &str = "lb-bpf";

fn main() -> Result<()> {
    let manifest = std::env::var("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?;
    let root = std::path::Path::new(&manifest).join("../lb-ebpf");
    println!("cargo:rerun-if-changed={manifest}/../lb-common/src");
    println!("cargo:rerun-if-changed={manifest}/../Cargo.toml");
    let toolchain = if linked_toolchain() {
        // That compiler is a stable one; `aya_ebpf` alone uses unstable features.
        #[expect(clippy::disallowed_methods, reason = "a build script has one thread")]
        // SAFETY: the build script has started no thread.
        unsafe {
            std::env::set_var("RUSTC_BOOTSTRAP", "aya_ebpf");
        }
        Toolchain::Custom(LINKED)
    } else {
        Toolchain::default()
    };
    let root_dir = root.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", root.display()))?;
    build_ebpf([Package { name: "lb-ebpf", root_dir, ..Default::default() }], toolchain)
        .context("build the BPF programs; `cargo xtask setup` installs what that needs")
}

fn linked_toolchain() -> bool {
    Command::new("rustup").args(["toolchain", "list"]).output().is_ok_and(|list| {
        String::from_utf8_lossy(&list.stdout).lines().any(|l| l.starts_with(LINKED))
    })
}
