//! Where in its segment a Service looks first for the backend of a new flow:
//! what the policies are in the kernel. Weights, and who gets which hash, are
//! in the slots, which the agent compiles.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::hash;
use lb_common::value::policy;

use crate::family::Family;
use crate::maps::{LB_CURSORS, LB_SERVICES};
use crate::open;
use crate::select::{self, Client, Part};

/// Which slot to try, and how far from one try to the next.
#[derive(Clone, Copy)]
pub(crate) struct Walk {
    /// First slot.
    pub(crate) first: u32,
    /// To be added for the next one.
    pub(crate) stride: u32,
}

/// Where a new flow begins to look in a segment that has slots.
#[inline(always)]
pub(crate) fn walk<A: Family>(policy: u8, service: u32, part: Part, client: &Client<A>) -> Walk {
    let len = part.segment.len;
    let next = |first| Walk { first, stride: 1 };
    match policy {
        policy::RANDOM => next(anywhere(len)),
        policy::SOURCE_HASH => by_hash(hash::source(client.addr), len),
        policy::MAGLEV => by_hash(hash::flow(client.addr, client.port, client.proto), len),
        policy::LEAST_CONNECTIONS => {
            let (one, two) = (turn(service, A::FAMILY, len), anywhere(len));
            next(if is_less_busy::<A>(part, two, one) { two } else { one })
        }
        _ => next(turn(service, A::FAMILY, len)),
    }
}

/// Whether the Service's policy gives a client the same backend on every node.
#[inline(always)]
pub(crate) fn is_by_hash(service: u32) -> bool {
    let Some(row) = LB_SERVICES.get_ptr(service) else { return false };
    // SAFETY: a byte of a valid element.
    matches!(unsafe { (*row).policy }, policy::SOURCE_HASH | policy::MAGLEV)
}

/// Neighbours in a hash table are of all backends, but the same neighbour for
/// all clients of a slot: the stride depends on the client too.
#[inline(always)]
fn by_hash(hash: u32, len: u32) -> Walk {
    let others = len.saturating_sub(1);
    Walk { first: hash::index(hash, len), stride: 1 + hash::index(hash.swap_bytes(), others) }
}

/// A random slot.
#[inline(always)]
fn anywhere(len: u32) -> u32 {
    // SAFETY: the helper has no preconditions.
    hash::index(unsafe { bpf_get_prandom_u32() }, len)
}

/// The next slot in the Service's round, on this CPU. CPUs start apart, so
/// that the first connections of each do not meet at the same backend.
#[inline(always)]
fn turn(service: u32, family: usize, len: u32) -> u32 {
    let Some(cursor) = LB_CURSORS.get_ptr_mut(service) else { return 0 };
    // SAFETY: a valid element of this CPU's array; nothing else borrows it.
    let position = &mut unsafe { &mut *cursor }[family & 1];
    let turn = *position;
    *position = turn.wrapping_add(1);
    // SAFETY: the helper has no preconditions.
    let apart = unsafe { bpf_get_smp_processor_id() };
    turn.wrapping_add(apart).checked_rem(len).unwrap_or(0)
}

/// Whether a slot's backend has fewer open connections for its weight than
/// that of another. Between equals the other one's turn counts: so with no
/// connections at all, or none that matter, this is a weighted round.
#[inline(always)]
fn is_less_busy<A: Family>(part: Part, slot: u32, than: u32) -> bool {
    let Some(one) = select::at::<A>(part, slot) else { return false };
    let Some(other) = select::at::<A>(part, than) else { return true };
    open::connections(one.id) * u64::from(other.row.weight)
        < open::connections(other.id) * u64::from(one.row.weight)
}
