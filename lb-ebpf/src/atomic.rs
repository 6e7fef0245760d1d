//! Atomic changes of map memory that several CPUs write at once. `core` has
//! none for this target; the instructions are there since Linux 5.12.

use core::arch::asm;

/// Adds to a word. What it was before is not told.
///
/// # Safety
///
/// `word` is inside a map's value, at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {value}", word = in(reg) word, value = in(reg) value);
    }
}

/// Adds one to a word and returns what it was before.
///
/// # Safety
///
/// `word` is inside a map's value, at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn next(word: *mut u64) -> u64 {
    let mut value = 1_u64;
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_add((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) value,
        );
    }
    value
}

/// Sets bits of a word and returns what it was before.
///
/// # Safety
///
/// `word` is inside a map's value, at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn set(word: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_or((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) value,
        );
    }
    value
}

/// Clears bits of a word. What was written before is seen by whoever then
/// sets them.
///
/// # Safety
///
/// `word` is inside a map's value, at a multiple of eight bytes.
#[inline(always)]
pub(crate) unsafe fn clear(word: *mut u64, bits: u64) {
    // Without the fetch the instruction would put nothing in order.
    // SAFETY: the caller's promise; the instruction touches nothing else.
    unsafe {
        asm!(
            "{value} = atomic_fetch_and((u64 *)({word} + 0), {value})",
            word = in(reg) word,
            value = inout(reg) !bits => _,
        );
    }
}
