//! The way of a packet: what the kernel's routing and neighbour tables say.

use core::ffi::c_void;

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::helpers::bpf_fib_lookup as fib_lookup;
use lb_common::{Interface, Tuple};

use crate::family::Family;
use crate::maps::{LB_INTERFACES, LB_ROUTE};
use crate::rewrite_frame::Macs;
use crate::words;

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
        /// `BPF_FIB_LKUP_RET_SUCCESS`.
        const SUCCESS: i64 = 0;
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
        (result == SUCCESS).then_some(Self(params))
    }

    /// The interface that it leaves by.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        self.0.ifindex
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
