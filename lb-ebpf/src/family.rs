//! Binds an address family to its maps and to the kernel's numbers for it.

use aya_ebpf::bindings::{bpf_fib_lookup, bpf_sock_tuple};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use lb_common::{
    Address, Affinity, AffinityKey, BePort, Flow, FlowKey, Frontend, FrontendKey, Interface,
    PrefixKey, Tuple, V4, V6, Verdict,
};

use crate::globals;
use crate::maps::{
    Ask, LB_AFFINITY_V4, LB_AFFINITY_V6, LB_ASK_V4, LB_ASK_V6, LB_FLOWS_V4, LB_FLOWS_V6,
    LB_FRONTENDS_V4, LB_FRONTENDS_V6, LB_PACKET_V4, LB_PACKET_V6, LB_PREFIXES_V4, LB_PREFIXES_V6,
    LB_SCRATCH_V4, LB_SCRATCH_V6, LB_YOUNG_V4, LB_YOUNG_V6, Scratch,
};
use crate::packet::{self, Packet, Parsed, Window};

/// An address family, with the maps that hold its rows.
pub(crate) trait Family: Address + 'static {
    /// The kernel's `AF_` number.
    const AF: u8;
    /// Length of a `bpf_sock_tuple` of this family.
    const SOCK_TUPLE_LEN: u32;

    /// What clients dial.
    fn frontends() -> &'static HashMap<FrontendKey<Self>, Frontend>;
    /// Clients with session affinity.
    fn affinity() -> &'static LruHashMap<AffinityKey<Self>, Affinity>;
    /// Source ranges, where local pods are, and ranges of Services' addresses.
    fn prefixes() -> &'static LpmTrie<PrefixKey<Self>, u32>;
    /// Room for keys of lookups that only new flows need.
    fn ask() -> &'static PerCpuArray<Ask<Self>>;
    /// Flows.
    fn flows() -> &'static LruHashMap<FlowKey<Self>, Flow<Self>>;
    /// Flows that have not proven themselves.
    fn young() -> &'static Array<FlowKey<Self>>;
    /// How many those are at most, less one.
    fn young_mask() -> u32;
    /// Room for a flow row and a key.
    fn scratch() -> &'static PerCpuArray<Scratch<Self>>;
    /// The parser of this family, for an IP header at `l3`.
    fn parse(window: Window, l3: usize) -> Option<Packet<Self>>;
    /// Room for what it finds.
    fn packet() -> &'static PerCpuArray<Parsed<Self>>;
    /// The address that an interface offers for source translation.
    fn snat_of(interface: &Interface) -> Self;
    /// A tuple as the socket lookup helpers take it.
    fn sock_tuple(tuple: &Tuple<Self>) -> bpf_sock_tuple;
    /// Puts source and destination into a route lookup.
    fn set_fib(params: &mut bpf_fib_lookup, src: Self, dst: Self);
}

/// A `bpf_sock_tuple` is a union without a constructor: all bytes zero first.
#[inline(always)]
fn zeroed<T>() -> T {
    // SAFETY: only called for the kernel's plain C structures of integers.
    unsafe { core::mem::zeroed() }
}

impl Family for V4 {
    const AF: u8 = 2;
    const SOCK_TUPLE_LEN: u32 = 12;

    #[inline(always)]
    fn frontends() -> &'static HashMap<FrontendKey<Self>, Frontend> {
        &LB_FRONTENDS_V4
    }

    #[inline(always)]
    fn affinity() -> &'static LruHashMap<AffinityKey<Self>, Affinity> {
        &LB_AFFINITY_V4
    }

    #[inline(always)]
    fn prefixes() -> &'static LpmTrie<PrefixKey<Self>, u32> {
        &LB_PREFIXES_V4
    }

    #[inline(always)]
    fn ask() -> &'static PerCpuArray<Ask<Self>> {
        &LB_ASK_V4
    }

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey<Self>, Flow<Self>> {
        &LB_FLOWS_V4
    }

    #[inline(always)]
    fn young() -> &'static Array<FlowKey<Self>> {
        &LB_YOUNG_V4
    }

    #[inline(always)]
    fn young_mask() -> u32 {
        globals::young_mask_v4()
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<Self>> {
        &LB_SCRATCH_V4
    }

    #[inline(always)]
    fn parse(window: Window, l3: usize) -> Option<Packet<Self>> {
        packet::parse_v4(window, l3)
    }

    #[inline(always)]
    fn packet() -> &'static PerCpuArray<Parsed<Self>> {
        &LB_PACKET_V4
    }

    #[inline(always)]
    fn snat_of(interface: &Interface) -> Self {
        Self(interface.snat_v4)
    }

    #[inline(always)]
    fn sock_tuple(tuple: &Tuple<Self>) -> bpf_sock_tuple {
        let mut sock: bpf_sock_tuple = zeroed();
        sock.__bindgen_anon_1.ipv4.saddr = tuple.src.0;
        sock.__bindgen_anon_1.ipv4.daddr = tuple.dst.0;
        sock.__bindgen_anon_1.ipv4.sport = tuple.sport.0;
        sock.__bindgen_anon_1.ipv4.dport = tuple.dport.0;
        sock
    }

    #[inline(always)]
    fn set_fib(params: &mut bpf_fib_lookup, src: Self, dst: Self) {
        params.__bindgen_anon_3.ipv4_src = src.0;
        params.__bindgen_anon_4.ipv4_dst = dst.0;
    }
}

