//! A file as memory. To map one costs half of what copying it does, but memory
//! whose file becomes shorter is gone: whoever touches it dies. So only a file
//! is mapped whose lease keeps writers out. This module holds all of that
//! unsafety.

use std::fs::File;
use std::ops::Deref;
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::slice;

use nix::sys::statfs;

use super::scan;

/// The bytes of a file that nobody can change meanwhile.
#[derive(Debug)]
pub(super) struct Mapped<'a> {
    base: NonNull<u8>,
    len: usize,
    /// With it, the lease would go.
    _file: &'a File,
}

impl<'a> Mapped<'a> {
    /// Maps the first `len` bytes, which the file has; none if its lease is not
    /// held, or does not hold those off who share the file by a network.
    pub(super) fn of(file: &'a File, len: u64) -> Option<Self> {
        let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
        if !scan::is_leased(file) || !is_local(file) {
            return None;
        }
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        let fd = file.as_raw_fd();
        // SAFETY: a fresh mapping at an address that the kernel picks touches no
        // memory of ours; the kernel checks descriptor and length.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, fd, 0) };
        let base = Some(base).filter(|base| *base != libc::MAP_FAILED)?;
        NonNull::new(base.cast()).map(|base| Self { base, len, _file: file })
    }
}

/// Of XFS, as include/uapi/linux/magic.h has it; not every C library does.
const XFS: statfs::FsType = statfs::FsType(0x5846_5342);

/// Whether the file's system knows of everybody who writes to it: not one that
/// other machines share, nor one that lies over another.
fn is_local(file: &File) -> bool {
    let local = [statfs::BTRFS_SUPER_MAGIC, statfs::EXT4_SUPER_MAGIC, statfs::TMPFS_MAGIC, XFS];
    statfs::fstatfs(file).is_ok_and(|system| local.contains(&system.filesystem_type()))
}

// SAFETY: the bytes are only read, and nobody changes them while the lease is
// held (see `deref`), so that any thread may look at them.
unsafe impl Sync for Mapped<'_> {}

impl Deref for Mapped<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `of` mapped `len` bytes at `base`, which stay so while `self`
        // lives. While the file is open its lease makes everybody wait who would
        // write to it or cut it, for `fs.lease-break-time` (45 s), which is far
        // longer than a mapping lives.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // SAFETY: `of` made exactly this mapping, and no reference into it
        // outlives `self`.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.len);
        }
    }
}
