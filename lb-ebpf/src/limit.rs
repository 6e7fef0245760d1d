//! How many refusals are answered: a flood at a closed port must not become a
//! flood of answers, perhaps to an address that never asked. What is beyond
//! the limit is dropped, and counts as refused all the same.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;

/// One answer a millisecond and CPU on average,
const INTERVAL: u64 = 1_000_000;
/// and so many at once.
const BURST: u64 = 1_000;

/// Answers that this CPU may still give, and when that was worked out.
#[repr(C)]
struct Bucket {
    tokens: u64,
    filled: u64,
}

#[map]
static LB_REFUSALS: PerCpuArray<Bucket> = PerCpuArray::with_max_entries(1, 0);

/// Takes one answer from this CPU's bucket; `false` if it is empty.
#[inline(always)]
pub(crate) fn allows_answer(now: u64) -> bool {
    let Some(bucket) = LB_REFUSALS.get_ptr_mut(0) else { return false };
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
