//! Picks the backend of a new flow.

use lb_common::names::option;
use lb_common::value::{backend_state, scope};
use lb_common::{Backend, BePort, Frontend, Segment, Service, Verdict};

use crate::family::Family;
use crate::maps::{Ask, LB_BACKENDS, LB_SERVICES, LB_SLOTS};
use crate::{affinity, globals, policy};

/// A backend that was picked.
#[derive(Clone, Copy)]
pub(crate) struct Picked {
    /// Its row.
    pub(crate) id: u32,
    /// What the row said.
    pub(crate) row: Backend,
}

/// How many slots are tried. A slot can name a backend that has just left; the
/// agent is about to switch the segment, and the next slot serves meanwhile. A
/// backend may have many slots, so these are more than would seem needed.
const TRIES: u32 = 5;

/// Who asks for a backend.
#[derive(Clone, Copy)]
pub(crate) struct Client<A> {
    /// Its address.
    pub(crate) addr: A,
    /// Its port.
    pub(crate) port: BePort,
    /// IP protocol number.
    pub(crate) proto: u8,
    /// Monotonic clock, nanoseconds.
    pub(crate) now: u64,
    /// Room that this run has for itself, for keys and rows.
    pub(crate) room: *mut Ask<A>,
}

/// The slots of a scope, which are not none.
#[derive(Clone, Copy)]
pub(crate) struct Part {
    /// Where they are.
    pub(crate) segment: Segment,
    /// The scope.
    pub(crate) scope: u8,
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
    let part = Part { segment, scope };
    let picked = slot(frontend.service, policy, part, client).ok_or(none(true))?;
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
fn slot<A: Family>(service: u32, policy: u8, part: Part, client: &Client<A>) -> Option<Picked> {
    let walk = policy::walk(policy, service, part, client);
    let mut n = 0;
    while n < TRIES {
        let slot = walk.first.wrapping_add(n.wrapping_mul(walk.stride));
        if let Some(picked) = at::<A>(part, slot.checked_rem(part.segment.len)?) {
            return Some(picked);
        }
        n += 1;
    }
    None
}

/// The backend of a slot, if it takes new flows.
#[inline(always)]
pub(crate) fn at<A: Family>(part: Part, slot: u32) -> Option<Picked> {
    let slot = part.segment.base.wrapping_add(slot);
    let word = *LB_SLOTS.get(slot / 2)?;
    let id = if slot.is_multiple_of(2) { word as u32 } else { (word >> 32) as u32 };
    let row = *LB_BACKENDS.get(id)?;
    takes_new::<A>(&row, part.scope).then_some(Picked { id, row })
}

/// Whether a backend takes new flows in a scope.
#[inline(always)]
pub(crate) fn takes_new<A: Family>(row: &Backend, scope: u8) -> bool {
    row.state == backend_state::ACTIVE
        && row.scopes & (1 << (scope & 1)) != 0
        && usize::from(row.family) == A::FAMILY
}

/// Whether a flow that was given this backend may still send it datagrams, or
/// open a connection to it again.
#[inline(always)]
pub(crate) fn still_serves(id: u32, generation: u32) -> bool {
    let Some(row) = LB_BACKENDS.get(id) else { return false };
    row.generation == generation
        && (row.state == backend_state::ACTIVE || row.state == backend_state::TERMINATING)
}
