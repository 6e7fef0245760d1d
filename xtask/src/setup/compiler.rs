//! The compiler for BPF: `rustc` with a `core` library for the BPF target.
//!
//! Two ways. Debian's `rustc-web`, a released compiler, comes with `core` for
//! BPF ready made; it is linked as the rustup toolchain `lb-bpf`. Elsewhere, a
//! rustup nightly with `rust-src` builds `core` itself.
//! `lb-userspace/build.rs` looks for the same compilers in the same order.

use super::{Purpose, packages};
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::path::Path;

/// The BPF target of this machine's byte order.
pub(crate) const TARGET: &str =
    if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" };

/// The rustup toolchain that stands for the distribution's compiler.
const LINKED: &str = "lb-bpf";

/// The distribution's packages: compiler, cargo, `core` for BPF.
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// A compiler that can build the BPF programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// The rustup toolchain [`LINKED`].
    Linked,
    /// The rustup nightly, with `rust-src`.
    Nightly,
    /// The only compiler here, without rustup.
    Only,
}

impl Compiler {
    /// `rustc -vV`.
    fn version(self) -> Option<String> {
        let mut rustc = self.rustc();
        shell::output(rustc.arg("-vV"))
    }

    fn rustc(self) -> std::process::Command {
        match self.toolchain() {
            Some(toolchain) => {
                let mut rustc = shell::command("rustup");
                rustc.args(["run", toolchain, "rustc"]);
                rustc
            }
            None => shell::command("rustc"),
        }
    }

    /// Its rustup toolchain.
    pub(crate) fn toolchain(self) -> Option<&'static str> {
        match self {
            Self::Linked => Some(LINKED),
            Self::Nightly => Some("nightly"),
            Self::Only => None,
        }
    }

    /// The major version of its LLVM, which the linker must not be older than.
    pub(super) fn llvm(self) -> Option<u32> {
        let version = self.version()?;
        let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        line.split('.').next()?.parse().ok()
    }

    fn works(self) -> bool {
        let mut rustc = self.rustc();
        let Some(sysroot) = shell::output(rustc.args(["--print", "sysroot"])) else { return false };
        let rustlib = Path::new(sysroot.trim()).join("lib/rustlib");
        match self {
            Self::Linked | Self::Only => rustlib.join(TARGET).join("lib").is_dir(),
            Self::Nightly => rustlib.join("src/rust/library/core").is_dir(),
        }
    }
}

/// The compiler that the build will use, if there is one.
pub(crate) fn find() -> Option<Compiler> {
    let known = if rustup() { toolchains() } else { String::new() };
    [(Compiler::Linked, LINKED), (Compiler::Nightly, "nightly")]
        .into_iter()
        .filter(|(_, name)| known.lines().any(|line| line.starts_with(name)))
        .map(|(compiler, _)| compiler)
        .chain((!rustup()).then_some(Compiler::Only))
        .find(|compiler| compiler.works())
}

/// Finds the compiler, or installs it.
pub(super) fn ensure(purpose: Purpose) -> Result<Compiler> {
    let compiler = match find() {
        Some(compiler) => compiler,
        None => install()?,
    };
    if purpose == Purpose::Tests {
        lints(compiler)?;
    }
    Ok(compiler)
}

fn install() -> Result<Compiler> {
    println!("setup: no compiler for BPF: the installed ones have no `core` library for {TARGET}");
    if let Some(compiler) = distribution()? {
        return Ok(compiler);
    }
    if rustup() {
        println!(
            "setup: the distribution has none; trying a rustup nightly, which builds `core` itself"
        );
        if nightly() {
            return Ok(Compiler::Nightly);
        }
    }
    bail!(
        "no way to get a compiler for BPF: either install {} as root (Debian), or let \
         `rustup toolchain install nightly --component rust-src` work",
        PACKAGES.join(", ")
    )
}

/// Adds the source of `core` to the nightly that is there (an update could
/// break what else uses it), or installs a nightly.
fn nightly() -> bool {
    let present = toolchains().lines().any(|line| line.starts_with("nightly"));
    let mut rustup = shell::command("rustup");
    if present {
        rustup.args(["component", "add", "rust-src", "--toolchain", "nightly"]);
    } else {
        rustup.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        rustup.args(["--component", "rust-src", "--component", "clippy"]);
    }
    rustup.env("RUSTUP_MAX_RETRIES", "1").env_remove("RUST_BACKTRACE");
    shell::output(&mut rustup).is_some() && Compiler::Nightly.works()
}

/// Takes the distribution's compiler, if it has one.
fn distribution() -> Result<Option<Compiler>> {
    let prefix = Path::new("/usr");
    let core = prefix.join("lib/rustlib").join(TARGET);
    if !core.is_dir() || !prefix.join("bin/cargo").is_file() {
        if !packages::available(&PACKAGES) {
            return Ok(None);
        }
        packages::install(&PACKAGES)?;
    }
    let compiler = if rustup() {
        println!(
            "setup: rustup toolchain link {LINKED} /usr, so that the build finds that compiler"
        );
        let mut link = shell::command("rustup");
        shell::run(link.args(["toolchain", "link", LINKED]).arg(prefix))?;
        Compiler::Linked
    } else {
        Compiler::Only
    };
    Ok(compiler.works().then_some(compiler))
}

/// Clippy and rustfmt: of the compiler in use, and of the one for BPF.
fn lints(compiler: Compiler) -> Result<()> {
    for (component, program) in [("rustfmt", "rustfmt"), ("clippy", "clippy-driver")] {
        let mut probe = shell::command(program);
        if shell::output(probe.arg("--version")).is_none() {
            println!("setup: {component} is missing; the tests check with it");
            let mut add = shell::command("rustup");
            shell::run(add.args(["component", "add", component]))
                .with_context(|| format!("{component} is missing, and rustup can't add it"))?;
        }
    }
    if has_clippy(compiler) {
        return Ok(());
    }
    println!("setup: the BPF compiler has no clippy; the tests check the programs with it");
    match compiler {
        Compiler::Linked | Compiler::Only => packages::install(&["rust-web-clippy"]),
        Compiler::Nightly => {
            let mut add = shell::command("rustup");
            shell::run(add.args(["component", "add", "clippy", "--toolchain", "nightly"]))
        }
    }
}

fn has_clippy(compiler: Compiler) -> bool {
    let mut clippy = match compiler.toolchain() {
        Some(toolchain) => shell::cargo_of(toolchain),
        None => shell::cargo(),
    };
    shell::output(clippy.args(["clippy", "--version"])).is_some()
}

fn rustup() -> bool {
    shell::which("rustup").is_some()
}

fn toolchains() -> String {
    let mut rustup = shell::command("rustup");
    shell::output(rustup.args(["toolchain", "list"])).unwrap_or_default()
}
