//! The agent as a process in a node's namespace, and the other subcommands of
//! `lb` beside it.

use crate::client::Connection;
use crate::deadline::{self, patient};
use crate::ip;
use crate::netns::Namespace;
use crate::process::{Process, binary};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where the BPF file system is.
pub const BPF_FS: &str = "/sys/fs/bpf";

/// Where agents that were told nothing else answer.
pub const SOCKETS: &str = "/run/lb";

/// How long the agent may take to start or to stop.
const LIMIT: Duration = Duration::from_secs(20);

/// A sample of the metrics that the agent in a namespace serves.
pub fn metric(netns: &Namespace, sample: &str) -> Result<u64> {
    let metrics = (Ipv4Addr::LOCALHOST, 10_249).into();
    let page = netns.run(|| Connection::open(metrics)?.request("GET", "/metrics", &[]))??;
    let text = String::from_utf8(page.body)?;
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    let value = line.with_context(|| format!("{sample} is missing in\n{text}"))?;
    value.parse().with_context(|| format!("{sample} is {value}"))
}

/// How an agent is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// `--xdp`.
    pub xdp: &'static str,
    /// `--tc`.
    pub tc: &'static str,
    /// Further arguments.
    pub more: &'static [&'static str],
}

/// An agent, running or not, with what it left pinned. All of it goes away
/// with this value.
#[derive(Debug)]
pub struct Agent {
    netns: PathBuf,
    node: String,
    source: Vec<OsString>,
    options: Options,
    pin_dir: PathBuf,
    home: TempDir,
    process: Option<Process>,
    keep: bool,
}

impl Agent {
    /// Starts one, and waits until it has everything in force.
    pub fn start(
        netns: &Namespace,
        node: &str,
        manifests: &Path,
        options: Options,
    ) -> Result<Self> {
        let source = vec!["--manifests".into(), manifests.into()];
        let mut agent = Self::launch(netns, node, source, options)?;
        agent.ready()?;
        Ok(agent)
    }

    /// As [`Agent::start`], where there is much to put in force.
    pub fn start_within(
        limit: Duration,
        netns: &Namespace,
        node: &str,
        manifests: &Path,
        options: Options,
    ) -> Result<Self> {
        let source = vec!["--manifests".into(), manifests.into()];
        let mut agent = Self::launch(netns, node, source, options)?;
        agent.ready_within(limit)?;
        Ok(agent)
    }

    /// Starts one that is told of Services by these arguments, and does not wait.
    pub fn launch(
        netns: &Namespace,
        node: &str,
        source: Vec<OsString>,
        options: Options,
    ) -> Result<Self> {
        let prefix = format!("{}-agent-", netns.name());
        let home = tempfile::Builder::new().prefix(&prefix).tempdir();
        let mut agent = Self {
            netns: netns.path(),
            node: node.to_owned(),
            source,
            options,
            pin_dir: Path::new(BPF_FS).join(netns.name()),
            home: home.context("make a directory for the agent's log")?,
            process: None,
            keep: false,
        };
        agent.run()?;
        Ok(agent)
    }

    /// The node that it runs on.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Where its programs and maps are pinned.
    pub fn pin_dir(&self) -> &Path {
        &self.pin_dir
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
        self.home.disable_cleanup(true);
        if let Some(process) = &mut self.process {
            process.keep();
        }
    }

