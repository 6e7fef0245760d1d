//! What is known of datagrams in fragments: what became of the first fragment,
//! or that others wait for it.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::LruHashMap;
use lb_common::csum::{address_diff, fold};
use lb_common::fragment::is_late;
use lb_common::{Hook, Tuple, V4, V6, Verdict};

use crate::family::Family;
use crate::packet::Packet;
use crate::rewrite::RewriteFamily;

/// Datagrams in fragments that are under way at once.
const MAX_FRAGMENTED: u32 = 8_192;

/// A datagram, at the hook where its fragments are met (RFC 791 section 3.2,
/// RFC 8200 section 4.5).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct DatagramKey<A> {
    pub(crate) src: A,
    pub(crate) dst: A,
    pub(crate) id: u32,
    pub(crate) proto: u8,
    pub(crate) hook: u8,
    pad: [u8; 2],
}

/// What became of a datagram's first fragment: its addresses, and its verdict.
/// [`Verdict::HeldFragment`] while others wait for it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Datagram<A> {
    src: A,
    dst: A,
    verdict: Verdict,
    pad: u32,
    /// When its first fragment, or the first that waits, came.
    began: u64,
}

#[map]
static LB_FRAGMENTS_V4: LruHashMap<DatagramKey<V4>, Datagram<V4>> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);
#[map]
static LB_FRAGMENTS_V6: LruHashMap<DatagramKey<V6>, Datagram<V6>> =
    LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);

/// A family's map of fragmented datagrams.
pub(crate) trait DatagramFamily: Family {
    /// The map.
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Datagram<Self>>;
}

impl DatagramFamily for V4 {
    #[inline(always)]
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Datagram<Self>> {
        &LB_FRAGMENTS_V4
    }
}

impl DatagramFamily for V6 {
    #[inline(always)]
    fn fragmented() -> &'static LruHashMap<DatagramKey<Self>, Datagram<Self>> {
        &LB_FRAGMENTS_V6
    }
}

/// The datagram of a fragment, in this CPU's memory: the stack has no room.
#[inline(always)]
pub(crate) fn key<A: Family>(packet: &Packet<A>, hook: Hook) -> Option<&'static DatagramKey<A>> {
    let room = A::ask().get_ptr_mut(0)?;
    // SAFETY: this CPU's only user of the room is this run.
    let key = unsafe { &mut (*room).datagram };
    *key = DatagramKey {
        src: packet.tuple.src,
        dst: packet.tuple.dst,
        id: packet.id,
        proto: packet.proto,
        hook: hook as u8,
        pad: [0; 2],
    };
    Some(key)
}

/// Room of this CPU for a datagram's row.
#[inline(always)]
fn room<A: Family>() -> Option<&'static mut Datagram<A>> {
    let room = A::ask().get_ptr_mut(0)?;
    // SAFETY: this CPU's only user of the room is this run.
    Some(unsafe { &mut (*room).fate })
}

/// Puts a datagram's row into the map; whether that worked.
#[inline(always)]
fn put<A: DatagramFamily>(key: &DatagramKey<A>, datagram: &Datagram<A>, how: u32) -> bool {
    A::fragmented().insert(key, datagram, u64::from(how)).is_ok()
}

/// The row of a datagram that is still under way.
#[inline(always)]
fn row<A: DatagramFamily>(key: &DatagramKey<A>, now: u64) -> Option<&'static mut Datagram<A>> {
    // SAFETY: a valid row; the kernel keeps the memory, whosever it is by then.
    let row = unsafe { &mut *A::fragmented().get_ptr_mut(key)? };
    (!is_late(row.began, now)).then_some(row)
}

/// Remembers what the first fragment became; whether others may wait for it.
///
/// Fragments of a datagram may be met by several CPUs at once. Who waits makes a
/// row before it waits, and looks for this one after; so either this finds a row
/// there, in one step with making its own, or the other finds this. Unless one of
/// the rows is evicted in between, as any of so many datagrams may be: then who
/// waits does so in vain, until its time is over.
#[inline(always)]
pub(crate) fn remember<A: DatagramFamily>(
    key: &DatagramKey<A>,
    to: &Tuple<A>,
    verdict: Verdict,
    now: u64,
) -> bool {
    let Some(datagram) = room() else { return false };
    *datagram = Datagram { src: to.src, dst: to.dst, verdict, pad: 0, began: now };
    if put(key, datagram, BPF_NOEXIST) {
        return false;
    }
    // A row of an earlier datagram serves who waits as well as one of its own.
    let decided = row(key, now).is_some_and(|row| row.verdict != Verdict::HeldFragment);
    put(key, datagram, BPF_ANY) && !decided
}

/// Notes that a fragment waits; whether the first will be told of it. It never
/// replaces a row: that may be what the first became meanwhile.
#[inline(always)]
pub(crate) fn wait<A: DatagramFamily>(key: &DatagramKey<A>, now: u64) -> bool {
    let (src, dst, verdict) = (key.src, key.dst, Verdict::HeldFragment);
    let Some(datagram) = room() else { return false };
    *datagram = Datagram { src, dst, verdict, pad: 0, began: now };
    put(key, datagram, BPF_NOEXIST) || A::fragmented().get_ptr(key).is_some()
}

/// Gives a later fragment the addresses of the first; `None` if that was not
/// seen here.
#[inline(always)]
pub(crate) fn follow<A: DatagramFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    key: &DatagramKey<A>,
    l3: usize,
    now: u64,
) -> Option<Verdict> {
    let to = row(key, now)?;
    if to.verdict == Verdict::HeldFragment {
        return None;
    }
    let (from, verdict) = (&packet.tuple, to.verdict);
    if verdict.is_drop() || (from.src == to.src && from.dst == to.dst) {
        return Some(verdict);
    }
    let diff = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
    let done = A::store_addresses(skb, l3, to.src, to.dst, u64::from(fold(diff)));
    Some(if done.is_some() { verdict } else { Verdict::DroppedRewrite })
}
