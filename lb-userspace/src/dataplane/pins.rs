//! The pin directory: where each map and link is, and the lock that keeps two
//! agents apart.

use super::{DataplaneError, HookPoint, Mode, bpffs};
use crate::privilege;
use nix::unistd::geteuid;
use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of the directories.
const OWN: u32 = 0o700;

/// A directory on a BPF file system with everything that outlives the agent:
/// `maps/NAME`, `links/INDEX-HOOK` and `links/cgroup-CALL`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinDir(PathBuf);

/// Keeps others from changing the pins, as long as it lives.
#[derive(Debug)]
pub(super) struct PinLock {
    directory: File,
}

impl PinLock {
    /// Whether the directory that is there now is the one that is locked.
    pub(super) fn covers(&self, pins: &PinDir) -> bool {
        let place = |file: &Metadata| (file.dev(), file.ino());
        let locked = self.directory.metadata().map(|file| place(&file));
        fs::metadata(pins.path()).is_ok_and(|now| locked.is_ok_and(|locked| locked == place(&now)))
    }
}

/// Which hook of which interface a pinned link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LinkKey {
    pub index: u32,
    pub hook: HookPoint,
    /// XDP links differ by mode, since a link can't change it.
    pub mode: Mode,
}

impl PinDir {
    /// The pins below a directory; nothing needs to be there yet. However the
    /// path is spelt (`lb/`, `bpf//lb`), it is the same one.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into().components().collect())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where a map is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// Where maps are made that will take the place of others, as below a pin
    /// directory of their own.
    pub(super) fn staged(&self) -> Self {
        Self(self.0.join("next"))
    }

    /// Where programs that are loaded now find a map: one that is staged will
    /// have its place soon.
    pub(super) fn coming_map(&self, name: &str) -> PathBuf {
        let staged = self.staged().map(name);
        if staged.exists() { staged } else { self.map(name) }
    }

    /// Makes the directory for maps that are staged.
    pub(super) fn stage(&self) -> Result<Self, DataplaneError> {
        let staged = self.staged();
        let path = staged.maps();
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(OWN).create(&path).map_err(|source| DataplaneError::Io {
            operation: "create",
            path,
            source,
        })?;
        Ok(staged)
    }

    /// Puts a staged map in the place of the one with its name.
    pub(super) fn install(&self, map: &str) -> Result<(), DataplaneError> {
        let path = self.map(map);
        fs::rename(self.staged().map(map), &path).map_err(|source| DataplaneError::Io {
            operation: "replace",
            path,
            source,
        })
    }

    /// Where a link is pinned.
    pub(super) fn link(&self, key: LinkKey) -> PathBuf {
        self.links().join(key.file_name())
    }

    /// Where the link is pinned for a call of sockets.
    pub(super) fn socket_link(&self, call: &str) -> PathBuf {
        self.links().join(format!("cgroup-{call}"))
    }

    /// Mounts the file system if that is missing: the only step that needs more
    /// rights than the agent keeps.
    pub fn mount(&self) -> Result<(), DataplaneError> {
        bpffs::ensure(&self.0)
    }

    /// Makes the directories, and mounts the file system if that is missing.
    /// Nobody else may write to them, nor look.
    pub(super) fn create(&self) -> Result<(), DataplaneError> {
        self.mount()?;
        for path in [self.0.clone(), self.maps(), self.links()] {
            let fail = |operation| {
                let path = path.clone();
                move |source| DataplaneError::Io { operation, path, source }
            };
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(OWN).create(&path).map_err(fail("create"))?;
            let exposure = privilege::exposure(&path).map_err(fail("look at"))?;
            if let Some(exposure) = exposure {
                return Err(DataplaneError::Exposed { pin_dir: path, exposure });
            }
            let directory = fs::metadata(&path).map_err(fail("look at"))?;
            let (owner, us) = (directory.uid(), geteuid().as_raw());
            if owner != us && owner != 0 {
                return Err(DataplaneError::Owned { pin_dir: path, owner });
            }
            if owner == us {
                // An earlier release let everybody look.
                let own = Permissions::from_mode(OWN);
                fs::set_permissions(&path, own).map_err(fail("close"))?;
            }
        }
        Ok(())
    }

    /// Locks the directory itself: the lock goes with the process, however it
    /// ends, and leaves no file behind.
    pub(super) fn lock(&self) -> Result<PinLock, DataplaneError> {
        let fail =
            |operation, source| DataplaneError::Io { operation, path: self.0.clone(), source };
        let directory = File::open(&self.0).map_err(|source| fail("open", source))?;
        match directory.try_lock() {
            Ok(()) => Ok(PinLock { directory }),
            Err(TryLockError::WouldBlock) => Err(DataplaneError::InUse { pin_dir: self.0.clone() }),
            Err(TryLockError::Error(source)) => Err(fail("lock", source)),
        }
    }

    /// The links that are pinned; names that no link of ours has are left out.
    pub(super) fn pinned_links(&self) -> Result<Vec<LinkKey>, DataplaneError> {
        let names = list(&self.links())?;
        Ok(names.iter().filter_map(|path| LinkKey::parse(path)).collect())
    }
}

impl LinkKey {
    /// No dots and no interface names (which may have dots): the file system
    /// refuses them.
    fn file_name(self) -> String {
        match self.hook {
            HookPoint::Ingress | HookPoint::Egress => format!("{}-{}", self.index, self.hook),
            HookPoint::Xdp => format!("{}-xdp-{}", self.index, self.mode),
        }
    }

    fn parse(path: &Path) -> Option<Self> {
        let (index, rest) = path.file_name()?.to_str()?.split_once('-')?;
        let (hook, mode) = match rest {
            "ingress" => (HookPoint::Ingress, Mode::Tcx),
            "egress" => (HookPoint::Egress, Mode::Tcx),
            "xdp-native" => (HookPoint::Xdp, Mode::Native),
            "xdp-generic" => (HookPoint::Xdp, Mode::Generic),
            _ => return None,
        };
        Some(Self { index: index.parse().ok()?, hook, mode })
    }
}

/// The files of a directory, sorted; none if it does not exist.
pub(super) fn list(directory: &Path) -> Result<Vec<PathBuf>, DataplaneError> {
    let fail = |source| DataplaneError::Io { operation: "list", path: directory.into(), source };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()));
    let mut paths = paths.collect::<io::Result<Vec<_>>>().map_err(fail)?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_file_name_says_what_it_is() {
        for key in [
            LinkKey { index: 7, hook: HookPoint::Ingress, mode: Mode::Tcx },
            LinkKey { index: 7, hook: HookPoint::Egress, mode: Mode::Tcx },
            LinkKey { index: 4_000_000_000, hook: HookPoint::Xdp, mode: Mode::Native },
            LinkKey { index: 12, hook: HookPoint::Xdp, mode: Mode::Generic },
        ] {
            assert_eq!(LinkKey::parse(Path::new(&key.file_name())), Some(key));
        }
        for foreign in ["ingress", "x-ingress", "7-", "7-ingress-2"] {
            assert_eq!(LinkKey::parse(Path::new(foreign)), None, "{foreign}");
        }
    }
}
