//! What an operator should hear of at once, through aya-log: at most one line
//! a second and CPU, and never for a packet that goes its way.

use aya_ebpf::bindings::__sk_buff;
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

/// Source ports towards the backend of the packet at hand have run out. A
/// function of its own: what it needs of the stack is needed by nothing else.
#[inline(never)]
pub(crate) fn no_source_port<A: Family>(skb: *mut __sk_buff, now: u64) {
    let ctx = TcContext::new(skb);
    let (Some(packet), Some(last)) = (A::packet().get_ptr(0), LB_LAST_LOG.get_ptr_mut(0)) else {
        return;
    };
    // SAFETY: a valid element of this CPU's array, which only this run uses.
    let last = unsafe { &mut *last };
    if now.wrapping_sub(*last) < INTERVAL {
        return;
    }
    *last = now;
    // SAFETY: likewise.
    let Tuple { dst, dport, .. } = unsafe { &*packet }.packet.tuple;
    let port = dport.get();
    if A::FAMILY == 0 {
        let addr = u32::from_be(dst.to_words()[0]);
        warn!(ctx, "no free source port towards {:i}:{}: packet dropped", addr, port);
    } else {
        let [a, b, c, d] = dst.to_words().map(u32::to_ne_bytes);
        let addr = [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ];
        warn!(ctx, "no free source port towards [{:i}]:{}: packet dropped", addr, port);
    }
}
