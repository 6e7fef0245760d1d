//! Network namespaces: made with a name of their own, deleted when dropped.
//!
//! Names of the tests' are `lbt-<pid>-<n>`, so that runs side by side don't
//! meet, and so that what a killed run left behind can be told from what is in
//! use.

use crate::agent::{BPF_FS, SOCKETS};
use crate::ip;
use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

/// What every unique name begins with.
const PREFIX: &str = "lbt-";

/// What namespaces are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// Never twice; what is left of a run that was killed is swept by the next.
    Unique,
    /// By what they are for, behind a prefix. What is there already is replaced.
    After(&'static str),
}

impl Naming {
    /// What the names of files begin with that belong to the same run.
    pub fn prefix(self) -> String {
        match self {
            Self::Unique => format!("{PREFIX}{}-", std::process::id()),
            Self::After(prefix) => format!("{prefix}-"),
        }
    }
}

/// A network namespace that goes away with this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes one, with loopback up and without address conflict detection,
    /// which would keep IPv6 addresses from use for a second.
    pub fn new(naming: Naming, purpose: &str) -> Result<Self> {
        sweep_once();
        let name = match naming {
            Naming::Unique => unique(),
            Naming::After(prefix) => format!("{prefix}-{purpose}"),
        };
        if Path::new(DIRECTORY).join(&name).exists() {
            remove(&name);
        }
        ip::output(&["netns", "add", &name])?;
        let namespace = Self { name, keep: false };
        namespace.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.sysctl("net.ipv6.conf.default.accept_ra", "0")?;
        namespace.ip(&["link set lo up".to_owned()])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Leaves it standing when dropped.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// Runs `ip` commands in it.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        ip::batch(Some(&self.name), lines)
    }

    /// Sets a network parameter of it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))?
            .with_context(|| format!("write {} in {}", path.display(), self.name))
    }

    /// Sets a parameter of a device in it, by its path below `/sys/class/net`.
    pub fn set_device(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/sys/class/net").join(name);
        let set = || -> Result<()> {
            // What is mounted shows the devices of another namespace; this one is
            // seen, and goes, with the thread.
            unshare(CloneFlags::CLONE_NEWNS).context("leave the mounts")?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
            Ok(std::fs::write(&path, value)?)
        };
        self.run(set)?.with_context(|| format!("write {} in {}", path.display(), self.name))
    }

    /// A command that will run in it. `nsenter` keeps the mounts as they are;
    /// `ip netns exec` would hide the BPF file system.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a program in it to the end; what it prints.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let net = format!("--net={}", self.path().display());
        let mut all = vec![net.as_str(), "--", program];
        all.extend(arguments);
        ip::command("nsenter", &all)
    }

    /// Runs a function on a thread inside it. Sockets made there stay there
    /// and may be used from anywhere afterwards.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                Ok(function())
            });
            match inside.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing can be done about a failure here; the next run sweeps.
            let _ = ip::output(&["netns", "del", &self.name]);
        }
    }
}

/// A name that no other run and no other test has.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{next}", std::process::id())
}

/// Removes what runs that were killed left behind.
fn sweep_once() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        for name in everything() {
            let dead = |pid| !Path::new("/proc").join(pid).exists();
            if owner(&name).is_some_and(dead) {
                remove(&name);
            }
        }
    });
}

/// Removes a namespace, the processes in it, what its agent pinned, and files.
/// What can't be removed will show when its name is used.
fn remove(name: &str) {
    let pids = ip::output(&["netns", "pids", name]).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if Path::new(DIRECTORY).join(name).exists() {
        let _ = ip::output(&["netns", "del", name]);
    }
    for directory in [PathBuf::from(BPF_FS), std::env::temp_dir()] {
        let _ = std::fs::remove_dir_all(directory.join(name));
    }
    let _ = std::fs::remove_file(Path::new(SOCKETS).join(name));
}

/// Removes everything whose name begins so.
pub fn remove_all(naming: Naming) {
    let prefix = naming.prefix();
    for name in everything().iter().filter(|name| name.starts_with(&prefix)) {
        remove(name);
    }
}

/// The names of everything that runs make: namespaces, pins, and files.
fn everything() -> BTreeSet<String> {
    let directories = [DIRECTORY, BPF_FS, SOCKETS].map(PathBuf::from);
    let directories = directories.into_iter().chain([std::env::temp_dir()]);
    let entries = directories.filter_map(|directory| std::fs::read_dir(directory).ok());
    entries.flatten().flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// The process that made a name: `lbt-<pid>-<n>`.
fn owner(name: &str) -> Option<&str> {
    let (pid, _) = name.strip_prefix(PREFIX)?.split_once('-')?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::{Namespace, Naming, owner};
    use crate::privilege;

    #[test]
    fn a_name_tells_who_made_it() {
        assert_eq!(owner("lbt-42-7"), Some("42"));
        assert_eq!(owner("lbt-x-7"), None);
        assert_eq!(owner("other"), None);
    }

    #[test]
    fn a_namespace_is_entered_and_goes_away() -> anyhow::Result<()> {
        if !privilege::root_or_skip() {
            return Ok(());
        }
        let namespace = Namespace::new(Naming::Unique, "test")?;
        let path = namespace.path();
        let links = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        assert!(links.contains("lo:"));
        assert_eq!(links.lines().count(), 3, "only loopback is in a new namespace: {links}");
        drop(namespace);
        assert!(!path.exists());
        Ok(())
    }
}
