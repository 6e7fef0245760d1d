//! The flow table: finding, making, aging and ending flows. Keys and the
//! meaning of a row are in [`lb_common::flow`].

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::bpf_get_prandom_u32;
use lb_common::flow::{TOUCH_INTERVAL, flag};
use lb_common::limits::REVERSE_TRIES;
use lb_common::{BePort, Direction, Flow, FlowKey, Tuple, pressure, tcp};

use crate::family::Family;
use crate::maps::Scratch;
use crate::{globals, open, stats, words};

/// Why a flow could not be made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Every port that was tried is taken.
    NoPort,
    /// The table took no row.
    NoRow,
}

/// The row for a packet with this tuple.
///
/// The reference is to map memory: another CPU may change the row meanwhile,
/// and LRU eviction may give it to another flow. Integers only, so the worst
/// is one packet of a flow that was evicted under way.
#[inline(always)]
pub(crate) fn find<A: Family>(
    tuple: Tuple<A>,
    proto: u8,
    direction: Direction,
) -> Option<&'static mut Flow<A>> {
    let row = A::flows().get_ptr_mut(&tuple.key(proto, direction))?;
    // SAFETY: the kernel keeps the element's memory valid for this program run.
    Some(unsafe { &mut *row })
}

/// This CPU's room for a row and a key, of which the stack has too little. Its only
/// user is this run.
#[inline(always)]
pub(crate) fn scratch<A: Family>() -> Option<&'static mut Scratch<A>> {
    let scratch = A::scratch().get_ptr_mut(0)?;
    // SAFETY: a valid element that no other run has.
    Some(unsafe { &mut *scratch })
}

#[inline(always)]
fn insert<A: Family>(key: &FlowKey<A>, flow: &Flow<A>, how: u32) -> bool {
    A::flows().insert(key, flow, u64::from(how)).is_ok()
}

/// Makes a row under a key of the flow, replacing what is there.
#[inline(always)]
pub(crate) fn put<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    insert(key, flow, BPF_ANY)
}

/// Makes a row under a key of the flow unless one is there.
#[inline(always)]
pub(crate) fn add<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    insert(key, flow, BPF_NOEXIST)
}

/// Takes a row away; that it is gone already is no error.
#[inline(always)]
pub(crate) fn remove<A: Family>(key: &FlowKey<A>) {
    let _ = A::flows().remove(key);
}

/// Notes a segment or datagram of the flow in `row`, and, where it matters, in
/// the row that the other direction meets; `other` tells that row's key. Returns
/// whether it mattered.
#[inline(always)]
pub(crate) fn note<A: Family>(
    row: &mut Flow<A>,
    other: impl Fn(&Flow<A>) -> FlowKey<A>,
    from: tcp::From,
    flags: u8,
    now: u64,
) -> bool {
    let stale = now.wrapping_sub(row.last_used) > TOUCH_INTERVAL;
    let next = tcp::step(row.tcp, from, flags, stale);
    if next == row.tcp && !stale {
        return false;
    }
    row.tcp = next;
    row.last_used = now;
    touch(&other(row), row);
    if matches!(from, tcp::From::Backend) && row.flags & flag::RESTORE == 0 {
        // At the client's edge: this is the row under the reverse key.
        end(row);
    }
    if row.has_snat() {
        renew(&row.restore_key(), row, flag::RESTORE);
    }
    true
}

/// Takes the connection out of the open ones if it is over; `row` is the one
/// under the reverse key, which learns of the end in whichever direction.
#[inline(always)]
fn end<A: Family>(row: &mut Flow<A>) {
    if tcp::is_closed(row.tcp) {
        open::ended(row);
    }
}

/// Brings another row of `row`'s flow up to date: it ages and closes with it,
/// and being looked up keeps it from being evicted while only one direction
/// has traffic. If it was evicted nonetheless it is made again.
#[inline(always)]
pub(crate) fn touch<A: Family>(key: &FlowKey<A>, row: &Flow<A>) {
    if let Some(twin) = A::flows().get_ptr_mut(key) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        let twin = unsafe { &mut *twin };
        if same_run(twin, row) {
            twin.tcp |= row.tcp;
            twin.last_used = row.last_used;
            if key.direction == Direction::Egress as u8 {
                end(twin);
            }
        }
    } else {
        renew(key, row, 0);
    }
}

/// Makes a row of `row`'s flow again if it is missing; `restore` is the flag
/// for the row under the restore key, or 0.
#[inline(always)]
fn renew<A: Family>(key: &FlowKey<A>, row: &Flow<A>, restore: u8) {
    if tcp::is_closed(row.tcp) || A::flows().get_ptr(key).is_some() {
        return;
    }
    if let Some(Scratch { flow: copy, .. }) = scratch() {
        // SAFETY: a row of the map, and this CPU's room, whose only user is this run.
        unsafe { words::copy(row, copy) };
        copy.flags = (row.flags & !flag::RESTORE) | restore;
        if add(key, copy) {
            stats::pressure(pressure::RENEWED);
        }
    }
}

