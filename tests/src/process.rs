//! Processes that end with the value that stands for them.

use crate::deadline;
use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
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

/// Keeps the calling thread on a processor; says whether it may run there.
pub fn stay_on(processor: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(processor).is_ok() && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}

/// Processor time that a process has used so far.
pub fn processor_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The name may contain anything, even parentheses; the times are the 14th and
    // 15th field, in hundredths of a second (`USER_HZ`).
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    let ticks: u64 = fields.map(|field| field.parse().unwrap_or(0)).sum();
    Ok(Duration::from_millis(10 * ticks))
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

/// A program that `cargo xtask setup` puts beside what cargo builds.
pub fn tool(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    let near = own.ancestors().skip(1).take(3).map(|dir| dir.join("tools").join(name));
    let Some(path) = near.into_iter().find(|path| path.is_file()) else {
        bail!("{name} is not installed: `cargo xtask setup`");
    };
    Ok(path)
}
