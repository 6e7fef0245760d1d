//! Who holds the lock of a pin directory: the kernel's own word, by which an
//! agent that is to be replaced is told from any other process.

use super::{DataplaneError, PinDir};
use nix::sys::stat::{major, minor};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

/// The locks of the machine, as far as this process may know of their owners.
const LOCKS: &str = "/proc/locks";

/// Who works with a pin directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody.
    Nobody,
    /// This process.
    Process(u32),
    /// A process that can't be seen from here, as from another PID namespace.
    Hidden,
}

impl PinDir {
    /// Who works with the pins at present.
    pub fn holder(&self) -> Result<Holder, DataplaneError> {
        if !self.path().exists() {
            return Ok(Holder::Nobody);
        }
        match self.lock() {
            Ok(_released_at_once) => return Ok(Holder::Nobody),
            Err(DataplaneError::InUse { .. }) => {}
            Err(error) => return Err(error),
        }
        let fail = |operation, path: &std::path::Path, source| DataplaneError::Io {
            operation,
            path: path.into(),
            source,
        };
        let file = fs::metadata(self.path()).map_err(|e| fail("look at", self.path(), e))?;
        let locks = fs::read_to_string(LOCKS).map_err(|e| fail("read", LOCKS.as_ref(), e))?;
        let id = format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino());
        Ok(owner(&locks, &id).map_or(Holder::Hidden, Holder::Process))
    }
}

/// The owner of the lock of a file, as `major:minor:inode`. Lines are
/// `1: FLOCK  ADVISORY  WRITE 708 00:1c:31 0 EOF`; who waits has an arrow.
fn owner(locks: &str, file: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_flock = fields.next() == Some("FLOCK");
        let owner = fields.nth(2)?;
        (is_flock && fields.next() == Some(file)).then(|| owner.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_found_by_the_file_and_never_who_waits() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 12 00:1c:31 0 EOF
2: FLOCK  ADVISORY  WRITE 708 00:1c:31 0 EOF
2: -> FLOCK  ADVISORY  WRITE 709 00:1c:31 0 EOF
3: FLOCK  ADVISORY  WRITE 710 00:1c:3 0 EOF
";
        assert_eq!(owner(locks, "00:1c:31"), Some(708));
        assert_eq!(owner(locks, "00:1c:3"), Some(710));
        assert_eq!(owner(locks, "00:1d:31"), None);
    }

    #[test]
    fn a_lock_of_this_process_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let pins = PinDir::new(home.path());
        assert_eq!(pins.holder().unwrap(), Holder::Nobody);
        let lock = pins.lock().unwrap();
        assert_eq!(pins.holder().unwrap(), Holder::Process(std::process::id()));
        drop(lock);
        assert_eq!(pins.holder().unwrap(), Holder::Nobody);
        assert_eq!(PinDir::new(home.path().join("none")).holder().unwrap(), Holder::Nobody);
    }
}
