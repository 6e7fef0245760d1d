//! Picks the backend of a new flow.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use lb_common::names::option;
use lb_common::value::{backend_state, policy, scope};
use lb_common::{Backend, Frontend, Segment, Service, Verdict};

use crate::family::Family;
use crate::maps::{Ask, LB_BACKENDS, LB_CURSORS, LB_SERVICES, LB_SLOTS};
use crate::{affinity, globals};

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

/// Who asks for a backend.
#[derive(Clone, Copy)]
pub(crate) struct Client<A> {
    /// Its address.
    pub(crate) addr: A,
    /// Monotonic clock, nanoseconds.
    pub(crate) now: u64,
    /// Room that this run has for itself, for keys and rows.
    pub(crate) room: *mut Ask<A>,
}

/// Picks a backend of the frontend's Service for a client that may get those of
/// a scope; `Err` says why there is none.
#[inline(always)]
pub(crate) fn backend<A: Family>(
    frontend: &Frontend,
    scope: u8,
    client: &Client<A>,
) -> Result<Picked, Verdict> {
    let service = LB_SERVICES.get_ptr(frontend.service).ok_or(Verdict::RefusedNoBackend)?;
    let segment = segment::<A>(service, scope);
    if segment.len == 0 {
        return Err(none(segment_is_empty::<A>(service, scope)));
    }
    // SAFETY: a word of a valid element.
    let timeout = unsafe { (*service).affinity };
    if timeout != 0
        && let Some(picked) = affinity::given(frontend.service, scope, client, timeout)
    {
        return Ok(picked);
    }
    // SAFETY: a byte of a valid element.
    let policy = unsafe { (*service).policy };
    let picked = slot::<A>(frontend.service, policy, segment, scope).ok_or(none(true))?;
    if timeout != 0 {
        affinity::note(frontend.service, client, &picked);
    }
    Ok(picked)
}

/// A segment of a Service.
#[inline(always)]
fn segment<A: Family>(service: *const Service, scope: u8) -> Segment {
    let index = Service::segment_index(A::FAMILY, scope);
    // SAFETY: a valid element; only the place is computed here.
    let words = unsafe { &raw const (*service).segments }.cast::<u64>();
    // SAFETY: `index` is below 4, the number of segments.
    let word = unsafe { words.add(index) };
    // SAFETY: inside the element. The agent replaces a segment by one aligned
    // store, and the volatile read is one load: it sees the old or the new.
    Segment::from_word(unsafe { word.read_volatile() })
}

/// Whether a Service without a backend in this scope has none in any.
#[inline(always)]
fn segment_is_empty<A: Family>(service: *const Service, of: u8) -> bool {
    of == scope::CLUSTER || segment::<A>(service, scope::CLUSTER).len == 0
}

/// What becomes of a client for whom there is no backend, anywhere or only on
/// this node.
#[inline(always)]
fn none(anywhere: bool) -> Verdict {
    if anywhere {
        Verdict::RefusedNoBackend
    } else if globals::option(option::REFUSE_NO_LOCAL) {
        Verdict::RefusedNoLocal
    } else {
        Verdict::DroppedNoLocal
    }
}

/// Picks a slot by the Service's policy.
#[inline(always)]
fn slot<A: Family>(service: u32, policy: u8, segment: Segment, scope: u8) -> Option<Picked> {
    let first = match policy {
        // SAFETY: the helper has no preconditions.
        policy::RANDOM => unsafe { bpf_get_prandom_u32() },
        _ => turn(service, A::FAMILY),
    };
    let mut n = 0;
    while n < TRIES {
        let slot = segment.base.wrapping_add(first.wrapping_add(n).checked_rem(segment.len)?);
        let word = *LB_SLOTS.get(slot / 2)?;
        let id = if slot % 2 == 0 { word as u32 } else { (word >> 32) as u32 };
        let row = *LB_BACKENDS.get(id)?;
        if takes_new::<A>(&row, scope) {
            return Some(Picked { id, row });
        }
        n += 1;
    }
    None
}

/// Whether a backend takes new flows in a scope.
#[inline(always)]
pub(crate) fn takes_new<A: Family>(row: &Backend, scope: u8) -> bool {
    row.state == backend_state::ACTIVE
        && row.scopes & (1 << (scope & 1)) != 0
        && usize::from(row.family) == A::FAMILY
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
