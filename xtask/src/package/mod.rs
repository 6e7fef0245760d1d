//! The Debian package, manual pages, completions and the chart's archive, below
//! `target/package`; and whether the package has what it should.

mod check;

use crate::{setup, shell};
use anyhow::{Context as _, Result};
use clap::Args;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Options of `cargo xtask package`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Package what `cargo build` makes: to try the packaging, not to use it
    #[arg(long)]
    pub(crate) debug: bool,
}

/// Where each shell looks for completions, as the package names the files.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "lb"), ("zsh", "_lb"), ("fish", "lb.fish")];

/// Builds all of it, and checks it.
pub(crate) fn run(options: &Options) -> Result<()> {
    setup::require_root("`cargo xtask package` (it tries to install the package)")?;
    setup::run(setup::Purpose::Package)?;
    let (profile, directory) =
        if options.debug { ("dev", "debug") } else { ("release", "release") };
    println!("build: the agent with its BPF programs, and its manual");
    let mut build = shell::cargo();
    build.args(["build", "--quiet", "--profile", profile, "-p", "lb-userspace"]);
    shell::run(build.args(["--bin", "lb", "--example", "man"]))?;
    let target = shell::target_directory()?;
    let out = target.join("package");
    for part in ["man", "completions", "deb"] {
        let part = out.join(part);
        if part.exists() {
            fs::remove_dir_all(&part).with_context(|| format!("remove {}", part.display()))?;
        }
        fs::create_dir_all(&part).with_context(|| format!("make {}", part.display()))?;
    }
    let manual = target.join(directory).join("examples/man");
    shell::run(shell::command(&manual.to_string_lossy()).arg(out.join("man")))?;
    completions(&target.join(directory).join("lb"), &out.join("completions"))?;
    plugin(&out.join("kubectl-lb"))?;
    let mut deb = shell::cargo();
    deb.args(["deb", "--quiet", "--no-build", "--strip", "-p", "lb-userspace"]);
    deb.args(["--profile", profile]);
    shell::run(deb.arg("--output").arg(out.join("deb")))?;
    let mut helm = shell::command(&target.join("tools/helm").to_string_lossy());
    helm.args(["package", "packaging/helm/lb", "--destination"]).arg(&out);
    shell::quiet(&mut helm)?;
    check::run(&out.join("deb"))?;
    println!("package: all of it is in {}", out.display());
    Ok(())
}

fn completions(lb: &Path, to: &Path) -> Result<()> {
    for (shell, file) in COMPLETIONS {
        let mut print = shell::command(&lb.to_string_lossy());
        let script = shell::output(print.args(["completions", shell]));
        let script = script.with_context(|| format!("`lb completions {shell}` fails"))?;
        let file = to.join(file);
        fs::write(&file, script).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

/// kubectl finds its plugins by their names.
fn plugin(link: &Path) -> Result<()> {
    if link.symlink_metadata().is_ok() {
        fs::remove_file(link).with_context(|| format!("remove {}", link.display()))?;
    }
    symlink("lb", link).with_context(|| format!("make {}", link.display()))
}
