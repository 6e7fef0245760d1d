//! Keeps a descriptor of everything that is pinned: what somebody unpins stays
//! in the kernel, attached as it was, and can be pinned again.

use super::sys::{self, LinkInfo};
use super::{PinDir, abi, attach};
use lb_common::names;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// What is kept, by where it belongs.
#[derive(Default)]
pub(super) struct Keeper(BTreeMap<PathBuf, OwnedFd>);

impl Keeper {
    /// Keeps what is pinned there now. Without a descriptor left it is not kept,
    /// and serves nonetheless.
    pub(super) fn keep(&mut self, path: &Path) {
        match sys::open_pin(path) {
            Ok(object) => drop(self.0.insert(path.to_path_buf(), object)),
            Err(error) => {
                self.0.remove(path);
                tracing::debug!("{} is not kept: {error}", path.display());
            }
        }
    }

    /// Keeps every map that is pinned there now.
    pub(super) fn keep_maps(&mut self, pins: &PinDir) {
        for map in names::PINNED_MAPS.into_iter().chain([abi::MAP]) {
            self.keep(&pins.map(map));
        }
    }

    /// Lets go of it. A link without a pin is detached by that.
    pub(super) fn release(&mut self, path: &Path) {
        self.0.remove(path);
    }

    /// What the link does that belongs there, pinned or not; none if there is
    /// none.
    pub(super) fn link(&self, path: &Path) -> Option<LinkInfo> {
        match self.0.get(path) {
            Some(link) => sys::link_info(link.as_fd()).ok(),
            None => attach::info(path),
        }
    }

    /// How much is kept.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Pins that are gone, or lead to something else.
    pub(super) fn lost(&self) -> Vec<PathBuf> {
        let id = |object: &OwnedFd| sys::object_id(object.as_fd()).ok();
        let same =
            |path: &Path, object| sys::open_pin(path).is_ok_and(|pinned| id(&pinned) == id(object));
        self.0.iter().filter(|(path, object)| !same(path, object)).map(|(p, _)| p.clone()).collect()
    }

    /// Pins it again.
    pub(super) fn pin(&self, path: &Path) -> io::Result<()> {
        let Some(object) = self.0.get(path) else { return Ok(()) };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        sys::pin(object.as_fd(), path)
    }
}
