//! Asks for sockets of this node.

use aya_ebpf::cty::c_void;
use aya_ebpf::helpers::{bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release};
use lb_common::Tuple;
use lb_common::proto::{TCP, UDP};

use crate::family::Family;

/// `BPF_F_CURRENT_NETNS`: the network namespace that the hook is in.
const CURRENT_NETNS: u64 = u64::MAX;

/// Whether a socket of this node would receive a packet with this tuple; `ctx`
/// is the context of the TC or XDP program that asks.
#[inline(always)]
pub(crate) fn has_socket<A: Family>(ctx: *mut c_void, tuple: &Tuple<A>, proto: u8) -> bool {
    state(ctx, tuple, proto).is_some()
}

/// Likewise, but one that only waits for connections does not count.
#[inline(always)]
pub(crate) fn has_connection<A: Family>(ctx: *mut c_void, tuple: &Tuple<A>, proto: u8) -> bool {
    /// `BPF_TCP_LISTEN`.
    const LISTEN: u32 = 10;
    state(ctx, tuple, proto).is_some_and(|state| state != LISTEN)
}

/// The state of the socket that would receive a packet.
#[inline(always)]
fn state<A: Family>(ctx: *mut c_void, tuple: &Tuple<A>, proto: u8) -> Option<u32> {
    let mut key = A::sock_tuple(tuple);
    let socket = if proto == TCP {
        // SAFETY: the context and the tuple are valid, and the length fits it.
        unsafe { bpf_sk_lookup_tcp(ctx, &raw mut key, A::SOCK_TUPLE_LEN, CURRENT_NETNS, 0) }
    } else if proto == UDP {
        // SAFETY: as above.
        unsafe { bpf_sk_lookup_udp(ctx, &raw mut key, A::SOCK_TUPLE_LEN, CURRENT_NETNS, 0) }
    } else {
        // The kernel looks up no others.
        return None;
    };
    if socket.is_null() {
        return None;
    }
    // SAFETY: the socket is valid until it is released.
    let state = unsafe { (*socket).state };
    // SAFETY: a socket that a lookup returned must be released once.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(state)
}
