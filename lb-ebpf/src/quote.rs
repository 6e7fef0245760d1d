//! Moves the packet that an ICMP error quotes, by way of a per-CPU buffer: it
//! is longer than the stack.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use lb_common::limits::{QUOTE_MAX_V4, QUOTE_MAX_V6};

use crate::bounds;
use crate::maps::LB_QUOTE;

const WORDS: usize = (QUOTE_MAX_V6 as usize).div_ceil(8);
const _: () = assert!(QUOTE_MAX_V4 <= QUOTE_MAX_V6 && WORDS < 256);

/// Takes `len` bytes at `offset` of the packet into the buffer; returns their
/// sum for the checksum (not folded).
#[inline(always)]
pub(crate) fn take(skb: *mut __sk_buff, offset: usize, len: u32) -> Option<u64> {
    let len = bounds::length(len, QUOTE_MAX_V6)?;
    let buffer = LB_QUOTE.get_ptr_mut(0)?;
    // SAFETY: this CPU's only user of the buffer is this run.
    let words = unsafe { &mut *buffer };
    let mut i = 0;
    while i < WORDS {
        words[i] = 0;
        i += 1;
    }
    // SAFETY: `len` is at most QUOTE_MAX_V6 and fits the buffer.
    if unsafe { bpf_skb_load_bytes(skb.cast(), offset as u32, buffer.cast(), len) } != 0 {
        return None;
    }
    let mut sum = 0_u64;
    let mut i = 0;
    while i < WORDS {
        sum += (words[i] & 0xffff_ffff) + (words[i] >> 32);
        i += 1;
    }
    Some(sum)
}

/// Puts the buffer's first `len` bytes at `offset` of the packet.
#[inline(always)]
pub(crate) fn put(skb: *mut __sk_buff, offset: usize, len: u32) -> Option<()> {
    let len = bounds::length(len, QUOTE_MAX_V6)?;
    let buffer = LB_QUOTE.get_ptr(0)?;
    // SAFETY: `len` is at most QUOTE_MAX_V6 and inside the buffer.
    let result = unsafe { bpf_skb_store_bytes(skb, offset as u32, buffer.cast(), len, 0) };
    (result == 0).then_some(())
}
