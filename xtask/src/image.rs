//! What the container image consists of: one static program, and the licences. The
//! Dockerfile's build stage runs this, so that an image is built as everything else is.

use crate::setup::{self, packaging::static_target};
use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// Files beside the program, for whoever receives the image.
const LICENCES: [&str; 3] = ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT"];

/// Builds the root of the image below `target/package`.
pub(crate) fn run() -> Result<()> {
    setup::run(setup::Purpose::Image)?;
    let triple = static_target();
    println!("build: the agent with its BPF programs, linked statically, for release");
    let mut build = shell::cargo();
    build.args(["build", "--release", "--locked", "-p", "lb-userspace", "--bin", "lb"]);
    shell::run(build.args(["--target", &triple]))?;
    let target = shell::target_directory()?;
    let root = target.join("package/image");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    let program = root.join("usr/bin/lb");
    copy(&target.join(triple).join("release/lb"), &program)?;
    shell::run(shell::command("strip").arg("--strip-debug").arg(&program))?;
    for licence in LICENCES {
        copy(&shell::root().join(licence), &root.join("usr/share/doc/lb").join(licence))?;
    }
    is_static(&program)?;
    println!("image: its root is {}", root.display());
    Ok(())
}

/// A program that asks for a loader does not start where there is none.
fn is_static(program: &Path) -> Result<()> {
    let mut readelf = shell::command("readelf");
    let headers = shell::output(readelf.args(["--program-headers", "--wide"]).arg(program));
    let headers = headers.context("`readelf` does not tell what the program needs")?;
    if headers.lines().any(|line| line.trim_start().starts_with("INTERP")) {
        bail!("{} is not linked statically", program.display());
    }
    shell::quiet(shell::command(&program.to_string_lossy()).arg("--version"))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("a file has a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}
