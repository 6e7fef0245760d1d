//! Lengths that the verifier of older kernels can follow.

use core::arch::asm;

/// `len`, if it is from 2 to `max`, as the kernel's helpers want it.
///
/// Comparing is not enough. The compiler makes one comparison out of two, on a
/// copy of the number, and what older kernels learn of one they don't know of
/// the other. So it is kept from knowing that the numbers here are the same.
/// And they learn nothing from a comparison with 0, so 1 is too little, too.
#[inline(always)]
pub(crate) fn length(len: u32, max: u32) -> Option<u32> {
    let len = another(u64::from(len));
    if len > u64::from(max) {
        return None;
    }
    let len = another(len);
    if len < 2 {
        return None;
    }
    Some(another(len) as u32)
}

/// The same number, for all but the compiler.
#[inline(always)]
fn another(mut number: u64) -> u64 {
    // SAFETY: the instruction touches nothing else. (Without any, the kernel
    // refuses the debug information: two lines for one instruction.)
    unsafe {
        asm!("{number} = {number}", number = inout(reg) number, options(pure, nomem, nostack));
    }
    number
}
