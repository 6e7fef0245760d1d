//! Making the rows of a flow that was decided on.
//!
//! It takes place when the function that decided has returned, and what belongs
//! to the flow is in this CPU's memory. So the verifier has forgotten the ways
//! that lead here and goes on once, not once for each of them, and no chain of
//! calls needs both functions' stack.

use lb_common::flow::flag;
use lb_common::{Tuple, Verdict};

use crate::family::Family;
use crate::flows::{self, Failure};
use crate::maps::Scratch;
use crate::stats::{self, Size};
use crate::{ingress, open, young};

/// What came of it, as a function of its own can say it.
#[derive(Clone, Copy)]
pub(crate) struct Made(u32);

impl Made {
    const ALL: Self = Self(0);
    const NO_PORT: Self = Self(1);
    const NO_ROW: Self = Self(2);

    /// Whether there are rows.
    #[inline(always)]
    pub(crate) fn result(self) -> Result<(), Failure> {
        match self.0 {
            0 => Ok(()),
            1 => Err(Failure::NoPort),
            _ => Err(Failure::NoRow),
        }
    }
}

/// Makes the rows of the flow in the scratch row, which begins now: all of them,
/// or none. Sets its `source_port`, and counts it.
#[inline(never)]
pub(crate) fn rows<A: Family>() -> Made {
    let Some(Scratch { flow, key }) = flows::scratch::<A>() else { return Made::NO_ROW };
    let now = flow.last_used;
    let direct = flow.flags & flag::DIRECT != 0;
    young::enter(flow, key);
    match flows::reserve_reverse(flow, key, now) {
        Ok(()) => {}
        Err(Failure::NoRow) => return Made::NO_ROW,
        Err(Failure::NoPort) => {
            if !direct {
                stats::no_port(flow.service, Verdict::DroppedNoPort);
            }
            return Made::NO_PORT;
        }
    }
    *key = flow.forward_key();
    if !flows::put(key, flow) {
        *key = flow.reverse_key();
        flows::remove(key);
        return Made::NO_ROW;
    }
    if !direct {
        open::began(flow);
        stats::connection(flow);
    }
    Made::ALL
}

/// The verdict on the first packet of the flow in the scratch row, which counts
/// it, with what its tuple must become.
#[inline(always)]
pub(crate) fn verdict<A: Family>(made: Made, size: Size, to: &mut Tuple<A>) -> Verdict {
    let Some(Scratch { flow, .. }) = flows::scratch::<A>() else { return Verdict::DroppedNoFlow };
    let direct = flow.flags & flag::DIRECT != 0;
    match made.result() {
        // Without a row of its own it still is not ours to stop.
        Err(Failure::NoRow) if direct => return Verdict::Passed,
        Err(failure) => return ingress::failed(failure),
        Ok(()) => *to = flow.routed(),
    }
    if direct {
        return Verdict::Passed;
    }
    stats::packet_in(flow, size);
    Verdict::Forwarded
}
