//! How many refusals and pings are answered: a flood at a closed port must not
//! become a flood of answers, perhaps to an address that never asked. What is
//! beyond the limit is dropped; a refusal counts as refused all the same.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// One answer a millisecond and CPU on average,
const INTERVAL: u64 = 1_000_000;
/// and so many at once.
const BURST: u64 = 1_000;

/// What is answered: each has a limit of its own.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Answer {
    /// A reset or an ICMP error.
    Refusal = 0,
    /// The answer to a ping.
    Echo = 1,
}

/// Answers that this CPU may still give, and when that was worked out.
#[repr(C)]
struct Bucket {
    tokens: u64,
    filled: u64,
}

#[map]
static LB_ANSWERS: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(2, 0);

/// Takes one answer from this CPU's bucket; `false` if it is empty.
#[inline(always)]
pub(crate) fn allows(answer: Answer, now: u64) -> bool {
    let Some(bucket) = LB_ANSWERS.get_ptr_mut(answer as u32) else { return false };
    // SAFETY: a valid element of this CPU's array; nothing else borrows it.
    let bucket = unsafe { &mut *bucket };
    let earned = now.wrapping_sub(bucket.filled) / INTERVAL;
    if earned > 0 {
        let tokens = bucket.tokens.wrapping_add(earned);
        bucket.tokens = if tokens < BURST { tokens } else { BURST };
        bucket.filled = now;
    }
    if bucket.tokens == 0 {
        return false;
    }
    bucket.tokens -= 1;
    true
}
