//! Rules of iptables and nftables, loaded by the programs that their users have.

use crate::netns::Namespace;
use anyhow::{Context as _, Result, bail};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

/// Rules in the format of one of these programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// What `iptables-restore` reads.
    V4(&'static str),
    /// What `ip6tables-restore` reads.
    V6(&'static str),
    /// What `nft -f` reads.
    Nft(&'static str),
}

impl Rules {
    /// Puts them in force in a namespace, with what is different there filled in.
    pub fn load(self, netns: &Namespace, fill: impl Fn(&str) -> String) -> Result<()> {
        match self {
            Self::V4(text) => iptables(netns, &fill(text)),
            Self::V6(text) => ip6tables(netns, &fill(text)),
            Self::Nft(text) => nft(netns, &fill(text)),
        }
    }
}

// Of the two programs that Debian has under the name `iptables-restore` its own
// choice, whose tables can be removed again.

/// Puts rules for IPv4 in the place of those of the same tables.
pub fn iptables(netns: &Namespace, text: &str) -> Result<()> {
    feed(netns, "iptables-nft-restore", &[], text)
}

/// Puts rules for IPv6 in the place of those of the same tables.
pub fn ip6tables(netns: &Namespace, text: &str) -> Result<()> {
    feed(netns, "ip6tables-nft-restore", &[], text)
}

/// Puts rules of nftables in force, beside what is there.
pub fn nft(netns: &Namespace, text: &str) -> Result<()> {
    feed(netns, "nft", &["-f", "-"], text)
}

/// Removes every rule and table of a namespace, and with them connection tracking.
pub fn flush(netns: &Namespace) -> Result<()> {
    netns.output("nft", &["flush", "ruleset"]).map(drop)
}

fn feed(netns: &Namespace, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut command = netns.command(Path::new(program));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {program}"))?;
    let mut stdin = child.stdin.take().context("a program without input")?;
    // Should it end early, what it says is the reason.
    let written = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for {program}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let first: Vec<&str> = stderr.lines().take(5).collect();
        bail!("{program} ends with {}: {}", output.status, first.join("\n"));
    }
    written.with_context(|| format!("write to {program}"))
}
