//! Newer packages for this release of the distribution, through apt with lists
//! of its own: the system's sources stay as they are.

use crate::shell;
use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;

const SOURCES: &str = "/etc/apt/sources.list";

/// Name of the suite.
pub(super) fn suite() -> Result<String> {
    let release = std::fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.context("/etc/os-release has no VERSION_CODENAME")?;
    Ok(format!("{}-backports", name.trim_matches('"')))
}

/// `apt-get` that takes packages from the suite first.
pub(super) fn apt_get() -> Result<Command> {
    let suite = suite()?;
    let home = std::env::temp_dir().join(format!("lb-{suite}"));
    let lists = home.join("lists");
    std::fs::create_dir_all(lists.join("partial"))
        .with_context(|| format!("make {}", lists.display()))?;
    let own = if Path::new(SOURCES).exists() {
        std::fs::read_to_string(SOURCES).with_context(|| format!("read {SOURCES}"))?
    } else {
        String::new()
    };
    let sources = home.join("sources.list");
    let line = crate::debian::source(&suite)?;
    std::fs::write(&sources, format!("{own}\n{line}\n"))
        .with_context(|| format!("write {}", sources.display()))?;
    let apt = || {
        let mut apt = shell::command("apt-get");
        apt.arg("-o").arg(format!("Dir::Etc::sourcelist={}", sources.display()));
        apt.arg("-o").arg(format!("Dir::State::lists={}", lists.display()));
        // Its own user may not be let into our directory.
        apt.args(["-o", "APT::Sandbox::User=root"]);
        apt
    };
    shell::quiet(apt().args(["update", "--quiet=2"]))?;
    let mut first = apt();
    first.arg("--target-release").arg(&suite);
    Ok(first)
}
