//! Directories that everybody may write to: whoever owns what is in them, it
//! may be anybody's tomorrow.

use nix::sys::statvfs::{FsFlags, statvfs};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bit of a file's mode: everybody may write.
const BY_ALL: u32 = 0o002;
/// Bit of a directory's mode: entries are their owners' to rename or remove.
const STICKY: u32 = 0o1000;

/// How everybody could change what is in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The directory that everybody may write to: it, or one above.
    pub culprit: PathBuf,
    /// Whether it is one above.
    pub above: bool,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let culprit = self.culprit.display();
        if self.above {
            write!(f, "can be replaced by everybody, who may write to {culprit}")?;
        } else {
            f.write_str("can be written to by everybody")?;
        }
        write!(f, ": `chmod o-w {culprit}`")
    }
}

/// How everybody could change what is in a directory, if they can. A directory
/// above that everybody may write to is harmless if it is sticky, as /tmp is.
pub fn exposure(directory: &Path) -> io::Result<Option<Exposure>> {
    let given = std::path::absolute(directory)?;
    let real = fs::canonicalize(directory)?;
    for path in [&given, &real] {
        for (index, culprit) in path.ancestors().enumerate() {
            let above = index > 0;
            let mode = fs::metadata(culprit)?.mode();
            let harmless = above && mode & STICKY != 0;
            if mode & BY_ALL != 0 && !harmless && !is_read_only(culprit)? {
                return Ok(Some(Exposure { culprit: culprit.to_path_buf(), above }));
            }
        }
    }
    Ok(None)
}

/// Whether a file is on a file system that nobody can write to here: volumes of
/// ConfigMaps have a mode for everybody, and are mounted so.
fn is_read_only(path: &Path) -> io::Result<bool> {
    Ok(statvfs(path)?.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether everybody may write to a file of this mode.
pub fn is_exposed(path: &Path, mode: u32) -> io::Result<bool> {
    Ok(mode & BY_ALL != 0 && !is_read_only(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_is_as_safe_as_those_above_it() {
        let home = tempfile::tempdir().unwrap();
        let (upper, lower) = (home.path().join("upper"), home.path().join("upper/lower"));
        fs::create_dir_all(&lower).unwrap();
        chmod(&upper, 0o755);
        for (mode, exposed) in [(0o755, false), (0o775, false), (0o777, true), (0o1777, true)] {
            chmod(&lower, mode);
            assert_eq!(exposure(&lower).unwrap().is_some(), exposed, "{mode:o}");
        }
        chmod(&lower, 0o755);
        for (mode, exposed) in [(0o1777, false), (0o777, true)] {
            chmod(&upper, mode);
            assert_eq!(exposure(&lower).unwrap().is_some(), exposed, "{mode:o} above");
        }
        let told = exposure(&lower).unwrap().unwrap();
        assert!(told.above && told.culprit == upper);
        // A link does not hide where it leads.
        let link = home.path().join("link");
        symlink(&lower, &link).unwrap();
        assert_eq!(exposure(&link).unwrap().unwrap().culprit, upper);
    }
}
