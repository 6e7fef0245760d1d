//! `kubectl lb`: kubectl finds it by its name, and it asks the agents through kubectl.
//! There is no cluster here, so that in these tests a script stands for the kubectl that
//! lists pods and enters them.

use anyhow::{Context as _, Result, ensure};
use lb_tests::process::{binary, tool};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Two pods; the second's agent is not well.
const KUBECTL: &str = r#"#!/bin/sh
echo "$*" >> "$(dirname "$0")/calls"
case "$*" in
    *"get pods"*"nodeName=node-3"*) ;;
    *"get pods"*"nodeName=node-1"*) printf 'lb-a\tnode-1\n' ;;
    *"get pods"*) printf 'lb-b\tnode-2\nlb-a\tnode-1\n' ;;
    *"exec lb-b"*) echo "of b"; exit 1 ;;
    *"exec lb-a"*) echo "of a" ;;
esac
"#;

/// A directory to be PATH, with the plugin and what stands for kubectl.
struct Scene(TempDir);

impl Scene {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        symlink(binary("lb")?, home.path().join("kubectl-lb"))?;
        let kubectl = home.path().join("kubectl");
        fs::write(&kubectl, KUBECTL)?;
        fs::set_permissions(&kubectl, fs::Permissions::from_mode(0o755))?;
        Ok(Self(home))
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(&self.0.path().join("kubectl-lb"), arguments)
    }

    fn command(&self, program: &Path, arguments: &[&str]) -> Result<Output> {
        let path = format!("{}:/usr/bin:/bin", self.0.path().display());
        let mut command = Command::new(program);
        command.args(arguments).env("PATH", path).output().context("start")
    }

    fn calls(&self) -> Result<String> {
        Ok(fs::read_to_string(self.0.path().join("calls"))?)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn kubectl_finds_the_plugin() -> Result<()> {
    let scene = Scene::new()?;
    let output = scene.command(&tool("kubectl")?, &["lb", "services", "--help"])?;
    let told = text(&output.stdout);
    ensure!(output.status.success() && told.contains("Usage: kubectl lb services"), "{told}");
    let output = scene.command(&tool("kubectl")?, &["lb", "--help"])?;
    ensure!(text(&output.stdout).contains("Usage: kubectl lb "), "{}", text(&output.stdout));
    Ok(())
}

#[test]
fn every_agent_is_asked_and_the_worst_answer_counts() -> Result<()> {
    let scene = Scene::new()?;
    let output = scene.run(&["--context", "c", "services", "-n", "shop"])?;
    ensure!(text(&output.stdout) == "=== node-1\nof a\n=== node-2\nof b\n", "{output:?}");
    ensure!(output.status.code() == Some(1), "{}", output.status);
    let calls = scene.calls()?;
    let asked =
        "--context c --namespace kube-system exec lb-b --container agent -- lb services -n shop";
    ensure!(calls.lines().any(|call| call == asked), "{calls}");
    Ok(())
}

#[test]
fn one_agent_is_asked_where_a_node_is_named() -> Result<()> {
    let scene = Scene::new()?;
    let output = scene.run(&["--node", "node-1", "status", "-o", "json"])?;
    ensure!(output.status.success() && text(&output.stdout) == "of a\n", "{output:?}");
    let output = scene.run(&["--node", "node-3", "status"])?;
    let told = text(&output.stderr);
    let expected = "kubectl lb: no agent's pod runs in namespace kube-system on node node-3";
    ensure!(output.status.code() == Some(1) && told.starts_with(expected), "{told}");
    Ok(())
}

#[test]
fn what_needs_no_agent_is_done_here() -> Result<()> {
    let scene = Scene::new()?;
    let manifests = tempfile::tempdir()?;
    let directory = manifests.path().to_str().context("UTF-8")?;
    ensure!(scene.run(&["check", directory])?.status.success());
    ensure!(text(&scene.run(&["completions", "bash"])?.stdout).contains("complete "));
    let output = scene.run(&["cleanup"])?;
    let told = text(&output.stderr);
    ensure!(told.starts_with("kubectl lb: it works on the machine where it is called"), "{told}");
    ensure!(scene.calls().is_err(), "kubectl was started");
    Ok(())
}
