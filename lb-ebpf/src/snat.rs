//! Source translation: which port of this node a flow has towards its backend.
//!
//! The row under the restore key reserves the port. Where none is free, flows
//! that are over give theirs, and then those of clients that have not shown that
//! they are there: a flood of made-up clients shares what is left, and keeps
//! nobody from a port.

use lb_common::flow::{TIME_WAIT, TOUCH_INTERVAL, flag};
use lb_common::key::Direction;
use lb_common::limits::{SNAT_DRAWS, SNAT_TRIES};
use lb_common::{BePort, Flow, FlowKey, Tuple, pressure, tcp};

use crate::family::Family;
use crate::flows::{Failure, add, random_port, remove, same_run, scratch};
use crate::maps::Scratch;
use crate::open::ENDED;
use crate::{atomic, globals, stats, words};

/// The port behind this one in the range, the first behind the last.
#[inline(always)]
fn port_after(port: BePort) -> BePort {
    let (min, max) = globals::snat_ports();
    let next = u32::from(port.get()) + 1;
    BePort::new(if next > max { min } else { next } as u16)
}

/// Gives the flow a source of this node: reserves a port of `snat` towards the
/// backend, and notes it in `row` and in the flow's other row under `other`.
/// `in_use` says whether a socket of this node has the tuple that a reply
/// would carry.
#[inline(always)]
pub(crate) fn masquerade<A: Family>(
    row: &mut Flow<A>,
    other: &FlowKey<A>,
    snat: A,
    in_use: impl Fn(&Tuple<A>) -> bool,
) -> Result<(), Failure> {
    let Scratch { flow, key } = scratch().ok_or(Failure::NoRow)?;
    // SAFETY: a row of the map, and this CPU's room, whose only user is this run.
    unsafe { words::copy(row, flow) };
    flow.snat = snat;
    flow.flags |= flag::RESTORE;
    flow.ended = 0;
    let mut spare = Spare { port: BePort::NONE, silent: KEEPS };
    let mut n = 0;
    while n < SNAT_TRIES {
        // First at random for a rested port, then one after the other for any:
        // a range that is shorter than this is searched whole.
        let draws = n < SNAT_DRAWS;
        flow.snat_port = if draws {
            random_port()
        } else if n == SNAT_DRAWS && spare.silent != KEEPS {
            spare.port
        } else {
            port_after(flow.snat_port)
        };
        if reserve(flow, key, draws.then_some(&mut spare)) {
            if !in_use(&flow.masqueraded().reversed()) {
                let twin = A::flows().get_ptr_mut(other);
                // SAFETY: the kernel keeps the element's memory valid for this run.
                let twin = twin.map(|twin| unsafe { &mut *twin });
                note(
                    row,
                    twin.filter(|twin| same_run(twin, flow)),
                    (snat, flow.snat_port),
                    other.direction,
                );
                return Ok(());
            }
            remove(key);
        }
        n += 1;
    }
    Err(Failure::NoPort)
}

/// Notes the flow's source in two rows, of which `twin` is the one under the key with
/// this direction. The reverse row comes last: by it others see that the port is
/// noted, and may be taken.
#[inline(always)]
fn note<A: Family>(
    row: &mut Flow<A>,
    mut twin: Option<&mut Flow<A>>,
    source: (A, BePort),
    direction: u8,
) {
    let set = |row: &mut Flow<A>| (row.snat, row.snat_port) = source;
    let twin_last = direction == Direction::Egress as u8;
    if !twin_last && let Some(twin) = twin.as_deref_mut() {
        set(twin);
    }
    set(row);
    if twin_last && let Some(twin) = twin {
        set(twin);
    }
}

/// Of the ports that were drawn, the one whose holder is silent for longest.
struct Spare {
    port: BePort,
    silent: u64,
}

/// For how long a holder is silent that keeps its port,
const KEEPS: u64 = 0;
/// and one that does not need it any more.
const DONE: u64 = u64::MAX;

/// Reserves the tuple of replies to the flow's masqueraded packets: from nobody,
/// or from a flow that does not keep it. Where there is a choice still, a port
/// that has not rested is noted in `spare`. Leaves the key of the row in `key`.
#[inline(always)]
fn reserve<A: Family>(flow: &Flow<A>, key: &mut FlowKey<A>, spare: Option<&mut Spare>) -> bool {
    *key = flow.restore_key();
    if add(key, flow) {
        return true;
    }
    let Some(holder) = A::flows().get_ptr_mut(&*key) else { return false };
    // SAFETY: the kernel keeps the element's memory valid for this run.
    let holder = unsafe { &mut *holder };
    // Another CPU may want it too, and would remove what this one adds: who
    // claims the row first looks at it, and the other one goes on.
    if !claim(holder) {
        return false;
    }
    let silent = silence(flow, holder, key);
    if let Some(spare) = spare
        && silent < TIME_WAIT
    {
        give_back(holder);
        if silent > spare.silent {
            *spare = Spare { port: flow.snat_port, silent };
        }
        return false;
    }
    if silent == KEEPS {
        give_back(holder);
        return false;
    }
    if silent < TIME_WAIT {
        stats::pressure(pressure::PORT);
    }
    // Should the old flow wake up, it must not send from this port again.
    *key = holder.reverse_key();
    forget_snat(key, holder);
    *key = holder.forward_key();
    forget_snat(key, holder);
    *key = flow.restore_key();
    remove(key);
    add(key, flow)
}

/// Claims the row that reserves a port, unless another CPU has.
#[inline(always)]
fn claim<A: Family>(row: &mut Flow<A>) -> bool {
    // SAFETY: the word that holds these bytes is inside the row, and aligned.
    let before = unsafe { atomic::set((&raw mut row.tcp).cast(), ENDED) };
    before & ENDED == 0
}

/// The row keeps the port.
#[inline(always)]
fn give_back<A: Family>(row: &mut Flow<A>) {
    // SAFETY: the word that holds these bytes is inside the row, and aligned.
    unsafe { atomic::clear((&raw mut row.tcp).cast(), ENDED) };
}

/// For how many nanoseconds the holder of a port that `flow` wants has been
/// silent, or what else is to be said of it. `key` is room for keys.
#[inline(always)]
fn silence<A: Family>(flow: &Flow<A>, holder: &Flow<A>, key: &mut FlowKey<A>) -> u64 {
    // The row under the reverse key follows the connection.
    *key = holder.reverse_key();
    let Some(row) = A::flows().get_ptr(&*key) else { return DONE };
    // SAFETY: the kernel keeps the element's memory valid for this run.
    let row = unsafe { &*row };
    // Another CPU has just reserved the port, and is about to note it.
    if row.snat_port == BePort::NONE
        && flow.last_used.saturating_sub(holder.last_used) < TOUCH_INTERVAL
    {
        return KEEPS;
    }
    let unproven = row.is_unproven();
    if row.snat_port != flow.snat_port || (unproven && tcp::is_closed(row.tcp)) {
        return DONE;
    }
    if !unproven && !row.is_over(flow.last_used) {
        return KEEPS;
    }
    flow.last_used.saturating_sub(row.last_used) + 1
}

/// Takes the port of this node out of a row of a flow that has lost it.
#[inline(always)]
fn forget_snat<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) {
    if let Some(row) = A::flows().get_ptr_mut(key) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        let row = unsafe { &mut *row };
        if same_run(row, flow) && row.snat_port == flow.snat_port {
            row.snat_port = BePort::NONE;
        }
    }
}
