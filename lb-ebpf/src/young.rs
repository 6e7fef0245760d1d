//! Young flows: those whose client has not shown yet that it is there. Who
//! writes other hosts' addresses into packets can begin any number of flows, and
//! a table that is full evicts what was silent longest, which is as likely a
//! connection that somebody needs. So flows enter a ring when they begin, and
//! who comes to a place again gives up the flow that it stands for, if that is
//! still young, or closed meanwhile. All others left the ring by proving
//! themselves, and nothing that a stranger sends takes room from them.

use lb_common::{Flow, FlowKey, pressure};

use crate::family::Family;
use crate::{atomic, flows, stats};

/// Enters a flow that is about to begin: before its rows are made. `key` is room
/// for keys.
#[inline(always)]
pub(crate) fn enter<A: Family>(flow: &mut Flow<A>, key: &mut FlowKey<A>) {
    let Some(next) = crate::maps::LB_YOUNG_NEXT.get_ptr_mut(A::FAMILY as u32) else { return };
    // SAFETY: a valid, aligned element.
    let number = unsafe { atomic::next(next) } as u32 & A::young_mask();
    let Some(place) = A::young().get_ptr_mut(number) else { return };
    // SAFETY: a valid element. Another CPU comes to it when all others have
    // had their turn.
    let place = unsafe { &mut *place };
    if let Some(row) = A::flows().get_ptr(&*place) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        let row = unsafe { &*row };
        // Begun again meanwhile, it has another place.
        if row.place == number as u16 && row.gives_way() {
            flows::give_up(place, row, key);
            stats::pressure(pressure::GAVE_WAY);
        }
    }
    flow.place = number as u16;
    *place = flow.forward_key();
}
