//! The way of a packet: what the kernel's routing and neighbour tables say.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use lb_common::{Interface, Tuple, V4};

use crate::family::Family;
use crate::maps::{LB_INTERFACES, LB_ROUTE};
use crate::rewrite_frame::Macs;
use crate::words;

/// `BPF_FIB_LKUP_RET_SUCCESS`.
const SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the next hop is there (since Linux 5.11), but not its
/// link-layer address.
const NO_NEIGHBOUR: i64 = 7;

/// The next hop of a packet, where the kernel wrote it.
pub(crate) struct Way(&'static bpf_fib_lookup);

impl Way {
    /// Asks for the way of a packet that came in by `ifindex`; `len` is its length
    /// from the IP header on, or 0 where the kernel knows it (a socket buffer, which
    /// may be an offloaded one). `None` if the stack must see to it: no route, no
    /// neighbour yet, too big, a local destination, forwarding switched off.
    #[inline(always)]
    pub(crate) fn find<A: Family>(
        ctx: *mut c_void,
        to: Tuple<A>,
        proto: u8,
        len: u16,
        ifindex: u32,
    ) -> Option<Self> {
        let (way, result) = Self::ask(ctx, to, proto, len, ifindex)?;
        (result == SUCCESS).then_some(way)
    }

    /// Likewise, also where the kernel has yet to find the neighbour's address:
    /// [`Way::macs`] are not to be used.
    #[inline(always)]
    pub(crate) fn find_hop<A: Family>(
        ctx: *mut c_void,
        to: Tuple<A>,
        proto: u8,
        ifindex: u32,
    ) -> Option<Self> {
        let (way, result) = Self::ask(ctx, to, proto, 0, ifindex)?;
        (result == SUCCESS || result == NO_NEIGHBOUR).then_some(way)
    }

    #[inline(always)]
    fn ask<A: Family>(
        ctx: *mut c_void,
        to: Tuple<A>,
        proto: u8,
        len: u16,
        ifindex: u32,
    ) -> Option<(Self, i64)> {
        let room = LB_ROUTE.get_ptr_mut(0)?;
        // The kernel wants unused parts zero.
        // SAFETY: this CPU's only user of the room is this run.
        unsafe { words::clear(room) };
        let room: *mut bpf_fib_lookup = room.cast();
        // SAFETY: as above; a C structure of integers, as long as the room.
        let params = unsafe { &mut *room };
        params.family = A::AF;
        params.l4_protocol = proto;
        params.__bindgen_anon_1.tot_len = len;
        params.ifindex = ifindex;
        A::set_fib(params, to.src, to.dst);
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: context and parameters are valid, and the size is theirs.
        let result = unsafe { fib_lookup(ctx, room, size, 0) };
        Some((Self(params), result))
    }

    /// The one that was found last in this run.
    #[inline(always)]
    pub(crate) fn last() -> Option<Self> {
        let room: *mut bpf_fib_lookup = LB_ROUTE.get_ptr_mut(0)?.cast();
        // SAFETY: this CPU's only user of the room is this run.
        Some(Self(unsafe { &mut *room }))
    }

    /// The interface that it leaves by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.0.ifindex
    }

    /// The next hop there.
    #[inline(always)]
    pub(crate) fn neighbour(&self) -> bpf_redir_neigh {
        let mut hop = bpf_redir_neigh {
            nh_family: u32::from(self.0.family),
            __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 { ipv6_nh: [0; 4] },
        };
        // The kernel has put it in the place of the destination: of IPv6 perhaps for a
        // packet of IPv4.
        if u32::from(V4::AF) == hop.nh_family {
            // SAFETY: the member of this family.
            hop.__bindgen_anon_1.ipv4_nh = unsafe { self.0.__bindgen_anon_4.ipv4_dst };
        } else {
            // SAFETY: likewise.
            hop.__bindgen_anon_1.ipv6_nh = unsafe { self.0.__bindgen_anon_4.ipv6_dst };
        }
        hop
    }

    /// The link-layer addresses there.
    #[inline(always)]
    pub(crate) fn macs(&self) -> Macs {
        Macs { dst: self.0.dmac, src: self.0.smac }
    }
}

/// What the agent says of an interface.
#[inline(always)]
pub(crate) fn interface(ifindex: u32) -> Option<Interface> {
    // SAFETY: the row is copied at once; the agent replaces rows whole.
    unsafe { LB_INTERFACES.get(&ifindex) }.copied()
}
