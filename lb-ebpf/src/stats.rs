//! Counters. Per CPU, so no atomics: a program is never interrupted by another
//! run of itself on the same CPU. The programs of sockets may be, by packets;
//! that costs a count where a packet comes between the two instructions of
//! another, which is less than an atomic addition costs every packet.

use lb_common::verdict::counter_index;
use lb_common::{Address, Flow, Hook, SocketPeer, Traffic, Verdict};

use crate::maps::{
    LB_BACKENDS, LB_BE_TRAFFIC, LB_NO_PORT, LB_PRESSURE, LB_SVC_TRAFFIC, LB_VERDICTS,
};

/// Size of a packet, for the counters.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    /// Packets on the wire: segments of an offloaded packet.
    pub(crate) packets: u64,
    /// Bytes from the IP header on.
    pub(crate) bytes: u64,
}

/// Counts the one verdict of this run and returns it.
#[inline(always)]
pub(crate) fn verdict(hook: Hook, verdict: Verdict) -> Verdict {
    if let Some(counter) = LB_VERDICTS.get_ptr_mut(counter_index(hook, verdict)) {
        // SAFETY: a valid element of this CPU's array.
        unsafe { *counter += 1 };
    }
    verdict
}

/// Applies `change` to the counters of a Service port and of a backend.
#[inline(always)]
fn both(service: u32, backend: u32, change: impl Fn(&mut Traffic)) {
    if let Some(traffic) = LB_SVC_TRAFFIC.get_ptr_mut(service) {
        // SAFETY: a valid element of this CPU's array; nothing else borrows it.
        change(unsafe { &mut *traffic });
    }
    if let Some(traffic) = LB_BE_TRAFFIC.get_ptr_mut(backend) {
        // SAFETY: as above.
        change(unsafe { &mut *traffic });
    }
}

/// Whether the flow's backend row is still that of its backend. Once it has
/// been given away, neither it nor the Service is the flow's any more.
#[inline(always)]
fn is_current<A: Address>(flow: &Flow<A>) -> bool {
    LB_BACKENDS.get(flow.backend).is_some_and(|row| row.generation == flow.generation)
}

/// A packet from a client.
#[inline(always)]
pub(crate) fn packet_in<A: Address>(flow: &Flow<A>, size: Size) {
    if is_current(flow) {
        both(flow.service, flow.backend, |traffic| {
            traffic.packets_in += size.packets;
            traffic.bytes_in += size.bytes;
        });
    }
}

/// A packet to a client.
#[inline(always)]
pub(crate) fn packet_out<A: Address>(flow: &Flow<A>, size: Size) {
    if is_current(flow) {
        both(flow.service, flow.backend, |traffic| {
            traffic.packets_out += size.packets;
            traffic.bytes_out += size.bytes;
        });
    }
}

/// A new connection, or a new flow of datagrams.
#[inline(always)]
pub(crate) fn connection<A: Address>(flow: &Flow<A>) {
    both(flow.service, flow.backend, |traffic| traffic.connections += 1);
}

/// Counts a packet that is dropped for its client's sake; a verdict of another
/// kind counts elsewhere. Returns the verdict.
#[inline(always)]
pub(crate) fn dropped(service: u32, verdict: Verdict) -> Verdict {
    if let Some(traffic) = LB_SVC_TRAFFIC.get_ptr_mut(service) {
        // SAFETY: a valid element of this CPU's array; nothing else borrows it.
        let traffic = unsafe { &mut *traffic };
        if verdict == Verdict::DroppedNoLocal {
            traffic.no_local += 1;
        } else if verdict == Verdict::DroppedSourceRange {
            traffic.out_of_range += 1;
        }
    }
    verdict
}

/// Counts a packet of a Service's flow that is dropped for want of a source
/// port; a verdict of another kind counts elsewhere. Returns the verdict.
#[inline(always)]
pub(crate) fn no_port(service: u32, verdict: Verdict) -> Verdict {
    if verdict == Verdict::DroppedNoPort
        && let Some(packets) = LB_NO_PORT.get_ptr_mut(service)
    {
        // SAFETY: a valid element of this CPU's array.
        unsafe { *packets += 1 };
    }
    verdict
}

/// Counts what became of rows under pressure, by [`lb_common::pressure`].
#[inline(always)]
pub(crate) fn pressure(what: u32) {
    if let Some(counter) = LB_PRESSURE.get_ptr_mut(what) {
        // SAFETY: a valid element of this CPU's array.
        unsafe { *counter += 1 };
    }
}

/// A packet refused for want of a backend.
#[inline(always)]
pub(crate) fn refused(service: u32) {
    if let Some(traffic) = LB_SVC_TRAFFIC.get_ptr_mut(service) {
        // SAFETY: a valid element of this CPU's array.
        unsafe { (*traffic).refused += 1 };
    }
}

/// Counts the one verdict of a socket's call and returns it.
#[inline(always)]
pub(crate) fn call(made: Verdict) -> Verdict {
    verdict(Hook::Socket, made)
}

/// A socket was given a backend.
#[inline(always)]
pub(crate) fn chosen(given: &SocketPeer) {
    both(given.service, given.backend, |traffic| traffic.connections += 1);
}
