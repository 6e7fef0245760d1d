//! Builds what runs on each kernel, and lays it together as cargo would have
//! it: programs, and tests in `deps` beside them, without their hashes.

use crate::shell;
use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const BINARIES: [&str; 3] = ["lb", "lb-test-server", "lb-kernel-check"];

/// Those that `lb-kernel-check` runs.
const TESTS: [&str; 3] = ["prog_tables", "netns_node_port", "netns_host_clients"];

/// What was laid together.
pub(super) struct Programs {
    pub(super) directory: PathBuf,
    /// Every program.
    pub(super) all: Vec<PathBuf>,
    /// The one that does the checks.
    pub(super) check: PathBuf,
}

/// Builds and copies, without what only a debugger needs.
pub(super) fn stage(directory: &Path) -> Result<Programs> {
    println!("build: the agent with its BPF programs, and the tests");
    let mut build = shell::cargo();
    shell::run(build.args(["build", "--quiet", "-p", "lb-userspace", "-p", "lb-tests", "--bins"]))?;
    let deps = directory.join("deps");
    std::fs::create_dir_all(&deps).with_context(|| format!("make {}", deps.display()))?;
    let binaries = shell::target_directory()?.join("debug");
    let mut all = Vec::new();
    for name in BINARIES {
        all.push(strip(&binaries.join(name), directory.join(name))?);
    }
    let executables = tests()?;
    for name in TESTS {
        let path = executables.iter().find(|(known, _)| known == name);
        let (_, path) = path.with_context(|| format!("cargo built no test {name}"))?;
        all.push(strip(path, deps.join(name))?);
    }
    Ok(Programs { directory: directory.to_owned(), all, check: directory.join("lb-kernel-check") })
}

/// Test binaries by name, as cargo names them.
fn tests() -> Result<Vec<(String, PathBuf)>> {
    let mut build = shell::cargo();
    build.args(["test", "--quiet", "-p", "lb-tests", "--no-run", "--message-format=json"]);
    for name in TESTS {
        build.args(["--test", name]);
    }
    let output = build.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.context("start cargo")?;
    if !output.status.success() {
        bail!("`{}` failed", shell::shown(&build));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().filter_map(executable).collect())
}

fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = message["target"]["name"].as_str()?;
    Some((name.to_owned(), message["executable"].as_str()?.into()))
}

fn strip(from: &Path, to: PathBuf) -> Result<PathBuf> {
    let mut strip = shell::command("strip");
    shell::quiet(strip.arg("--strip-debug").arg("-o").arg(&to).arg(from))?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::executable;

    #[test]
    fn cargo_names_test_binaries() {
        let line = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":"/x/a-1"}"#;
        assert_eq!(executable(line), Some(("a".to_owned(), "/x/a-1".into())));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("not JSON"), None);
    }
}
