//! Picks the backend of a new flow.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::value::{backend_state, policy};
use lb_common::{Backend, Frontend, Segment, Service};

use crate::family::Family;
use crate::maps::{LB_BACKENDS, LB_CURSORS, LB_SERVICES, LB_SLOTS};

/// A backend that was picked.
#[derive(Clone, Copy)]
pub(crate) struct Picked {
    /// Its row.
    pub(crate) id: u32,
    /// What the row said.
    pub(crate) row: Backend,
}

/// How many slots are tried. A slot can name a backend that has just left; the
/// agent is about to switch the segment, and the next slot serves meanwhile.
const TRIES: u32 = 4;

/// Picks a backend of the frontend's Service; `None` if it has none.
#[inline(always)]
pub(crate) fn backend<A: Family>(frontend: &Frontend) -> Option<Picked> {
    let service = LB_SERVICES.get_ptr(frontend.service)?;
    let index = Service::segment_index(A::FAMILY, frontend.scope);
    // SAFETY: a valid element; only the place is computed here.
    let words = unsafe { &raw const (*service).segments }.cast::<u64>();
    // SAFETY: `index` is below 4, the number of segments.
    let word = unsafe { words.add(index) };
    // SAFETY: inside the element. The agent replaces a segment by one aligned
    // store, and the volatile read is one load: it sees the old or the new.
    let segment = Segment::from_word(unsafe { word.read_volatile() });
    if segment.len == 0 {
        return None;
    }
    // SAFETY: a byte of a valid element.
    let first = match unsafe { (*service).policy } {
        // SAFETY: the helper has no preconditions.
        policy::RANDOM => unsafe { bpf_get_prandom_u32() },
        _ => turn(frontend.service, A::FAMILY),
    };
    let mut n = 0;
    while n < TRIES {
        let slot = segment.base.wrapping_add(first.wrapping_add(n).checked_rem(segment.len)?);
        let word = *LB_SLOTS.get(slot / 2)?;
        let id = if slot % 2 == 0 { word as u32 } else { (word >> 32) as u32 };
        let row = *LB_BACKENDS.get(id)?;
        if row.state == backend_state::ACTIVE && usize::from(row.family) == A::FAMILY {
            return Some(Picked { id, row });
        }
        n += 1;
    }
    None
}

/// The next position in the Service's round, on this CPU. CPUs start apart, so
/// that the first connections of each do not meet at the same backend.
#[inline(always)]
fn turn(service: u32, family: usize) -> u32 {
    let Some(cursor) = LB_CURSORS.get_ptr_mut(service) else { return 0 };
    // SAFETY: a valid element of this CPU's array; nothing else borrows it.
    let position = &mut unsafe { &mut *cursor }[family & 1];
    let turn = *position;
    *position = turn.wrapping_add(1);
    // SAFETY: the helper has no preconditions.
    turn.wrapping_add(unsafe { bpf_get_smp_processor_id() })
}

/// Whether a flow that was given this backend may still send it datagrams, or
/// open a connection to it again.
#[inline(always)]
pub(crate) fn still_serves(id: u32, generation: u32) -> bool {
    let Some(row) = LB_BACKENDS.get(id) else { return false };
    row.generation == generation
        && (row.state == backend_state::ACTIVE || row.state == backend_state::TERMINATING)
}
