//! Replies of a Service that are about to leave by the wrong uplink. The stack has
//! routed them by the backend's address, which policy routing may bind to an
//! interface of its own (the AWS VPC CNI does so with pods); they leave from the
//! address that the client has dialled, and other networks take that only from the
//! interface that has it.

use aya_ebpf::bindings::{__sk_buff, bpf_redir_neigh};
use aya_ebpf::helpers::bpf_redirect_neigh;
use lb_common::Tuple;
use lb_common::value::role;

use crate::ETHERNET;
use crate::family::{self, Family};
use crate::packet::Parsed;
use crate::rewrite::RewriteFamily;
use crate::route::{self, Way};
use crate::tc::NEXT;

/// Sends a packet that has its new headers where the node would send what is from
/// its new source, if that is another uplink; the result is an action. Rules and
/// connection tracking of the stack have seen it by then.
#[inline(never)]
pub(crate) fn leave<A: Family + RewriteFamily>(skb: *mut __sk_buff) -> i32 {
    let Some(Parsed { packet, to, .. }) = family::parsed::<A>() else { return NEXT };
    // SAFETY: the kernel keeps the context valid during the run.
    let ifindex = unsafe { (*skb).ifindex };
    // A later fragment was given addresses without a word of them.
    let Some([src, dst]) = A::load_addresses(skb, ETHERNET) else { return NEXT };
    let to = Tuple { src, dst, ..*to };
    let Some(way) = Way::find_hop(skb.cast(), to, packet.proto, ifindex) else { return NEXT };
    if way.ifindex() == ifindex {
        return NEXT;
    }
    let Some(interface) = route::interface(way.ifindex()) else { return NEXT };
    if interface.role != role::UPLINK || interface.mac == [0; 6] {
        return NEXT;
    }
    let mut hop = way.neighbour();
    let size = size_of::<bpf_redir_neigh>() as i32;
    // SAFETY: the parameters are valid, and the size is theirs.
    unsafe { bpf_redirect_neigh(way.ifindex(), &raw mut hop, size, 0) as i32 }
}
