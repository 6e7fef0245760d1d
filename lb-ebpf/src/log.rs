//! What an operator should hear of at once, through aya-log: at most one line
//! a second and CPU, and never for a packet that goes its way.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::programs::TcContext;
use aya_log_ebpf::warn;
use lb_common::Tuple;

use crate::family::Family;

const INTERVAL: u64 = 1_000_000_000;

/// When this CPU last wrote a line.
#[map]
static LB_LAST_LOG: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Source ports towards a backend have run out; `to` is what the packet says.
#[inline(always)]
pub(crate) fn no_source_port<A: Family>(ctx: &TcContext, to: &Tuple<A>, now: u64) {
    let Some(last) = LB_LAST_LOG.get_ptr_mut(0) else { return };
    // SAFETY: a valid element of this CPU's array.
    if now.wrapping_sub(unsafe { *last }) < INTERVAL {
        return;
    }
    // SAFETY: as above.
    unsafe { *last = now };
    let port = to.dport.get();
    if A::FAMILY == 0 {
        let addr = u32::from_be(to.dst.to_words()[0]);
        warn!(ctx, "no free source port towards {:i}:{}: packet dropped", addr, port);
    } else {
        let [a, b, c, d] = to.dst.to_words().map(u32::to_ne_bytes);
        let addr = [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ];
        warn!(ctx, "no free source port towards [{:i}]:{}: packet dropped", addr, port);
    }
}
