//! Which files of the directory count, and how to read one without being
//! blocked, flooded, or handed half of what somebody is just writing.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::privilege::{Exposure, exposure, is_exposed};

/// Files beyond this are refused: the dump of a cluster with 10,000 Services and
/// 50,000 endpoints has half of it as JSON, a quarter as YAML.
pub(super) const MAX_FILE_BYTES: u64 = 128 * 1024 * 1024;

/// `F_SETSIG` of the kernel's asm-generic/fcntl.h, which the crate `libc` lacks.
const F_SETSIG: libc::c_int = 10;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether both are states of one file.
    pub(super) fn same_file(&self, other: Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long ago the file was last changed; none if that is in the future.
    pub(super) fn age(&self, now: SystemTime) -> Option<Duration> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let (seconds, nanoseconds) = self.changed;
        let then = Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        now.checked_sub(then)
    }
}

/// Why a file can't be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    #[error("is a link to {}, where there is nothing", .0.display())]
    Dangling(PathBuf),
    #[error("is not a regular file and is not read")]
    NotRegular,
    #[error("has {0} bytes, more than the limit of {MAX_FILE_BYTES}")]
    TooLong(u64),
    #[error("can be written to by everybody and is not read: `chmod o-w` it")]
    Exposed,
    #[error("leads to the directory {} and is not read, since that {}", .0.display(), .1)]
    ExposedTarget(PathBuf, Exposure),
    #[error("is not UTF-8 text (byte {0})")]
    NotUtf8(usize),
    /// Somebody has the file open for writing.
    #[error("is still being written")]
    Busy,
}

/// Names of the manifests in the directory, sorted. Dot files are left out, and
/// with them the `..data` directories of mounted ConfigMaps; what editors leave
/// (`a.yaml~`, `.a.yaml.swp`, `#a.yaml#`) ends in another way.
pub(super) fn list(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        if is_manifest(&name) {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether a name is that of a manifest.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let known = [b".yaml".as_slice(), b".yml", b".json"];
    !name.starts_with(b".")
        && !name.starts_with(b"#")
        && known.iter().any(|extension| name.ends_with(extension))
}

/// The state of a file, following links; none if there is nothing.
pub(super) fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file. With `complete`, a file that somebody has open for writing is
/// [`ReadError::Busy`], and nobody can start to write while it is open here.
pub(super) fn open(path: &Path, complete: bool) -> Result<(Stamp, File), ReadError> {
    // Opening a device can have effects, so look first; and again at what was
    // opened, which may be another file by now.
    check_regular(&look(path)?)?;
    if fs::symlink_metadata(path)?.is_symlink() {
        check_target(path)?;
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    check_regular(&file.metadata()?)?;
    if complete && written_by_others(&file) {
        return Err(ReadError::Busy);
    }
    // The lease is on: what counts is the state from here on.
    let metadata = file.metadata()?;
    check_regular(&metadata)?;
    if is_exposed(path, metadata.mode())? {
        return Err(ReadError::Exposed);
    }
    Ok((Stamp::of(&metadata), file))
}

/// Reads all of a file.
pub(super) fn read(file: &File) -> Result<String, ReadError> {
    let len = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
    let read = file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(ReadError::TooLong(file.metadata()?.len()));
    }
    String::from_utf8(bytes).map_err(|error| ReadError::NotUtf8(error.utf8_error().valid_up_to()))
}

/// What is there, following links.
fn look(path: &Path) -> Result<Metadata, ReadError> {
    fs::metadata(path).map_err(|error| match fs::read_link(path) {
        Ok(target) if error.kind() == io::ErrorKind::NotFound => ReadError::Dangling(target),
        Ok(_) | Err(_) => error.into(),
    })
}

fn check_regular(metadata: &Metadata) -> Result<(), ReadError> {
    if !metadata.is_file() {
        return Err(ReadError::NotRegular);
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(ReadError::TooLong(metadata.len()));
    }
    Ok(())
}

/// A link is as safe as the directory that it leads to.
fn check_target(path: &Path) -> Result<(), ReadError> {
    let target = fs::canonicalize(path)?;
    let directory = target.parent().unwrap_or(&target);
    match exposure(directory)? {
        Some(exposure) => Err(ReadError::ExposedTarget(directory.to_path_buf(), exposure)),
        None => Ok(()),
    }
}

/// Takes a read lease, which the kernel grants only while nobody has the file
/// open for writing; until the file is closed, whoever opens it for writing
/// waits (fcntl(2), "Leases"). Where leases don't exist or are not ours to take,
/// the answer is no.
fn written_by_others(file: &File) -> bool {
    let fd = file.as_raw_fd();
    // A writer that waits is announced by a signal, by default SIGIO, which
    // would end the process. SIGURG is ignored unless asked for.
    // SAFETY: the descriptor is open and F_SETSIG takes an integer.
    let quiet = unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) } == 0;
    if !quiet {
        return false;
    }
    // SAFETY: the descriptor is open and F_SETLEASE takes an integer.
    let granted = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) } == 0;
    !granted && io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}