impl Family for V6 {
    const AF: u8 = 10;
    const SOCK_TUPLE_LEN: u32 = 36;

    #[inline(always)]
    fn frontends() -> &'static HashMap<FrontendKey<Self>, Frontend> {
        &LB_FRONTENDS_V6
    }

    #[inline(always)]
    fn affinity() -> &'static LruHashMap<AffinityKey<Self>, Affinity> {
        &LB_AFFINITY_V6
    }

    #[inline(always)]
    fn prefixes() -> &'static LpmTrie<PrefixKey<Self>, u32> {
        &LB_PREFIXES_V6
    }

    #[inline(always)]
    fn ask() -> &'static PerCpuArray<Ask<Self>> {
        &LB_ASK_V6
    }

    #[inline(always)]
    fn flows() -> &'static LruHashMap<FlowKey<Self>, Flow<Self>> {
        &LB_FLOWS_V6
    }

    #[inline(always)]
    fn young() -> &'static Array<FlowKey<Self>> {
        &LB_YOUNG_V6
    }

    #[inline(always)]
    fn young_mask() -> u32 {
        globals::young_mask_v6()
    }

    #[inline(always)]
    fn scratch() -> &'static PerCpuArray<Scratch<Self>> {
        &LB_SCRATCH_V6
    }

    #[inline(always)]
    fn parse(window: Window, l3: usize) -> Option<Packet<Self>> {
        packet::parse_v6(window, l3)
    }

    #[inline(always)]
    fn packet() -> &'static PerCpuArray<Parsed<Self>> {
        &LB_PACKET_V6
    }

    #[inline(always)]
    fn snat_of(interface: &Interface) -> Self {
        Self(interface.snat_v6)
    }

    #[inline(always)]
    fn sock_tuple(tuple: &Tuple<Self>) -> bpf_sock_tuple {
        let mut sock: bpf_sock_tuple = zeroed();
        sock.__bindgen_anon_1.ipv6.saddr = tuple.src.0;
        sock.__bindgen_anon_1.ipv6.daddr = tuple.dst.0;
        sock.__bindgen_anon_1.ipv6.sport = tuple.sport.0;
        sock.__bindgen_anon_1.ipv6.dport = tuple.dport.0;
        sock
    }

    #[inline(always)]
    fn set_fib(params: &mut bpf_fib_lookup, src: Self, dst: Self) {
        params.__bindgen_anon_3.ipv6_src = src.0;
        params.__bindgen_anon_4.ipv6_dst = dst.0;
    }
}

/// The packet in the window, if it is one of this family.
#[inline(always)]
pub(crate) fn parse<A: Family>(window: Window, l3: usize) -> Option<&'static mut Parsed<A>> {
    let packet = A::parse(window, l3)?;
    Some(packet::forget_the_way(packet, A::packet().get_ptr_mut(0)?))
}

/// What the parser found in this run.
#[inline(always)]
pub(crate) fn parsed<A: Family>() -> Option<&'static mut Parsed<A>> {
    let parsed = A::packet().get_ptr_mut(0)?;
    // SAFETY: a valid element that no other run has.
    Some(unsafe { &mut *parsed })
}

/// Notes a verdict in memory, so that the verifier does not follow what comes for
/// each verdict separately.
#[inline(always)]
pub(crate) fn note_verdict<A: Family>(verdict: Verdict) -> Option<()> {
    let room = A::ask().get_ptr_mut(0)?;
    // SAFETY: a valid element; only the place is computed here.
    let room = unsafe { &raw mut (*room).verdict };
    // SAFETY: inside the element, whose only user on this CPU is this run.
    unsafe { room.write_volatile(verdict) };
    Some(())
}

/// The verdict that was noted last in this run.
#[inline(always)]
pub(crate) fn noted_verdict<A: Family>() -> Option<Verdict> {
    let room = A::ask().get_ptr_mut(0)?;
    // SAFETY: a valid element; only the place is computed here.
    let room = unsafe { &raw const (*room).verdict };
    // SAFETY: inside the element; a run reads only what it has noted.
    Some(unsafe { room.read_volatile() })
}

/// A port of [`Tuple`], as a number, widened for arithmetic.
#[inline(always)]
pub(crate) fn port_number(port: BePort) -> u32 {
    u32::from(port.get())
}
