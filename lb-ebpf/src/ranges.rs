//! The ranges that the cluster takes Services' addresses from: in them, what no
//! Service has is nowhere.

use aya_ebpf::maps::lpm_trie::Key;
use lb_common::range::{HEADS, Head, RangeHeads};
use lb_common::{PrefixKey, key};

use crate::family::Family;
use crate::maps::LB_RANGES;

/// Whether an address is in one of the ranges, and not spared: then it has a row
/// of its own.
#[inline(always)]
pub(crate) fn hold<A: Family>(addr: A) -> bool {
    may_hold(addr) && {
        let owner = key::SERVICE_CIDRS;
        let key = Key::new((size_of::<PrefixKey<A>>() * 8) as u32, PrefixKey { owner, addr });
        A::prefixes().get(&key).is_some_and(|len| *len < size_of::<A>() as u32 * 8)
    }
}

/// The cheap test; true means "maybe".
#[inline(always)]
fn may_hold<A: Family>(addr: A) -> bool {
    let Some(ranges) = LB_RANGES.get_ptr(A::FAMILY as u32) else { return false };
    // SAFETY: a valid element; only the place is computed here.
    let count = unsafe { &raw const (*ranges).count };
    // SAFETY: inside the element. The agent changes it by one aligned store,
    // and the volatile read is one load.
    let count = unsafe { count.read_volatile() };
    if count == 0 {
        return false;
    }
    if count > HEADS as u64 {
        return true;
    }
    let mut n = 0;
    while n < HEADS {
        if (n as u64) < count && head(ranges, n).matches(addr.head()) {
            return true;
        }
        n += 1;
    }
    false
}

/// One of the heads; `n` is below [`HEADS`].
#[inline(always)]
fn head(ranges: *const RangeHeads, n: usize) -> Head {
    // SAFETY: a valid element; only the place is computed here.
    let heads = unsafe { &raw const (*ranges).heads }.cast::<Head>();
    // SAFETY: the caller keeps `n` below the number of heads.
    let head = unsafe { heads.add(n) };
    // SAFETY: inside the element. While the agent writes heads, the count says
    // that they don't matter.
    unsafe { head.read_volatile() }
}