/// Gives up a flow's rows: first the one that reserves the tuple, so that a
/// packet in between leaves the others as a whole flow. `forward` is the key of
/// `row`, and `key` room for the others'. It still counts as open until the agent has counted anew: the
/// verifiers of older kernels would follow each way through that to the end.
#[inline(always)]
pub(crate) fn give_up<A: Family>(forward: &FlowKey<A>, row: &Flow<A>, key: &mut FlowKey<A>) {
    *key = row.reverse_key();
    if let Some(reverse) = A::flows().get_ptr(&*key) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        if same_run(unsafe { &*reverse }, row) {
            remove(key);
        }
    }
    // Without a source of this node it is a key that nobody has. With one it is
    // this flow's, or the row would have lost its port.
    *key = row.restore_key();
    remove(key);
    remove(forward);
}

/// Whether two rows are of one run of a flow. A client may use its port again,
/// and be given another backend: rows of the run before then stay for a while.
#[inline(always)]
pub(crate) fn same_run<A: Family>(a: &Flow<A>, b: &Flow<A>) -> bool {
    // In one test: each more is two ways for the verifier.
    let port = u32::from(a.source_port.0 ^ b.source_port.0);
    (a.backend ^ b.backend) | (a.generation ^ b.generation) | port == 0
}

/// Whether two rows are of the same flow.
#[inline(always)]
fn same<A: Family>(a: &Flow<A>, b: &Flow<A>) -> bool {
    a.client_port == b.client_port
        && a.frontend_port == b.frontend_port
        && a.frontend == b.frontend
        && a.client == b.client
}

/// A random port of the range that source translation may use.
#[inline(always)]
pub(crate) fn random_port() -> BePort {
    let (min, max) = globals::snat_ports();
    // SAFETY: the helper has no preconditions.
    let random = unsafe { bpf_get_prandom_u32() };
    // A multiplication spreads it over the range without a division.
    let range = u64::from(max.wrapping_sub(min)) + 1;
    BePort::new((u64::from(min) + ((u64::from(random) * range) >> 32)) as u16)
}

/// Reserves the tuple that replies will carry at the client's edge, and sets
/// the flow's `source_port`: the client's own port, or another one where a
/// live flow between the same two addresses has that. `key` is room for keys.
#[inline(always)]
pub(crate) fn reserve_reverse<A: Family>(
    flow: &mut Flow<A>,
    key: &mut FlowKey<A>,
    now: u64,
) -> Result<(), Failure> {
    flow.source_port = flow.client_port;
    let mut n = 0;
    while n < REVERSE_TRIES {
        match claim_reverse(flow, key, now) {
            Claim::Mine => return Ok(()),
            Claim::Failed => return Err(Failure::NoRow),
            Claim::Taken => flow.source_port = random_port(),
        }
        n += 1;
    }
    Err(Failure::NoPort)
}

enum Claim {
    Mine,
    Taken,
    Failed,
}

/// Reserves the tuple of replies with the source port as it is: from nobody,
/// from an earlier run of the same flow, or from a flow that is over.
#[inline(always)]
fn claim_reverse<A: Family>(flow: &Flow<A>, key: &mut FlowKey<A>, now: u64) -> Claim {
    *key = flow.reverse_key();
    if add(key, flow) {
        return Claim::Mine;
    }
    if let Some(holder) = A::flows().get_ptr_mut(&*key) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        let holder = unsafe { &mut *holder };
        if !same(holder, flow) {
            if !holder.is_over(now) {
                return Claim::Taken;
            }
            *key = holder.forward_key();
            forget_forward(key, holder);
            // Another CPU may want it too: whoever adds first has it.
            open::ended(holder);
            *key = flow.reverse_key();
            remove(key);
            return if add(key, flow) { Claim::Mine } else { Claim::Taken };
        }
        open::ended(holder);
    }
    if put(key, flow) { Claim::Mine } else { Claim::Failed }
}

/// Removes the row under the forward key of a flow that has lost its reverse row:
/// replies to its packets would no longer be known.
#[inline(always)]
fn forget_forward<A: Family>(key: &FlowKey<A>, flow: &Flow<A>) {
    if let Some(row) = A::flows().get_ptr_mut(key) {
        // SAFETY: the kernel keeps the element's memory valid for this run.
        if same_run(unsafe { &*row }, flow) {
            remove(key);
        }
    }
}
