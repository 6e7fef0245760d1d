//! Values in memory, word by word. What the compiler does by itself becomes a call
//! of a loop over bytes from two words on.

/// Copies a value whose alignment is that of a word.
///
/// # Safety
///
/// Both are valid, and do not overlap.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy>(from: *const T, to: *mut T) {
    const { assert!(align_of::<T>() == 8) };
    let (from, to) = (from.cast::<u64>(), to.cast::<u64>());
    let mut n = 0;
    while n < size_of::<T>() / 8 {
        // SAFETY: inside it, and aligned.
        let word = unsafe { from.add(n) };
        // SAFETY: likewise.
        let word = unsafe { word.read() };
        // SAFETY: likewise.
        let place = unsafe { to.add(n) };
        // Volatile, or it becomes a call again.
        // SAFETY: likewise.
        unsafe { place.write_volatile(word) };
        n += 1;
    }
}

/// Makes a value zero whose alignment is that of a word, and for which that is a
/// value.
///
/// # Safety
///
/// It is valid.
#[inline(always)]
pub(crate) unsafe fn clear<T: Copy>(to: *mut T) {
    const { assert!(align_of::<T>() == 8) };
    let to = to.cast::<u64>();
    let mut n = 0;
    while n < size_of::<T>() / 8 {
        // SAFETY: inside it, and aligned.
        let place = unsafe { to.add(n) };
        // SAFETY: likewise.
        unsafe { place.write_volatile(0) };
        n += 1;
    }
}
