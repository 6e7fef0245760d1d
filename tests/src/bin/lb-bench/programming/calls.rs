//! System calls of a process, as the kernel counts them.

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use perf_event::events::Tracepoint;
use perf_event::{Builder, Counter};
use std::fs;
use std::sync::Mutex;

/// Counts those of every thread that there is, and of those that they start.
pub(super) struct Calls(Mutex<Vec<Counter>>);

impl Calls {
    /// Begins to count.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let event =
            Tracepoint::with_id(number().context("find the kernel's event of system calls")?);
        let mut counters = Vec::new();
        let path = format!("/proc/{pid}/task");
        for task in fs::read_dir(&path).with_context(|| format!("list {path}"))? {
            let task = task?.file_name().to_string_lossy().parse().context("a thread's number")?;
            let mut builder = Builder::new(event);
            builder.observe_pid(task).any_cpu().inherit(true).exclude_kernel(false);
            let mut counter = builder.build().context("count the agent's system calls")?;
            counter.enable().context("count the agent's system calls")?;
            counters.push(counter);
        }
        Ok(Self(Mutex::new(counters)))
    }

    /// How many there were so far.
    pub(super) fn count(&self) -> Result<u64> {
        let mut counters = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        counters.iter_mut().map(|counter| Ok(counter.read()?)).sum()
    }
}

/// The number of the event, which only a file system of its own tells.
fn number() -> Result<u64> {
    let place = tempfile::tempdir().context("make a directory")?;
    mount(Some("tracefs"), place.path(), Some("tracefs"), MsFlags::MS_RDONLY, None::<&str>)
        .context("mount tracefs")?;
    let text = fs::read_to_string(place.path().join("events/raw_syscalls/sys_enter/id"));
    umount2(place.path(), MntFlags::MNT_DETACH).context("unmount tracefs")?;
    text?.trim().parse().context("read its number")
}
