//! A BPF array mapped into memory, as 64-bit words.
//!
//! The kernel gives array elements a stride of their size rounded up to eight
//! bytes and starts them at a page, so every element begins at a word. Words
//! are read and written atomically: the programs and other processes look at
//! the same memory at any time. This file holds all of that unsafety.

use super::error::MapsError;
use aya::maps::MapData;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

/// `BPF_F_MMAPABLE` of linux/bpf.h.
const BPF_F_MMAPABLE: u32 = 1 << 10;

/// The memory of an array map; unmapped when dropped. The memory lives as long
/// as the mapping, also after the map's descriptor is closed.
#[derive(Debug)]
pub(super) struct Region {
    base: NonNull<AtomicU64>,
    words: usize,
    bytes: usize,
    elements: u32,
}

// SAFETY: the memory is shared with the kernel anyway, and every access to it
// is atomic; nothing is tied to the thread that made the mapping.
unsafe impl Send for Region {}
// SAFETY: as above; writers need `&mut self`.
unsafe impl Sync for Region {}

impl Region {
    /// Maps `data`, whose values must have `value_size` bytes.
    pub(super) fn map(
        data: &MapData,
        name: &'static str,
        value_size: usize,
    ) -> Result<Self, MapsError> {
        let info = data.info().map_err(|source| MapsError::Info { map: name, source })?;
        if info.value_size() as usize != value_size || info.map_flags() & BPF_F_MMAPABLE == 0 {
            return Err(MapsError::Layout { map: name });
        }
        let elements = info.max_entries();
        let words = elements as usize * value_size.div_ceil(8);
        let bytes = words * 8;
        // SAFETY: a fresh mapping at an address that the kernel picks touches
        // no memory of ours; the kernel checks descriptor and length.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                data.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        let failed = base == libc::MAP_FAILED;
        match NonNull::new(base.cast::<AtomicU64>()) {
            Some(base) if !failed => Ok(Self { base, words, bytes, elements }),
            _ => {
                let source = std::io::Error::last_os_error();
                Err(MapsError::MapMemory { map: name, source })
            }
        }
    }

    /// Elements of the array.
    pub(super) const fn elements(&self) -> u32 {
        self.elements
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `map` got `words` words at the page-aligned `base`, which
        // stay mapped while `self` lives; atomics may be shared.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.words) }
    }

    /// The word at `index`, or `None` past the end. Sees what was written
    /// before the store that it reads.
    pub(super) fn load(&self, index: usize) -> Option<u64> {
        self.words().get(index).map(|word| word.load(Ordering::Acquire))
    }

    /// `N` words from `index` on.
    pub(super) fn load_words<const N: usize>(&self, index: usize) -> Option<[u64; N]> {
        let words = self.words().get(index..index.checked_add(N)?)?;
        let mut copy = [0; N];
        for (to, from) in copy.iter_mut().zip(words) {
            *to = from.load(Ordering::Acquire);
        }
        Some(copy)
    }

    /// Every word.
    pub(super) fn load_all(&self) -> Vec<u64> {
        self.words().iter().map(|word| word.load(Ordering::Acquire)).collect()
    }

    /// Stores one word after everything that was stored before. Says whether
    /// `index` is inside.
    #[must_use]
    pub(super) fn store(&mut self, index: usize, value: u64) -> bool {
        self.words().get(index).map(|word| word.store(value, Ordering::Release)).is_some()
    }

    /// Replaces one word; what it was before.
    pub(super) fn swap(&mut self, index: usize, value: u64) -> Option<u64> {
        self.words().get(index).map(|word| word.swap(value, Ordering::AcqRel))
    }

    /// Sets bits of one word; what it was before.
    pub(super) fn fetch_or(&mut self, index: usize, bits: u64) -> Option<u64> {
        self.words().get(index).map(|word| word.fetch_or(bits, Ordering::AcqRel))
    }

    /// Sets bits of one word that nobody clears.
    #[must_use]
    pub(super) fn set_bits(&mut self, index: usize, bits: u64) -> bool {
        self.fetch_or(index, bits).is_some()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `map` made exactly this mapping, and no reference into it
        // outlives `self`.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.bytes);
        }
    }
}

/// Two 32-bit fields that lie side by side in memory, as one word.
pub(super) fn pair(first: u32, second: u32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_ne_bytes());
    bytes[4..].copy_from_slice(&second.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The reverse of [`pair`].
pub(super) fn unpair(word: u64) -> (u32, u32) {
    let bytes = word.to_ne_bytes();
    let half = |at: usize| {
        let mut half = [0; 4];
        half.copy_from_slice(&bytes[at..at + 4]);
        u32::from_ne_bytes(half)
    };
    (half(0), half(4))
}
