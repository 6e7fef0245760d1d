//! Whether the Debian package is one: its files, what `dpkg` makes of it in a root of
//! its own, whether what it installs runs.

use crate::shell;
use anyhow::{Context as _, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// What has to be in it.
const FILES: [&str; 14] = [
    "./etc/default/lb",
    "./etc/lb/manifests.d/README",
    "./usr/bin/kubectl-lb -> lb",
    "./usr/bin/lb",
    "./usr/lib/systemd/system/lb.service",
    "./usr/share/bash-completion/completions/lb",
    "./usr/share/doc/lb/changelog.Debian.gz",
    "./usr/share/doc/lb/copyright",
    "./usr/share/doc/lb/SECURITY.md",
    "./usr/share/fish/vendor_completions.d/lb.fish",
    "./usr/share/man/man1/lb-agent.1.gz",
    "./usr/share/man/man1/lb.1.gz",
    "./usr/share/man/man1/lb-services.1.gz",
    "./usr/share/zsh/vendor-completions/_lb",
];

/// The most that `systemd-analyze security` may find: tenths, of a hundred.
const EXPOSURE: u32 = 25;

/// What lintian says of every package of ours: the project has no address for mail.
const KNOWN: &str = "bogus-mail-host,bogus-mail-host-in-debian-changelog";

/// Checks the only package in a directory.
pub(super) fn run(directory: &Path) -> Result<()> {
    let deb = package(directory)?;
    contents(&deb)?;
    let scratch = directory.join("root");
    install(&deb, &scratch)?;
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;
    lintian(&deb)
}

fn package(directory: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).context("list the package's directory")?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut debs = paths.filter(|path| path.extension().is_some_and(|kind| kind == "deb"));
    debs.next().with_context(|| format!("no package in {}", directory.display()))
}

fn contents(deb: &Path) -> Result<()> {
    let list = shell::output(shell::command("dpkg-deb").arg("--contents").arg(deb));
    let list = list.context("`dpkg-deb --contents` fails")?;
    for file in FILES {
        let wanted = format!(" {file}");
        ensure!(list.lines().any(|line| line.ends_with(&wanted)), "{file} is missing in\n{list}");
    }
    let strange =
        list.lines().find(|line| !line.contains(" root/root ") && !line.contains(" 0/0 "));
    ensure!(strange.is_none(), "not root's: {}", strange.unwrap_or_default());
    Ok(())
}

/// The unit, as systemd reads it; and that it exposes no more than it does.
fn unit(root: &Path) -> Result<()> {
    let installed = root.join("usr/lib/systemd/system/lb.service");
    let text = fs::read_to_string(&installed).context("read the unit")?;
    // The program is not where the unit will find it.
    let program = root.join("usr/bin/lb");
    let unit = root.join("lb.service");
    let text = text.replace("/usr/bin/lb", &program.to_string_lossy());
    fs::write(&unit, text).context("write a unit")?;
    shell::quiet(shell::command("systemd-analyze").args(["verify", "--man=no"]).arg(&unit))?;
    let mut security = shell::command("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager"]);
    shell::quiet(security.arg(format!("--threshold={EXPOSURE}")).arg(&unit))
}

/// Installs, installs again as an upgrade, removes, purges: in a root that has nothing
/// else, with the maintainer scripts told so.
fn install(deb: &Path, root: &Path) -> Result<()> {
    for directory in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(root.join(directory)).context("make a root")?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "").context("make a root")?;
    let dpkg = |arguments: &[&str]| {
        let mut dpkg = shell::command("dpkg");
        dpkg.arg(format!("--root={}", root.display()));
        dpkg.args(["--force-script-chrootless", "--force-depends", "--force-confold"]);
        dpkg.args(arguments);
        shell::quiet(&mut dpkg)
    };
    let file = deb.to_str().context("UTF-8")?;
    dpkg(&["--install", file])?;
    let lb = root.join("usr/bin/lb");
    let tell = |arguments: &[&str]| {
        let mut lb = shell::command(&lb.to_string_lossy());
        shell::output(lb.args(arguments))
            .with_context(|| format!("`lb {}` fails", arguments.join(" ")))
    };
    ensure!(tell(&["--version"])?.starts_with("lb "), "`lb --version` says something else");
    unit(root)?;
    let manifests = root.join("etc/lb/manifests.d");
    tell(&["check", manifests.to_str().context("UTF-8")?])?;
    let settings = root.join("etc/default/lb");
    fs::write(&settings, "LB_LOG=debug\n").context("change the settings")?;
    dpkg(&["--install", file])?;
    let kept = fs::read_to_string(&settings).context("read the settings")?;
    ensure!(kept == "LB_LOG=debug\n", "an upgrade replaced /etc/default/lb");
    dpkg(&["--remove", "lb"])?;
    ensure!(!lb.exists() && settings.exists(), "removed too much, or too little");
    dpkg(&["--purge", "lb"])?;
    ensure!(!settings.exists(), "purging leaves /etc/default/lb");
    Ok(())
}

/// What Debian itself has against it.
fn lintian(deb: &Path) -> Result<()> {
    let mut lintian = shell::command("lintian");
    lintian.args(["--allow-root", "--fail-on", "error", "--suppress-tags", KNOWN]);
    shell::quiet(lintian.arg(deb))
}
