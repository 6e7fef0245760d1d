//! Past the stack, where the agent was told so: a packet of an answered flow is put
//! into the namespace of the pod that it is for, as if the pod's own end of its
//! veth had received it, or is given to the uplink's neighbour. Routing and
//! netfilter are not passed, nor the egress programs of a pod's interface; those of
//! an uplink are. The first packet of a flow passes them all, and so does the first
//! answer; what they don't let through keeps the flow from this.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, bpf_redir_neigh};
use aya_ebpf::helpers::{bpf_redirect_neigh, bpf_redirect_peer};
use lb_common::flow::flag;
use lb_common::names::option;
use lb_common::tcp::state;
use lb_common::value::role;
use lb_common::{Flow, Tuple, V4, V6};

use crate::ETHERNET;
use crate::family::Family;
use crate::globals;
use crate::packet::{Packet, V4_CHECKSUM, V4_TTL, V6_HOP_LIMIT};
use crate::refuse::load;
use crate::rewrite::store;
use crate::route::{self, Way};

/// Whether it is asked for: a constant, so that all of this is not there if not.
#[inline(always)]
pub(crate) fn is_wanted() -> bool {
    globals::option(option::SKIP_STACK)
}

/// `pkt_type` of a frame for the interface itself (linux/if_packet.h).
const PACKET_HOST: u32 = 0;

/// Whether packets of this flow may: the stack has let a packet of each side through.
#[inline(always)]
pub(crate) fn may<A: Family>(row: &Flow<A>) -> bool {
    row.flags & flag::DIRECT == 0 && row.tcp & state::REPLIED != 0
}

/// Whether the edge of a backend on this node has nothing to translate, and may be
/// passed by.
#[inline(always)]
pub(crate) fn may_into_pod<A: Family>(row: &Flow<A>) -> bool {
    row.flags & flag::MASQUERADE == 0 && !row.has_snat()
}

/// How the IP header of a family counts hops.
pub(crate) trait Hops: Family {
    /// Hop limit and the byte behind it.
    fn hops(skb: *mut __sk_buff) -> Option<[u8; 2]>;
    /// Puts in one hop less than `hops`.
    fn hop(skb: *mut __sk_buff, hops: [u8; 2]) -> Option<()>;
}

impl Hops for V4 {
    #[inline(always)]
    fn hops(skb: *mut __sk_buff) -> Option<[u8; 2]> {
        load(skb, ETHERNET + V4_TTL)
    }

    #[inline(always)]
    fn hop(skb: *mut __sk_buff, hops: [u8; 2]) -> Option<()> {
        use aya_ebpf::helpers::bpf_l3_csum_replace;
        // Time to live and protocol share a word of the checksum.
        let less = [hops[0].wrapping_sub(1), hops[1]];
        let [from, to] = [hops, less].map(|word| u64::from(u16::from_ne_bytes(word)));
        // SAFETY: the helper checks the offset.
        if unsafe { bpf_l3_csum_replace(skb, (ETHERNET + V4_CHECKSUM) as u32, from, to, 2) } != 0 {
            return None;
        }
        store(skb, ETHERNET + V4_TTL, &less[0], 0)
    }
}

impl Hops for V6 {
    #[inline(always)]
    fn hops(skb: *mut __sk_buff) -> Option<[u8; 2]> {
        load(skb, ETHERNET + V6_HOP_LIMIT)
    }

    #[inline(always)]
    fn hop(skb: *mut __sk_buff, hops: [u8; 2]) -> Option<()> {
        use aya_ebpf::bindings::BPF_F_RECOMPUTE_CSUM;
        // What a device has summed over the packet changes with it.
        store(skb, ETHERNET + V6_HOP_LIMIT, &hops[0].wrapping_sub(1), BPF_F_RECOMPUTE_CSUM)
    }
}

/// Whether a packet has a way past the stack, which one, and its hops, in a word: as an
/// `Option` of a structure it would leave parts of the stack unset that are read all
/// the same, which older verifiers refuse. Where it leads is in memory ([`Way::last`]).
#[derive(Clone, Copy)]
pub(crate) struct Past(u32);

/// There is a way.
const THERE: u8 = 1 << 0;
/// It leads into a pod's namespace; else it leads out by an uplink.
const INTO_POD: u8 = 1 << 1;

impl Past {
    /// It must go through the stack.
    pub(crate) const NONE: Self = Self(0);

    /// The way of a packet that will have the tuple `to`; [`Past::NONE`] if it must go
    /// through the stack: it is for the node itself, for a pod behind a bridge, its
    /// hops are used up.
    #[inline(always)]
    pub(crate) fn find<A: Hops>(skb: *mut __sk_buff, packet: &Packet<A>, to: &Tuple<A>) -> Self {
        // SAFETY: the kernel keeps the context valid during the run.
        let ifindex = unsafe { (*skb).ifindex };
        // What a port of a bridge gets may be for others behind the bridge.
        // SAFETY: as above.
        if unsafe { (*skb).pkt_type } != PACKET_HOST {
            return Self::NONE;
        }
        let Some(way) = Way::find(skb.cast(), *to, packet.proto, 0, ifindex) else {
            return Self::NONE;
        };
        let Some(interface) = route::interface(way.ifindex()) else { return Self::NONE };
        let into_pod = interface.peer != 0;
        let outward = interface.role == role::UPLINK && interface.mac != [0; 6];
        if way.ifindex() == ifindex || !(into_pod || outward) {
            return Self::NONE;
        }
        let Some([hops, next]) = A::hops(skb) else { return Self::NONE };
        if hops <= 1 {
            return Self::NONE;
        }
        let kind = if into_pod { THERE | INTO_POD } else { THERE };
        Self(u32::from_ne_bytes([kind, hops, next, 0]))
    }

    #[inline(always)]
    fn kind(self) -> u8 {
        self.0.to_ne_bytes()[0]
    }

    /// Whether there is one.
    #[inline(always)]
    pub(crate) fn is_there(self) -> bool {
        self.kind() & THERE != 0
    }

    /// Whether it leads into a pod's namespace.
    #[inline(always)]
    pub(crate) fn is_into_pod(self) -> bool {
        self.kind() & INTO_POD != 0
    }

    /// Sends the packet this way; the result is an action.
    #[inline(always)]
    pub(crate) fn take<A: Hops>(self, skb: *mut __sk_buff) -> i32 {
        let [_, hops, next, _] = self.0.to_ne_bytes();
        let Some(way) = Way::last() else { return TC_ACT_SHOT };
        if A::hop(skb, [hops, next]).is_none() {
            return TC_ACT_SHOT;
        }
        if !self.is_into_pod() {
            let mut hop = way.neighbour();
            let size = size_of::<bpf_redir_neigh>() as i32;
            // SAFETY: the parameters are valid, and the size is theirs.
            return unsafe { bpf_redirect_neigh(way.ifindex(), &raw mut hop, size, 0) as i32 };
        }
        if store(skb, 0, &way.macs(), 0).is_none() {
            return TC_ACT_SHOT;
        }
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_redirect_peer(way.ifindex(), 0) as i32 }
    }
}
