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
use lb_common::fragment::{Held, is_late};
use lb_common::limits::{MAX_FRAGMENT_FRAME, MAX_HELD_OF_DATAGRAM};

use crate::bounds;
use crate::datagrams::DatagramKey;
use crate::family::Family;
use crate::held_slot::{Arrived, Slot, first_slot};

/// Room for the bytes of the first fragment while it is another.
#[map]
static LB_FRAME: PerCpuArray<Held> = PerCpuArray::with_max_entries(1, 0);

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

/// Copies the packet into the frame of `room`; its length.
#[inline(always)]
fn load(skb: *mut __sk_buff, room: *mut Held) -> Option<u32> {
    // SAFETY: the kernel keeps the context valid during the run.
    let len = bounds::length(unsafe { (*skb).len }, MAX_FRAGMENT_FRAME)?;
    // SAFETY: a valid element; only the place is computed here.
    let frame = unsafe { &raw mut (*room).frame };
    // SAFETY: `len` is at most the size of the frame.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), 0, frame.cast(), len) };
    (result == 0).then_some(len)
}

/// Makes the packet the one that was copied.
#[inline(always)]
fn become_copy(skb: *mut __sk_buff, copy: Slot) -> Option<()> {
    let len = bounds::length(copy.len(), MAX_FRAGMENT_FRAME)?;
    // SAFETY: the helper checks the length.
    if unsafe { bpf_skb_change_tail(skb, len, 0) } != 0 {
        return None;
    }
    // SAFETY: a valid element; only the place is computed here.
    let frame = unsafe { &raw const (*copy.row()).frame };
    // SAFETY: `len` is at most the size of the frame.
    let result = unsafe { bpf_skb_store_bytes(skb, 0, frame.cast(), len, 0) };
    (result == 0).then_some(())
}

/// Keeps a copy of a fragment, in the slot whose number it gives; `None` if
/// there is no room for it: nobody who waits gives way before its time.
#[inline(always)]
pub(crate) fn hold<A: Family>(
    skb: *mut __sk_buff,
    datagram: &DatagramKey<A>,
    place: Place,
) -> Option<u32> {
    let number = take(datagram, place.now)?;
    let slot = Slot::at(number)?;
    let len = load(skb, slot.row());
    if len.is_some() {
        // SAFETY: the kernel keeps the context valid during the run.
        let ifindex = unsafe { (*skb).ifindex };
        slot.describe(datagram, Arrived { came: place.now, ifindex, l3: place.l3 as u32 });
    }
    slot.set_len(len.unwrap_or(0));
    slot.unlock();
    len.map(|_| number)
}

/// Locks a slot for a datagram's fragment; its number. What is to be done with
/// it comes behind the loop, so that the verifier follows it once.
#[inline(always)]
fn take<A: Family>(datagram: &DatagramKey<A>, now: u64) -> Option<u32> {
    let first = first_slot(datagram);
    for n in 0..MAX_HELD_OF_DATAGRAM {
        let number = Slot::number(first + n);
        let slot = Slot::at(number)?;
        if slot.lock_if(slot.is_free(now), || slot.is_free(now)) {
            if slot.len() != 0 {
                slot.count_lost();
            }
            return Some(number);
        }
    }
    None
}

/// Forgets the fragment that was put into a slot at `now`; whether it was still
/// there.
#[inline(always)]
pub(crate) fn take_back<A: Family>(number: u32, datagram: &DatagramKey<A>, now: u64) -> bool {
    let Some(slot) = Slot::at(number) else { return false };
    let is_there = slot.lock_if(true, || slot.is_of(datagram) && slot.came() == now);
    if is_there {
        slot.set_len(0);
        slot.unlock();
    }
    is_there
}

/// Forgets the datagram's fragments that wait: its first does not go on.
#[inline(always)]
pub(crate) fn forget<A: Family>(datagram: &DatagramKey<A>) {
    let first = first_slot(datagram);
    for n in 0..MAX_HELD_OF_DATAGRAM {
        let Some(slot) = Slot::at(Slot::number(first + n)) else { return };
        if slot.lock_if(slot.has_id(datagram.id), || slot.is_of(datagram)) {
            slot.set_len(0);
            slot.unlock();
        }
    }
}

/// Sends the datagram's fragments that wait on their way, now that it is known.
/// `None` if the packet is no longer what it was: it must be dropped.
///
/// What leaves does so at once, within this call: memory of this CPU that
/// another run uses is not the caller's any more, so the key is kept here.
#[inline(always)]
pub(crate) fn release<A: Family>(
    skb: *mut __sk_buff,
    datagram: &DatagramKey<A>,
    place: Place,
) -> Option<()> {
    let Some(room) = LB_FRAME.get_ptr_mut(0).map(Slot::of) else { return Some(()) };
    if room.len() != 0 {
        // This run is within such a call: a tunnel's packet, in fragments too.
        return Some(());
    }
    let Some(len) = load(skb, room.row()) else { return Some(()) };
    room.describe(datagram, Arrived { came: place.now, ifindex: 0, l3: place.l3 as u32 });
    room.set_len(len);
    // A device's sum over the packet is void from here on; that a packet which
    // keeps its length has none is only certain once it had another.
    // SAFETY: the helper checks the length; on failure nothing changes.
    let _ = unsafe { bpf_skb_change_tail(skb, len - 1, 0) };
    let (first, id) = (first_slot(datagram), datagram.id);
    for n in 0..MAX_HELD_OF_DATAGRAM {
        let Some(slot) = Slot::at(Slot::number(first + n)) else { break };
        if slot.lock_if(slot.has_id(id), || slot.is_like(room)) {
            send(skb, slot, place);
        }
    }
    let restored = become_copy(skb, room);
    room.set_len(0);
    restored
}

/// Frees a slot, which is locked, and sends a copy of its fragment on its way,
/// unless that is of an earlier datagram.
#[inline(always)]
fn send(skb: *mut __sk_buff, slot: Slot, place: Place) {
    let Arrived { came, ifindex, l3 } = slot.arrived();
    let is_earlier = is_late(came, place.now);
    if is_earlier {
        slot.count_lost();
    }
    let is_copy = !is_earlier && l3 == place.l3 as u32 && become_copy(skb, slot).is_some();
    slot.set_len(0);
    slot.unlock();
    if !is_copy {
        return;
    }
    let flags = if place.hook as u32 == Hook::Ingress as u32 { BPF_F_INGRESS } else { 0 };
    // SAFETY: the helper checks the interface; what it can't send is lost.
    let _ = unsafe { bpf_clone_redirect(skb, ifindex, u64::from(flags)) };
}
