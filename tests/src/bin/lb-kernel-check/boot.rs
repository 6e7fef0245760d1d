//! The first process of a virtual machine: file systems, modules, loopback.

use anyhow::{Context as _, Result};
use lb_tests::ip;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::wait;
use nix::unistd::Pid;
use std::fs::{self, File};
use std::process::Command;

/// What is mounted: kind and place.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

/// Modules, one path a line, each behind those that it needs.
const MODULES: &str = "/lb/modules";

/// Makes of a bare kernel what the checks expect.
pub(crate) fn prepare() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("make {place}"))?;
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mount {kind} on {place}"))?;
    }
    for path in fs::read_to_string(MODULES).context("read the list of modules")?.lines() {
        let module = File::open(path).with_context(|| format!("open {path}"))?;
        match finit_module(&module, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("load {path}")),
        }
    }
    ip::output(&["link", "set", "lo", "up"])?;
    Ok(())
}

/// Runs the checks as a process of their own, since the first process has to
/// wait for orphans, too.
pub(crate) fn run_checks(report: &str, all_tables: bool) -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    let child = Command::new(own)
        .arg(report)
        .args(all_tables.then_some("all"))
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LB_SLOW", "1")
        .spawn()
        .context("start the checks")?;
    let child = Pid::from_raw(i32::try_from(child.id()).context("process id")?);
    while wait().context("wait for the checks")?.pid() != Some(child) {}
    Ok(())
}

/// Switches the machine off.
pub(crate) fn power_off() {
    nix::unistd::sync();
    // Nothing is left to be done about a failure: the machine's time is limited.
    let _ = reboot(RebootMode::RB_POWER_OFF);
}
