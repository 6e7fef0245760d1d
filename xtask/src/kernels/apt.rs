//! Kernels of Debian's suites, through apt with lists and sources of its own:
//! the system's stay as they are.

use super::Files;
use super::image::unpacked;
use crate::shell;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The package that depends on the suite's current kernel. The kernel for
/// clouds has all that the tests need, and is small.
const CURRENT: &str = "linux-image-cloud-amd64";

/// Packages that a kernel's package may be spread over.
const PARTS: [&str; 2] = ["linux-binary-", "linux-modules-"];

/// Modules for the tests' networks and for the agent.
const MODULES: [&str; 8] =
    ["veth", "bridge", "8021q", "sch_ingress", "cls_bpf", "tcp_diag", "udp_diag", "inet_diag"];

/// Finds a suite's kernel in `place`, or downloads it.
pub(super) fn kernel(suite: &str, place: &Path, update: bool) -> Result<Files> {
    let tree = place.join("tree");
    if update || !tree.is_dir() {
        download(suite, place, &tree).with_context(|| format!("get the kernel of {suite}"))?;
    }
    let mut files = BTreeMap::new();
    collect(&tree, &mut files)?;
    let kernel = files.iter().find(|(name, _)| name.starts_with("vmlinuz"));
    let (_, kernel) = kernel.with_context(|| format!("no kernel in {}", tree.display()))?;
    let mut modules = Vec::new();
    for name in MODULES {
        require(name, &files, &mut modules)?;
    }
    Ok(Files { kernel: kernel.clone(), modules })
}

fn download(suite: &str, place: &Path, tree: &Path) -> Result<()> {
    println!("kernels: looking for the kernel of {suite}");
    let apt = Apt::new(suite, place)?;
    shell::quiet(apt.command("apt-get").args(["update", "--quiet=2"]))?;
    let image = apt
        .depends(CURRENT)?
        .into_iter()
        .find(|name| name.starts_with("linux-image-"))
        .with_context(|| format!("{CURRENT} depends on no kernel"))?;
    let parts = apt.depends(&image)?;
    let parts = parts.into_iter().filter(|name| PARTS.iter().any(|part| name.starts_with(part)));
    let packages: Vec<String> = std::iter::once(image).chain(parts).collect();
    println!("kernels: downloading {}", packages.join(", "));
    let downloads = place.join("packages");
    for stale in [tree, &downloads] {
        if stale.is_dir() {
            std::fs::remove_dir_all(stale)
                .with_context(|| format!("remove {}", stale.display()))?;
        }
    }
    std::fs::create_dir_all(&downloads).context("make a directory for packages")?;
    let mut get = apt.command("apt-get");
    shell::quiet(get.args(["download", "--quiet=2"]).args(&packages).current_dir(&downloads))?;
    // Under its last name only when it is whole.
    let fresh = place.join("fresh");
    for package in entries(&downloads)? {
        shell::quiet(shell::command("dpkg-deb").arg("--extract").arg(package).arg(&fresh))?;
    }
    std::fs::rename(&fresh, tree).context("put the kernel in its place")
}

/// apt with everything in one directory.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(suite: &str, place: &Path) -> Result<Self> {
        let home = place.join("apt");
        for directory in ["lists/partial", "cache/archives/partial"] {
            let path = home.join(directory);
            std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        }
        let write = |name: &str, text: &str| {
            let path = home.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
        };
        write("status", "")?;
        write("sources.list", &format!("{}\n", crate::debian::source(suite)?))?;
        let home = home.display();
        let options = vec![
            format!("Dir::Etc::sourcelist={home}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            "Dir::Etc::preferencesparts=-".to_owned(),
            format!("Dir::State::lists={home}/lists"),
            format!("Dir::State::status={home}/status"),
            format!("Dir::Cache={home}/cache"),
            "Acquire::Languages=none".to_owned(),
            // Its own user may not be let into our directories.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Self { options })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        for option in &self.options {
            command.arg("-o").arg(option);
        }
        command
    }

    /// What the newest version of a package depends on.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let mut show = self.command("apt-cache");
        let text = shell::output(show.args(["show", "--no-all-versions", package]));
        let text = text.with_context(|| format!("there is no package {package}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Depends: "));
        let names = line.unwrap_or_default().split([',', '|']);
        Ok(names.filter_map(|word| word.split_whitespace().next()).map(str::to_owned).collect())
    }
}

/// Every file below a directory, by name.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for path in entries(directory)? {
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if let Some(name) = path.file_name() {
            files.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory);
    let entries = entries.with_context(|| format!("read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.path())).collect()
}

/// Adds a module behind those that it needs. One that the package lacks may be
/// part of the kernel.
fn require(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    modules: &mut Vec<PathBuf>,
) -> Result<()> {
    // File names have hyphens where module names may have underscores.
    let spelled = [name.to_owned(), name.replace('_', "-")];
    let names = spelled
        .iter()
        .flat_map(|name| ["ko", "ko.xz", "ko.zst"].map(|end| format!("{name}.{end}")));
    let Some(path) = names.into_iter().find_map(|name| files.get(&name)) else { return Ok(()) };
    if modules.contains(path) {
        return Ok(());
    }
    for needed in needs(&unpacked(path)?) {
        require(&needed, files, modules)?;
    }
    modules.push(path.clone());
    Ok(())
}

/// What a module says that it depends on: `depends=a,b` among its strings.
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = module[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list);
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::needs;

    #[test]
    fn a_module_names_what_it_needs() {
        assert_eq!(needs(b"\x7fELF\0license=GPL\0depends=stp,llc\0name=bridge\0"), ["stp", "llc"]);
        assert!(needs(b"\0depends=\0name=veth\0").is_empty());
        assert!(needs(b"no module").is_empty());
    }
}