/// Whether the lease that [`open`] took is still whole: nobody waits to write.
pub(super) fn is_leased(file: &File) -> bool {
    // SAFETY: the descriptor is open and F_GETLEASE takes nothing.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLEASE) == libc::F_RDLCK }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::symlink;
    use std::thread;

    use super::*;

    fn read(path: &Path, complete: bool) -> Result<String, ReadError> {
        super::read(&open(path, complete)?.1)
    }

    #[test]
    fn leftovers_of_editors_and_dot_files_do_not_count() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "b.yaml",
            "a.yml",
            "c.json",
            "d.yaml~",
            ".e.yaml.swp",
            "#f.yaml#",
            ".#g.yaml",
            ".h.yaml",
            "i.txt",
            "j.yaml.bak",
            "4913",
            "k.YAML",
        ] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(list(dir.path()).unwrap(), ["a.yml", "b.yaml", "c.json"]);
    }

    #[test]
    fn only_regular_files_are_opened_and_links_lead_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("dir.yaml")).unwrap();
        nix::unistd::mkfifo(&path("fifo.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        symlink("/dev/zero", path("zero.yaml")).unwrap();
        for name in ["dir.yaml", "fifo.yaml", "zero.yaml"] {
            assert!(matches!(read(&path(name), true), Err(ReadError::NotRegular)), "{name}");
        }
        symlink("missing", path("dangling.yaml")).unwrap();
        assert!(matches!(read(&path("dangling.yaml"), true), Err(ReadError::Dangling(_))));
        fs::write(path("target"), "text").unwrap();
        symlink("target", path("link.yaml")).unwrap();
        assert_eq!(read(&path("link.yaml"), true).unwrap(), "text");
    }

    #[test]
    fn long_files_and_bytes_that_are_no_text_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(read(&path, true), Err(ReadError::TooLong(_))));
        fs::write(&path, b"ab\xff").unwrap();
        assert!(matches!(read(&path, true), Err(ReadError::NotUtf8(2))));
    }

    #[test]
    fn a_file_that_is_being_written_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"half").unwrap();
        assert!(matches!(read(&path, true), Err(ReadError::Busy)));
        assert_eq!(read(&path, false).unwrap(), "half");
        drop(writer);
        assert_eq!(read(&path, true).unwrap(), "half");
    }

    #[test]
    fn writers_that_come_while_a_lease_is_held_wait_and_nobody_dies() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        fs::write(&path, "old").unwrap();
        let leased = File::open(&path).unwrap();
        assert!(!is_leased(&leased));
        assert!(!written_by_others(&leased));
        assert!(is_leased(&leased));
        thread::scope(|scope| {
            let writer = scope.spawn(|| fs::write(&path, "new"));
            thread::sleep(Duration::from_millis(50));
            assert!(!writer.is_finished());
            drop(leased);
            writer.join().unwrap().unwrap();
        });
        assert_eq!(read(&path, true).unwrap(), "new");
    }
}
