//! Open connections of backends: what the policy least-connections compares.
//!
//! Only flows of Services with this policy are counted, so that the others
//! need no line of memory that all CPUs write. A flow counts from its first
//! packet until both sides have closed it or one has reset it, or until its
//! rows are given to another; a connected socket of this node counts until it is
//! closed. Flows of datagrams, whoever ends unseen, and
//! those that began before their Service took up the policy: the agent puts
//! them right whenever it has walked through all flows.

use lb_common::flow::flag;
use lb_common::value::policy;
use lb_common::{Flow, SocketPeer};

use crate::atomic;
use crate::family::Family;
use crate::maps::{LB_BACKENDS, LB_OPEN, LB_SERVICES};

/// [`Flow::ended`] in the word that begins with [`Flow::tcp`]: its other bytes
/// are written one by one, and this leaves them alone.
pub(crate) const ENDED: u64 = u64::from_ne_bytes([0, 0, 0, 1, 0, 0, 0, 0]);

/// How many connections a backend has.
#[inline(always)]
pub(crate) fn connections(backend: u32) -> u64 {
    LB_OPEN.get(backend).copied().unwrap_or(0)
}

/// A socket of this node has connected to whom it was given.
#[inline(always)]
pub(crate) fn socket_began(given: &SocketPeer) {
    count_up(given.service, given.backend);
}

/// That socket is closed, or connects anew.
#[inline(always)]
pub(crate) fn socket_ended(given: &SocketPeer) {
    if is_counted(given.service) {
        count_down(given.backend, given.generation);
    }
}

/// Whether connections of this Service are counted.
#[inline(always)]
fn is_counted(service: u32) -> bool {
    let Some(row) = LB_SERVICES.get_ptr(service) else { return false };
    // SAFETY: a byte of a valid element.
    unsafe { (*row).policy == policy::LEAST_CONNECTIONS }
}

/// A flow of a Service has begun.
#[inline(always)]
pub(crate) fn began<A: Family>(flow: &Flow<A>) {
    count_up(flow.service, flow.backend);
}

#[inline(always)]
fn count_up(service: u32, backend: u32) {
    if is_counted(service)
        && let Some(open) = counter(backend)
    {
        // SAFETY: `counter` gives a valid, aligned element.
        unsafe { atomic::add(open, 1) };
    }
}

/// The flow is over, or gives its tuple up; `row` is its row under the reverse
/// key, which notes it: both directions may see the end, and one counts it.
#[inline(always)]
pub(crate) fn ended<A: Family>(row: &mut Flow<A>) {
    if row.flags & flag::DIRECT != 0 || row.ended != 0 || !is_counted(row.service) {
        return;
    }
    // SAFETY: the word that holds these bytes is inside the row, and aligned.
    let before = unsafe { atomic::set((&raw mut row.tcp).cast(), ENDED) };
    if before & ENDED == 0 {
        count_down(row.backend, row.generation);
    }
}

/// Takes one off the backend's number, while the row is still the backend's.
#[inline(always)]
fn count_down(backend: u32, generation: u32) {
    if LB_BACKENDS.get(backend).is_none_or(|row| row.generation != generation) {
        return;
    }
    // The agent may have put a lower number in between.
    if let Some(open) = counter(backend)
        // SAFETY: a valid element.
        && unsafe { open.read_volatile() } != 0
    {
        // SAFETY: `counter` gives a valid, aligned element.
        unsafe { atomic::add(open, u64::MAX) };
    }
}

#[inline(always)]
fn counter(backend: u32) -> Option<*mut u64> {
    LB_OPEN.get_ptr_mut(backend)
}
