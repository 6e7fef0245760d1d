//! The root of the cgroup hierarchy, where programs see the calls of every
//! process of the machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Inode number of the root: the first that a hierarchy gives.
const ROOT_INODE: u64 = 1;

/// Finds where the root is mounted, or says why it can't be had.
pub(super) fn root() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| format!("/proc/self/mountinfo can't be read: {error}"))?;
    choose(&mounts, |path| fs::metadata(path).map(|file| file.ino()))
}

/// The first mount that shows the root. A container often has only its own
/// part of the hierarchy, where programs would see nobody else's calls.
fn choose(mounts: &str, inode: impl Fn(&Path) -> io::Result<u64>) -> Result<PathBuf, String> {
    let points: Vec<PathBuf> = mounts.lines().filter_map(cgroup2).collect();
    let Some(first) = points.first() else {
        return Err("no cgroup v2 hierarchy is mounted".to_owned());
    };
    let is_root = |path: &&PathBuf| inode(path).is_ok_and(|inode| inode == ROOT_INODE);
    points.iter().find(is_root).cloned().ok_or_else(|| {
        format!(
            "{} is only a part of the cgroup v2 hierarchy: the root has to be mounted too \
             (in a container, the host's /sys/fs/cgroup)",
            first.display()
        )
    })
}

/// Where a line of `mountinfo` mounts a cgroup v2 hierarchy, if it does: the
/// fifth field; the kind follows a lonely dash.
fn cgroup2(line: &str) -> Option<PathBuf> {
    let (fields, kind) = line.split_once(" - ")?;
    let is_cgroup2 = kind.split(' ').next() == Some("cgroup2");
    // A space within is written as its number, and no cgroup mount has one.
    is_cgroup2.then(|| fields.split(' ').nth(4).map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: &str = "\
22 1 0:21 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755
41 22 0:38 /docker/1 /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
42 22 0:38 /../.. /host/cgroup rw,relatime master:1 shared:2 - cgroup2 none rw
";

    #[test]
    fn the_mount_that_shows_the_root_is_found() {
        let inode = |path: &Path| Ok(if path == Path::new("/host/cgroup") { 1 } else { 4711 });
        assert_eq!(choose(BOTH, inode), Ok("/host/cgroup".into()));
    }

    #[test]
    fn without_one_the_reason_is_said() {
        let part = choose(BOTH, |_| Ok(4711)).unwrap_err();
        assert!(part.starts_with("/sys/fs/cgroup/unified is only a part"), "{part}");
        let none = choose("22 1 0:21 / /sys rw - sysfs sysfs rw\n", |_| Ok(1)).unwrap_err();
        assert_eq!(none, "no cgroup v2 hierarchy is mounted");
    }
}
