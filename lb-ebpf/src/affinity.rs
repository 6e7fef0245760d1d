//! Session affinity: a client stays with the backend that it was given, for all
//! frontends of a Service port, while it opens connections often enough.

use lb_common::{Affinity, AffinityKey};

use crate::family::Family;
use crate::maps::LB_BACKENDS;
use crate::select::{Client, Picked, takes_new};

const SECOND: u64 = 1_000_000_000;

/// The client's key, in its room.
#[inline(always)]
fn key<A: Family>(service: u32, client: &Client<A>) -> &AffinityKey<A> {
    // SAFETY: the room is valid, and nobody else's during this run.
    let key = unsafe { &mut (*client.room).affinity };
    *key = AffinityKey { client: client.addr, service };
    key
}

/// The backend that the client was given, if it still takes new flows in this
/// scope and the client was not away for longer than `timeout` seconds.
#[inline(always)]
pub(crate) fn given<A: Family>(
    service: u32,
    scope: u8,
    client: &Client<A>,
    timeout: u32,
) -> Option<Picked> {
    let row = A::affinity().get_ptr_mut(key(service, client))?;
    // SAFETY: the kernel keeps the element's memory valid for this run; integers
    // only, so a row that was given away meanwhile is at worst a wrong hint.
    let row = unsafe { &mut *row };
    if client.now.saturating_sub(row.last_used) > u64::from(timeout) * SECOND {
        return None;
    }
    let backend = *LB_BACKENDS.get(row.backend)?;
    let same = backend.generation == row.generation && backend.service == service;
    if !same || !takes_new::<A>(&backend, scope) {
        return None;
    }
    row.last_used = client.now;
    Some(Picked { id: row.backend, row: backend })
}

/// Notes what the client was given now.
#[inline(always)]
pub(crate) fn note<A: Family>(service: u32, client: &Client<A>, picked: &Picked) {
    let key = key(service, client);
    // SAFETY: as above; the key is beside it.
    let row = unsafe { &mut (*client.room).given };
    *row =
        Affinity { last_used: client.now, backend: picked.id, generation: picked.row.generation };
    // An LRU map takes every row; without one the next connection picks anew.
    let _ = A::affinity().insert(key, &*row, 0);
}
