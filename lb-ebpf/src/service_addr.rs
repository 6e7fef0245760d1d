//! Addresses that are Services' as a whole, with every port and protocol, and
//! those that only Services could have.

use lb_common::filter::{NODE_ADDR, SERVICE_ADDR};
use lb_common::value::frontend_kind;
use lb_common::{FrontendKey, Verdict};

use crate::family::Family;
use crate::{filter, ranges};

/// The kind of an address's own row (`flags`: what the filter says of the
/// address); `None` if it is no Service's.
#[inline(always)]
pub(crate) fn kind<A: Family>(addr: A, flags: u8) -> Option<u8> {
    if flags & SERVICE_ADDR == 0 {
        return None;
    }
    // SAFETY: one byte of a row that the agent replaces whole.
    unsafe { A::frontends().get(&FrontendKey::address(addr)) }.map(|row| row.kind)
}

/// Whether the address is a ClusterIP: nobody else can have it.
#[inline(always)]
pub(crate) fn is_cluster_ip<A: Family>(addr: A, flags: u8) -> bool {
    kind(addr, flags) == Some(frontend_kind::ADDRESS)
}

/// The verdict on a packet that nothing is known of. Where only Services have
/// addresses, it would follow the default route to who knows where. An address
/// of this node is somebody's, whatever the ranges say.
#[inline(always)]
pub(crate) fn stranger<A: Family>(dst: A, flags: u8) -> Verdict {
    if ranges::hold(dst) && flags & NODE_ADDR == 0 && kind(dst, flags).is_none() {
        Verdict::DroppedUnallocated
    } else {
        Verdict::Passed
    }
}

/// The verdict on a packet that leaves for `dst` as it came. A ClusterIP is
/// nowhere, and routers would send the packet round until its hops are used
/// up; so would the one that sent us a packet for another address of a Service
/// (`turns_back`), if we sent it there again.
#[inline(always)]
pub(crate) fn leaving<A: Family>(dst: A, turns_back: bool) -> Verdict {
    let flags = filter::address(dst);
    match kind(dst, flags) {
        Some(kind) if kind == frontend_kind::ADDRESS || turns_back => Verdict::DroppedLoop,
        Some(_) => Verdict::Passed,
        None => stranger(dst, flags),
    }
}
