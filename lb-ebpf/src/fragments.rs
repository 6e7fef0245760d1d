//! Later fragments: they have no ports, so they follow what was decided for
//! the first fragment of their datagram.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use lb_common::csum::{address_diff, fold};
use lb_common::{Address, Hook, Tuple, V4, V6, Verdict};

use crate::family::Family;
use crate::packet::Packet;
use crate::rewrite::RewriteFamily;

/// Datagrams in fragments that are under way at once.
const MAX_FRAGMENTED: u32 = 8_192;

/// A datagram, at the hook where its first fragment was met (RFC 791 section
/// 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct DatagramKey<A> {
    src: A,
    dst: A,
    id: u32,
    proto: u8,
    hook: u8,
    pad: [u8; 2],
}

/// What the first fragment's addresses became, and under which verdict.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Addresses<A> {
    src: A,
    dst: A,
    verdict: Verdict,
}

#[map]
static LB_FRAGMENTS_V4: LruHashMap<DatagramKey<V4>, Addresses<V4>> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);
#[map]
static LB_FRAGMENTS_V6: LruHashMap<DatagramKey<V6>, Addresses<V6>> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// A family's map of fragmented datagrams.
pub(crate) trait FragmentFamily: Family {
    /// The map.
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Addresses<Self>>;
}

impl FragmentFamily for V4 {
    #[inline(always)]
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Addresses<Self>> {
        &LB_FRAGMENTS_V4
    }
}

impl FragmentFamily for V6 {
    #[inline(always)]
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Addresses<Self>> {
        &LB_FRAGMENTS_V6
    }
}

#[inline(always)]
fn key<A: Address>(packet: &Packet<A>, hook: Hook) -> DatagramKey<A> {
    DatagramKey {
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        id: packet.id,
        proto: packet.proto,
        hook: hook as u8,
        pad: [0; 2],
    }
}

/// Remembers what the first fragment became.
#[inline(always)]
pub(crate) fn remember<A: FragmentFamily>(
    packet: &Packet<A>,
    to: &Tuple<A>,
    verdict: Verdict,
    hook: Hook,
) {
    let addresses = Addresses { src: to.src, dst: to.dst, verdict };
    // If this fails the later fragments are dropped, and counted then.
    let _ = A::fragmented().insert(&key(packet, hook), &addresses, 0);
}

/// Gives a later fragment the addresses of the first; `None` if that was not
/// seen here, or is not ours.
#[inline(always)]
pub(crate) fn later<A: FragmentFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    l3: usize,
    hook: Hook,
) -> Option<Verdict> {
    // SAFETY: copied at once.
    let to = unsafe { A::fragmented().get(&key(packet, hook)) }.copied()?;
    let from = &packet.tuple;
    let diff = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
    let done = A::store_addresses(skb, l3, to.src, to.dst, u64::from(fold(diff)));
    Some(if done.is_some() { to.verdict } else { Verdict::DroppedRewrite })
}
