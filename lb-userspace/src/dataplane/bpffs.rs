//! The BPF file system: found, or mounted where it belongs.

use super::DataplaneError;
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

/// Where a BPF file system belongs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Inode number of the PID namespace that the machine's first process is in:
/// `PROC_PID_INIT_INO` of the kernel's include/linux/proc_ns.h.
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether a path that exists is on a BPF file system.
pub(super) fn is_on(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC)
}

/// Makes sure that a directory, which need not exist yet, is on a BPF file
/// system. Mounts one at its usual place if that is where the directory is.
pub(super) fn ensure(pin_dir: &Path) -> Result<(), DataplaneError> {
    let refuse = |reason: String| DataplaneError::NotBpffs { pin_dir: pin_dir.into(), reason };
    if !pin_dir.is_absolute() || pin_dir.components().any(|part| part == Component::ParentDir) {
        return Err(refuse("give an absolute path without `..`".into()));
    }
    let nearest = pin_dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !is_on(nearest) {
        if !pin_dir.starts_with(MOUNT_POINT) {
            return Err(refuse(format!(
                "choose a directory below {MOUNT_POINT}, or mount one there with `mount -t bpf`"
            )));
        }
        mount_usual(&refuse)?;
    }
    let below = pin_dir.strip_prefix(MOUNT_POINT).unwrap_or(pin_dir);
    if below.to_string_lossy().contains('.') {
        return Err(DataplaneError::DottedPinDir { pin_dir: pin_dir.into() });
    }
    Ok(())
}

/// Mounts at the usual place; pins there must be seen by later processes.
fn mount_usual(refuse: &impl Fn(String) -> DataplaneError) -> Result<(), DataplaneError> {
    if in_container() {
        return Err(refuse(format!(
            "nothing is mounted on {MOUNT_POINT} in this container, and pins in a file system mounted only here would vanish with it: mount one on the node (systemd does, else `mount -t bpf bpf {MOUNT_POINT}`), and give the container the node's {MOUNT_POINT}"
        )));
    }
    if in_private_mount_namespace() {
        return Err(refuse(format!(
            "nothing is mounted on {MOUNT_POINT} in this mount namespace, and pins in a file system mounted only here would vanish with this process (`ip netns exec` does that: use `nsenter --net=/run/netns/NAME` instead)"
        )));
    }
    mount(Some("bpf"), MOUNT_POINT, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(
        |error| refuse(format!("mounting one on {MOUNT_POINT} failed: {}", error.desc())),
    )?;
    tracing::info!("mounted a BPF file system on {MOUNT_POINT}");
    Ok(())
}

/// Whether this process has process ids of its own, as containers do: which mounts
/// the machine's first process sees can't be told there.
fn in_container() -> bool {
    fs::metadata("/proc/self/ns/pid").is_ok_and(|file| file.ino() != FIRST_PID_NAMESPACE)
}

/// Whether this process sees other mounts than the first one does.
fn in_private_mount_namespace() -> bool {
    let namespace = |process: &str| {
        fs::metadata(format!("/proc/{process}/ns/mnt")).map(|file| (file.dev(), file.ino())).ok()
    };
    match (namespace("self"), namespace("1")) {
        (Some(own), Some(first)) => own != first,
        // Not even root may always look at the first process.
        _ => fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| by_ip_netns_exec(&mounts)),
    }
}

/// Whether `ip netns exec` made the mounts: it names the file system on /sys
/// after the network namespace.
fn by_ip_netns_exec(mounts: &str) -> bool {
    let sys = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/sys"));
    let source = sys.and_then(|line| line.split(' ').next());
    source.is_some_and(|name| Path::new("/run/netns").join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_sys_is_not_taken_for_that_of_ip_netns_exec() {
        assert!(!by_ip_netns_exec("sysfs /sys sysfs rw 0 0\nproc /proc proc rw 0 0\n"));
        assert!(!by_ip_netns_exec(""));
    }

    #[test]
    fn a_relative_path_or_one_that_climbs_is_refused() {
        for path in ["lb", "/sys/fs/bpf/../x"] {
            let error = ensure(Path::new(path)).unwrap_err().to_string();
            assert!(error.ends_with("without `..`"), "{error}");
        }
    }
}
