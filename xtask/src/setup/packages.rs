//! Packages of the distribution, through apt-get: asked for once, and only if
//! the program that they bring is not there.

use super::{Purpose, backports};
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::sync::OnceLock;

/// A program, the package that has it, and what it is used for.
struct Tool {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const DEMO: [Tool; 3] = [
    Tool { program: "ip", package: "iproute2", why: "makes the network namespaces" },
    Tool { program: "nsenter", package: "util-linux", why: "starts programs in a namespace" },
    Tool { program: "ethtool", package: "ethtool", why: "turns checksum offload of a veth off" },
];

const TESTS: [Tool; 4] = [
    Tool { program: "tc", package: "iproute2", why: "shows what is attached" },
    Tool { program: "bpftool", package: "bpftool", why: "shows that nothing stays loaded" },
    Tool { program: "c++", package: "g++", why: "compiles the fuzzer's runtime" },
    Tool { program: "capsh", package: "libcap2-bin", why: "starts the agent as a container" },
];

const KERNELS: [Tool; 5] = [
    Tool { program: "tc", package: "iproute2", why: "shows what is attached" },
    Tool { program: "qemu-system-x86_64", package: "qemu-system-x86", why: "boots the kernels" },
    Tool { program: "strip", package: "binutils", why: "makes what they load small" },
    Tool { program: "xz", package: "xz-utils", why: "unpacks their modules" },
    Tool { program: "zstd", package: "zstd", why: "unpacks their modules" },
];

const RULES: [Tool; 2] = [
    Tool {
        program: "iptables-nft-restore",
        package: "iptables",
        why: "loads the rules that kube-proxy, CNIs and network policies make",
    },
    Tool { program: "nft", package: "nftables", why: "loads those that they make for nftables" },
];

const PACKAGE: [Tool; 5] = [
    Tool { program: "pip3", package: "python3-pip", why: "brings helm, kubectl, hadolint" },
    Tool { program: "dpkg-shlibdeps", package: "dpkg-dev", why: "tells what a package depends on" },
    Tool { program: "strip", package: "binutils", why: "makes the programs small" },
    Tool { program: "lintian", package: "lintian", why: "checks the Debian package" },
    Tool { program: "systemd-analyze", package: "systemd", why: "checks the systemd unit" },
];

const IMAGE: [Tool; 1] =
    [Tool { program: "strip", package: "binutils", why: "makes the program small" }];

/// Installs the tools that are missing.
pub(super) fn tools(purpose: Purpose) -> Result<()> {
    let mut wanted: Vec<&Tool> = DEMO.iter().collect();
    match purpose {
        Purpose::Demo => {}
        // Tests try the packages too.
        Purpose::Tests => wanted.extend(TESTS.iter().chain(&RULES).chain(&PACKAGE)),
        Purpose::Kernels => wanted.extend(&KERNELS),
        Purpose::Bench => wanted.extend(&RULES),
        Purpose::Package => wanted.extend(&PACKAGE),
        // Where an image is built, nothing is run.
        Purpose::Image => wanted = IMAGE.iter().collect(),
    }
    wanted.retain(|tool| shell::which(tool.program).is_none());
    if wanted.is_empty() {
        return Ok(());
    }
    for tool in &wanted {
        println!("setup: {} is missing; it {}", tool.program, tool.why);
    }
    let mut packages: Vec<&str> = wanted.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    install(&packages)
}

/// Whether every one of these packages can be installed from here.
pub(super) fn available<S: AsRef<str>>(packages: &[S]) -> bool {
    let possible = shell::which("apt-get").is_some() && nix::unistd::geteuid().is_root();
    if !possible || update().is_err() {
        return false;
    }
    let mut simulate = shell::command("apt-get");
    simulate
        .args(["--simulate", "--no-remove", "install"])
        .args(packages.iter().map(AsRef::as_ref));
    shell::output(&mut simulate).is_some()
}

/// Installs packages, without removing any and without asking.
pub(super) fn install<S: AsRef<str>>(packages: &[S]) -> Result<()> {
    let list = packages.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
    if shell::which("apt-get").is_none() {
        bail!("there is no apt-get here: install these with your package manager: {list}");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("installing packages needs root: run `sudo apt-get install {list}`, or this as root");
    }
    update()?;
    println!("setup: apt-get install {list}");
    let wanted = packages.iter().map(AsRef::as_ref);
    let mut simulate = shell::command("apt-get");
    simulate.args(["--simulate", "--no-remove", "--no-install-recommends", "install"]);
    let mut apt = if shell::output(simulate.args(wanted.clone())).is_some() {
        shell::command("apt-get")
    } else {
        // A package that is there may be a backport, and want its own kind.
        println!("setup: with {}", backports::suite()?);
        backports::apt_get()?
    };
    apt.env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--quiet=2", "--no-install-recommends", "--no-remove"])
        .args(wanted);
    shell::quiet(&mut apt).with_context(|| format!("install the packages {list}"))
}

/// Refreshes the package lists, once in a run.
fn update() -> Result<()> {
    static DONE: OnceLock<bool> = OnceLock::new();
    let fresh = *DONE.get_or_init(|| {
        println!("setup: apt-get update");
        let mut apt = shell::command("apt-get");
        shell::quiet(apt.args(["update", "--quiet=2"])).is_ok()
    });
    if !fresh {
        bail!("`apt-get update` failed, so packages can't be installed");
    }
    Ok(())
}
