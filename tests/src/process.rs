//! Processes that end with the value that stands for them.

use crate::deadline;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// A child process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    keep: bool,
}

impl Process {
    /// Starts one. It has a process group of its own: an interrupt from the
    /// terminal is for the program that started it, which then ends it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).spawn();
        let child = child.with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, keep: false })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it running when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(id), signal).with_context(|| format!("send {signal} to {id}"))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        deadline::until("the end of a process", limit, || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// A program that this workspace builds. Tests run in `target/<profile>/deps`,
/// and programs in the directory above.
pub fn binary(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let near = own.ancestors().skip(1).take(2).map(|dir| dir.join(name));
    let Some(path) = near.into_iter().find(|path| path.is_file()) else {
        bail!("{name} is not built: `cargo build -p lb-userspace -p lb-tests --bins`");
    };
    Ok(path)
}
