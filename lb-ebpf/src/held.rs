//! Fragments that come before the first of their datagram. Nobody knows yet
//! where they belong, so their bytes are kept; when the first has come, they
//! enter or leave anew where they were met, as copies of it with their bytes.
//!
//! A program has only the packet that it runs on: it is the first fragment's
//! that becomes each of the others for a moment, and in the end itself again.

use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS};
use aya_ebpf::helpers::{
    bpf_clone_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use lb_common::Hook;
use lb_common::fragment::{Held, HeldKey, LIFETIME};
use lb_common::limits::{MAX_FRAGMENT_FRAME, MAX_HELD_OF_DATAGRAM};

use crate::bounds;
use crate::datagrams::DatagramKey;
use crate::family::Family;
use crate::maps::LB_HELD;

/// Room for a row of [`LB_HELD`] that is being made, and for the bytes of the
/// first fragment while it is another.
#[map]
static LB_FRAMES: PerCpuArray<Held> = PerCpuArray::with_max_entries(2, 0);
const NEW: u32 = 0;
const FIRST: u32 = 1;

/// Where a packet is met.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The hook.
    pub(crate) hook: Hook,
    /// Offset of the IP header.
    pub(crate) l3: usize,
    /// Monotonic clock, nanoseconds.
    pub(crate) now: u64,
}

#[inline(always)]
fn room(which: u32) -> Option<&'static mut Held> {
    let room = LB_FRAMES.get_ptr_mut(which)?;
    // SAFETY: a valid element of this CPU's array. No run is within another's
    // use of NEW, and `release` keeps it from that of FIRST.
    Some(unsafe { &mut *room })
}

/// Sets the key, which the stack has no room for.
#[inline(always)]
fn set_key<A: Family>(room: &mut Held, datagram: &DatagramKey<A>, number: u32) {
    room.key = HeldKey {
        src: datagram.src.to_words(),
        dst: datagram.dst.to_words(),
        id: datagram.id,
        proto: datagram.proto,
        hook: datagram.hook,
        family: A::FAMILY as u8,
        number: number as u8,
    };
}

/// Copies the packet into `room`.
#[inline(always)]
fn load(skb: *mut __sk_buff, room: &mut Held) -> Option<()> {
    // SAFETY: the kernel keeps the context valid during the run.
    let len = bounds::length(unsafe { (*skb).len }, MAX_FRAGMENT_FRAME)?;
    let frame = (&raw mut room.frame).cast();
    // SAFETY: `len` is at most the size of the frame.
    if unsafe { bpf_skb_load_bytes(skb.cast(), 0, frame, len) } != 0 {
        return None;
    }
    room.len = len;
    Some(())
}

/// Makes the packet the one that was copied.
#[inline(always)]
fn become_copy(skb: *mut __sk_buff, copy: &Held) -> Option<()> {
    let len = bounds::length(copy.len, MAX_FRAGMENT_FRAME)?;
    // SAFETY: the helper checks the length.
    if unsafe { bpf_skb_change_tail(skb, len, 0) } != 0 {
        return None;
    }
    let frame = (&raw const copy.frame).cast();
    // SAFETY: `len` is at most the size of the frame.
    let result = unsafe { bpf_skb_store_bytes(skb, 0, frame, len, 0) };
    (result == 0).then_some(())
}

/// Keeps a copy of a fragment, the `number`th of its datagram; `None` if there
/// is no room for it.
#[inline(always)]
pub(crate) fn hold<A: Family>(
    skb: *mut __sk_buff,
    datagram: &DatagramKey<A>,
    number: u32,
    place: Place,
) -> Option<()> {
    if number >= MAX_HELD_OF_DATAGRAM {
        return None;
    }
    let room = room(NEW)?;
    load(skb, room)?;
    // SAFETY: the kernel keeps the context valid during the run.
    room.ifindex = unsafe { (*skb).ifindex };
    room.came = place.now;
    room.l3 = place.l3 as u32;
    set_key(room, datagram, number);
    LB_HELD.insert(&room.key, &*room, 0).ok()
}

/// Forgets a fragment; whether it was still there.
#[inline(always)]
pub(crate) fn take_back<A: Family>(datagram: &DatagramKey<A>, number: u32) -> bool {
    let Some(room) = room(NEW) else { return false };
    set_key(room, datagram, number);
    LB_HELD.remove(&room.key).is_ok()
}

/// Sends the datagram's fragments that wait on their way, now that it is known.
/// `None` if the packet is no longer what it was: it must be dropped.
///
/// What leaves does so at once, within this call: memory of this CPU that
/// another run uses is not the caller's any more.
#[inline(always)]
pub(crate) fn release<A: Family>(
    skb: *mut __sk_buff,
    datagram: &DatagramKey<A>,
    place: Place,
) -> Option<()> {
    let Some(room) = room(FIRST) else { return Some(()) };
    if room.len != 0 {
        // This run is within such a call: a tunnel's packet, in fragments too.
        return Some(());
    }
    if load(skb, room).is_none() {
        return Some(());
    }
    // A device's sum over the packet is void from here on; that a packet which
    // keeps its length has none is only certain once it had another.
    // SAFETY: the helper checks the length; on failure nothing changes.
    let _ = unsafe { bpf_skb_change_tail(skb, room.len - 1, 0) };
    set_key(room, datagram, 0);
    for number in 0..MAX_HELD_OF_DATAGRAM {
        room.key.number = number as u8;
        let Some(held) = LB_HELD.get_ptr(&room.key) else { break };
        // SAFETY: a valid row. Should it be given to another fragment
        // meanwhile, the bytes are a mixture, which the transport's checksum tells.
        send(skb, unsafe { &*held }, place);
        let _ = LB_HELD.remove(&room.key);
    }
    let restored = become_copy(skb, room);
    room.len = 0;
    restored
}

/// Sends a copy of a fragment on its way, unless it is of an earlier datagram.
#[inline(always)]
fn send(skb: *mut __sk_buff, held: &Held, place: Place) {
    let is_late = place.now.wrapping_sub(held.came) >= LIFETIME;
    let ifindex = held.ifindex;
    if is_late || held.l3 != place.l3 as u32 || become_copy(skb, held).is_none() {
        return;
    }
    let flags = if place.hook as u32 == Hook::Ingress as u32 { BPF_F_INGRESS } else { 0 };
    // SAFETY: the helper checks the interface; what it can't send is lost.
    let _ = unsafe { bpf_clone_redirect(skb, ifindex, u64::from(flags)) };
}