    /// Further arguments for the next start.
    pub const fn set_more(&mut self, more: &'static [&'static str]) {
        self.options.more = more;
    }

    /// Starts the process, after [`Agent::terminate`] or [`Agent::kill`].
    pub fn run(&mut self) -> Result<()> {
        self.process = Some(self.spawn(&[])?);
        Ok(())
    }

    /// Starts another process in the place of the one that runs, and waits until
    /// that has ended and the new one is healthy.
    pub fn take_over(&mut self) -> Result<()> {
        let mut new = self.spawn(&["--takeover"])?;
        if let Some(old) = &mut self.process {
            let ended = deadline::until("an agent to be replaced", patient(LIMIT), || {
                old.ended().map(Ok).or_else(|| new.ended().map(Err))
            });
            match ended? {
                Ok(status) if status.success() => {}
                Ok(status) => bail!("the agent of {} ended with {status}", self.node),
                Err(status) => bail!(
                    "the agent that was to replace the one of {} ended with {status}: {}",
                    self.node,
                    std::fs::read_to_string(self.log()).unwrap_or_default()
                ),
            }
        }
        self.process = Some(new);
        self.ready()
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().context("the agent does not run")?.signal(signal)
    }

    /// How the process ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut()?.ended()
    }

    /// The process, if it was started.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The id of the program that each pinned link runs, by the pin's name.
    pub fn programs(&self) -> Result<BTreeMap<String, u64>> {
        let links = self.pin_dir.join("links");
        let entries = std::fs::read_dir(&links).with_context(|| links.display().to_string())?;
        let mut programs = BTreeMap::new();
        for entry in entries {
            let path = entry?.path();
            let pin = path.to_str().context("a pin that is not UTF-8")?;
            let link = ip::command("bpftool", &["-j", "link", "show", "pinned", pin])?;
            let link: Value = serde_json::from_str(&link)?;
            let id = link["prog_id"].as_u64().with_context(|| format!("{pin} is {link}"))?;
            programs.insert(pin.rsplit('/').next().unwrap_or(pin).to_owned(), id);
        }
        Ok(programs)
    }

    fn spawn(&self, more: &[&str]) -> Result<Process> {
        let path = self.log();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("open {}", path.display()))?;
        let mut command = self.lb("agent")?;
        command
            .args(&self.source)
            .args(["--node-name", &self.node])
            .args(["--xdp", self.options.xdp, "--tc", self.options.tc])
            .args(self.options.more)
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("share the log")?)
            .stderr(log);
        Process::start(&mut command)
    }

    /// Waits until it is healthy.
    pub fn ready(&mut self) -> Result<()> {
        self.ready_within(LIMIT)
    }

    /// Waits until it is healthy, for so long.
    pub fn ready_within(&mut self, limit: Duration) -> Result<()> {
        let limit = format!("{}s", patient(limit).as_secs());
        let output = self.output("status", &["--wait", &limit])?;
        if output.status.success() {
            return Ok(());
        }
        bail!(
            "the agent of {} is not healthy: {}{}\n{}",
            self.node,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            std::fs::read_to_string(self.log()).unwrap_or_default()
        )
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        self.home.path().join("agent.log")
    }

    /// Ends it as an operator would.
    pub fn terminate(&mut self) -> Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(Signal::SIGTERM)?;
        let status = process.wait(patient(LIMIT)).context("the agent after SIGTERM")?;
        if !status.success() {
            bail!("the agent of {} ended with {status} after SIGTERM", self.node);
        }
        Ok(())
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// `lb services -o json`.
    pub fn services(&self) -> Result<Vec<Value>> {
        self.json("services")
    }

    /// `lb connections -o json`, with further arguments.
    pub fn connections(&self, arguments: &[&str]) -> Result<Vec<Value>> {
        let output = self.output("connections", &[&["-o", "json"], arguments].concat())?;
        self.check("connections", &output)?;
        serde_json::from_slice(&output.stdout).context("read `lb connections`")
    }

    /// `lb status -o json`.
    pub fn status(&self) -> Result<Value> {
        self.json("status")
    }

    /// As [`Agent::status`], whether everything is in order or not.
    pub fn status_now(&self) -> Result<Value> {
        let output = self.output("status", &["-o", "json"])?;
        serde_json::from_slice(&output.stdout).context("read `lb status`")
    }

    /// `lb verify` with further arguments: a line for each difference.
    pub fn verify(&self, arguments: &[&str]) -> Result<Vec<String>> {
        let output = self.output("verify", arguments)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let sum = lines.pop().with_context(|| format!("`lb verify`: {}", stderr.trim()))?;
        if output.status.success() != (lines.is_empty() && sum.starts_with("exact: ")) {
            bail!("`lb verify` ends with {} and says {text}", output.status);
        }
        Ok(lines)
    }

    /// What a subcommand prints for people.
    pub fn text(&self, subcommand: &str) -> Result<String> {
        let output = self.output(subcommand, &[])?;
        self.check(subcommand, &output)?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `lb cleanup`.
    pub fn cleanup(&self) -> Result<()> {
        let output = self.output("cleanup", &[])?;
        self.check("cleanup", &output)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, subcommand: &str) -> Result<T> {
        let output = self.output(subcommand, &["-o", "json"])?;
        self.check(subcommand, &output)?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("read `lb {subcommand}`"))
    }

    fn check(&self, subcommand: &str, output: &Output) -> Result<()> {
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("`lb {subcommand}` on {}: {}", self.node, stderr.trim());
        }
        Ok(())
    }

    fn output(&self, subcommand: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = self.lb(subcommand)?;
        command.args(arguments).stdin(Stdio::null());
        command.output().with_context(|| format!("start `lb {subcommand}`"))
    }

    fn lb(&self, subcommand: &str) -> Result<Command> {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns.display()))
            .arg("--")
            .arg(binary("lb")?)
            .arg(subcommand)
            .arg("--pin-dir")
            .arg(&self.pin_dir);
        Ok(command)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        self.kill();
        // What can't be removed here is swept by the next run.
        let _ = self.cleanup();
    }
}
