//! Aging: removes the rows of flows that are over for long. The programs never
//! wait for it: they recognise such a flow when somebody wants its tuple. It
//! keeps the tables from being full of the past, so that the kernel's eviction
//! does not have to choose among rows that are in use.
//!
//! A row goes only if it is as it was when the flow was judged. A packet that
//! comes between that last look and the removal, a microsecond, finds a row
//! gone that was silent for half a minute: the flow's other row makes it again, or
//! it is a new flow, as it would have been a moment later.

use super::RowKind;
use super::recount::Recount;
use crate::dataplane::maps::{
    BackendTable, ConnectedSockets, FlowFamily, FlowRows, FlowTable, Maps, MapsError,
};
use lb_common::flow::{IDLE_TRANSIENT, Stage, flag};
use lb_common::value::backend_state;
use lb_common::{Flow, FlowKey, V4, V6};
use std::path::Path;

/// Why a flow was forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The connection was closed, and its port has rested.
    Closed,
    /// No packet came for as long as such a flow may be silent.
    Idle,
    /// Datagrams for a backend that no longer serves.
    BackendGone,
    /// The client has begun anew with the same port, or the flow's other rows
    /// are gone.
    Leftover,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::Closed, Self::Idle, Self::BackendGone, Self::Leftover];

    /// Name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::BackendGone => "backend_gone",
            Self::Leftover => "leftover",
        }
    }
}

/// How many flows were forgotten, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired([u64; Reason::ALL.len()]);

impl Expired {
    /// Those of one reason.
    pub const fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

/// What a sweep found and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Rows that were looked at.
    pub rows: u64,
    /// Flows that were forgotten.
    pub expired: Expired,
}

/// In every how manieth sweep leftovers are looked for: each quiet connection
/// costs a lookup then, and nobody waits for their rows.
const THOROUGH: u32 = 6;

/// The tables that are swept, and the backends that tell who serves.
pub struct Sweeper {
    maps: Maps,
    v4: FlowTable<V4>,
    v6: FlowTable<V6>,
    sockets: [ConnectedSockets; 2],
    round: u32,
}

impl Sweeper {
    /// Opens what is pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            maps: Maps::open(pin_dir)?,
            v4: FlowTable::open(pin_dir)?,
            v6: FlowTable::open(pin_dir)?,
            sockets: ConnectedSockets::open_both(pin_dir)?,
            round: 0,
        })
    }

    /// Goes on with the maps that are pinned now, which may have grown; with those
    /// from before if they can't be opened.
    pub fn refresh(&mut self, pin_dir: &Path) {
        if let Ok(fresh) = Self::open(pin_dir) {
            *self = Self { round: self.round, ..fresh };
        }
    }

    /// The other maps.
    pub const fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Goes through both tables once; `now` is on the clock of
    /// [`Flow::last_used`].
    pub fn sweep(&mut self, now: u64) -> Result<Swept, MapsError> {
        let mut swept = Swept::default();
        let (backends, thorough) = (&self.maps.backends, self.round.is_multiple_of(THOROUGH));
        let mut recount = Recount::begin(&self.maps);
        let count = &mut recount;
        Sweep { table: &mut self.v4, backends, now, thorough }.all(&mut swept, count)?;
        Sweep { table: &mut self.v6, backends, now, thorough }.all(&mut swept, count)?;
        recount.see_sockets(&self.sockets)?;
        recount.finish(&mut self.maps)?;
        self.round = self.round.wrapping_add(1);
        Ok(swept)
    }
}

/// A sweep of one table.
struct Sweep<'a, A: FlowFamily> {
    table: &'a mut FlowTable<A>,
    backends: &'a BackendTable,
    now: u64,
    /// Whether leftovers are looked for.
    thorough: bool,
}

impl<A: FlowFamily> Sweep<'_, A> {
    fn all(mut self, swept: &mut Swept, recount: &mut Recount) -> Result<(), MapsError> {
        let mut walk = FlowRows::new();
        while self.table.read(&mut walk)? {
            for (key, flow) in walk.rows() {
                swept.rows += 1;
                recount.see(key, flow, self.now);
                if let Some(reason) = self.row(key, flow)? {
                    swept.expired.0[reason as usize] += 1;
                }
            }
        }
        Ok(())
    }

    /// Looks at a row, and removes its flow if that is over.
    fn row(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<Option<Reason>, MapsError> {
        if RowKind::of(key, flow) == RowKind::Restore {
            return if self.is_quiet(flow) { self.restore(key, flow) } else { Ok(None) };
        }
        if self.judge(flow).is_some() {
            return self.forget(flow, None);
        }
        if RowKind::of(key, flow) == RowKind::Reverse && self.is_replaced(flow)? {
            return self.forget(flow, Some(Reason::Leftover));
        }
        Ok(None)
    }

    fn judge(&self, flow: &Flow<A>) -> Option<Reason> {
        judge(flow, self.now, || {
            self.backends.get(flow.backend).is_some_and(|row| {
                row.generation == flow.generation
                    && matches!(row.state, backend_state::ACTIVE | backend_state::TERMINATING)
            })
        })
    }

    /// Whether a row has been silent for so long that it is worth a lookup.
    fn is_quiet(&self, flow: &Flow<A>) -> bool {
        self.thorough && self.now.saturating_sub(flow.last_used) > IDLE_TRANSIENT
    }

    /// Whether the client of a quiet connection has begun anew with the same
    /// port. Asked only of those that no silence would end today.
    fn is_replaced(&self, flow: &Flow<A>) -> Result<bool, MapsError> {
        if flow.stage() != Stage::Open || self.now.saturating_sub(flow.last_used) <= IDLE_TRANSIENT
        {
            return Ok(false);
        }
        let forward = self.table.get(&flow.forward_key())?;
        Ok(forward.is_some_and(|row| !row.is_same_run(flow)))
    }

    /// A row of replies to this node's address. It does not follow the
    /// connection, so it stays while another row of its flow knows of it.
    fn restore(&mut self, key: &FlowKey<A>, seen: &Flow<A>) -> Result<Option<Reason>, MapsError> {
        for other in [seen.reverse_key(), seen.forward_key()] {
            let row = self.table.get(&other)?;
            if row.is_some_and(|row| row.is_same_run(seen) && row.snat_port == seen.snat_port) {
                return Ok(None);
            }
        }
        Ok(self.remove(key, seen)?.then_some(Reason::Leftover))
    }

    /// Judges a flow by all of its rows as they are now, and removes them:
    /// first the one that reserves the tuple, so that a packet in between
    /// leaves the others as a whole flow.
    fn forget(
        &mut self,
        seen: &Flow<A>,
        known: Option<Reason>,
    ) -> Result<Option<Reason>, MapsError> {
        let mut rows = Vec::with_capacity(3);
        for key in [seen.reverse_key(), seen.forward_key()] {
            if let Some(row) = self.table.get(&key)?.filter(|row| row.is_same_run(seen)) {
                rows.push((key, row));
            }
        }
        let Some(flow) = together(rows.iter().map(|(_, row)| row)) else { return Ok(None) };
        let Some(reason) = known.or_else(|| self.judge(&flow)) else { return Ok(None) };
        if flow.has_snat() {
            let key = flow.restore_key();
            if let Some(row) = self.table.get(&key)?.filter(|row| row.is_same_run(seen)) {
                rows.push((key, row));
            }
        }
        for (key, row) in &rows {
            if !self.remove(key, row)? {
                return Ok(None);
            }
        }
        Ok(Some(reason))
    }

    /// Removes a row that is still as it was seen; says whether it was.
    fn remove(&mut self, key: &FlowKey<A>, seen: &Flow<A>) -> Result<bool, MapsError> {
        let same = self.table.get(key)?.is_some_and(|row| row == *seen);
        if same {
            self.table.remove(key)?;
        }
        Ok(same)
    }
}

/// Whether a flow is over, by what its row says; `serves` tells of its backend.
fn judge<A: FlowFamily>(flow: &Flow<A>, now: u64, serves: impl FnOnce() -> bool) -> Option<Reason> {
    let stage = flow.stage();
    if now.saturating_sub(flow.last_used) > flow.kept_for() {
        Some(if stage == Stage::Closed { Reason::Closed } else { Reason::Idle })
    } else if stage == Stage::Active && flow.flags & flag::DIRECT == 0 && !serves() {
        // The next packet would leave it anyway; a connection stays.
        Some(Reason::BackendGone)
    } else {
        None
    }
}

/// What the rows of one flow say together.
fn together<'a, A: FlowFamily>(rows: impl Iterator<Item = &'a Flow<A>>) -> Option<Flow<A>> {
    rows.copied().reduce(|a, b| Flow {
        last_used: a.last_used.max(b.last_used),
        tcp: a.tcp | b.tcp,
        ..if a.has_snat() { a } else { b }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::flow::{
        IDLE_CLOSING, IDLE_DATAGRAM, IDLE_DATAGRAMS, IDLE_ESTABLISHED, TIME_WAIT,
    };
    use lb_common::tcp::state::{ASSURED, CLIENT_FIN, REPLIED, RESET};

    const NOW: u64 = 1 << 60;
    const OPEN: u8 = REPLIED | ASSURED;

    fn silent(proto: u8, tcp: u8, silence: u64) -> Flow<V4> {
        Flow { proto, tcp, last_used: NOW - silence, ..Flow::default() }
    }

    #[test]
    fn a_flow_is_over_by_its_stage() {
        for (proto, tcp, limit, reason) in [
            (6, 0, IDLE_TRANSIENT, Reason::Idle),
            (6, OPEN, IDLE_ESTABLISHED, Reason::Idle),
            (6, OPEN | CLIENT_FIN, IDLE_CLOSING, Reason::Idle),
            (6, RESET, TIME_WAIT, Reason::Closed),
            (17, REPLIED, IDLE_DATAGRAM, Reason::Idle),
            (17, OPEN, IDLE_DATAGRAMS, Reason::Idle),
        ] {
            let judged = |silence| judge(&silent(proto, tcp, silence), NOW, || true);
            assert_eq!(judged(limit), None, "{proto} {tcp:#b}");
            assert_eq!(judged(limit + 1), Some(reason), "{proto} {tcp:#b}");
        }
    }

    #[test]
    fn only_datagrams_leave_a_backend_that_is_gone() {
        assert_eq!(judge(&silent(17, 0, 0), NOW, || false), Some(Reason::BackendGone));
        assert_eq!(judge(&silent(6, OPEN, 0), NOW, || false), None);
        let direct = Flow { flags: flag::DIRECT, ..silent(17, 0, 0) };
        assert_eq!(judge(&direct, NOW, || false), None, "it has no backend of a Service");
        let ahead = Flow { last_used: NOW + 5, ..silent(17, 0, 0) };
        assert_eq!(judge(&ahead, NOW, || true), None, "touched after the clock was read");
    }

    #[test]
    fn the_freshest_row_speaks_for_the_flow() {
        let old = silent(6, OPEN, 500);
        let fresh = Flow { snat_port: lb_common::BePort(7), ..silent(6, CLIENT_FIN, 5) };
        let flow = together([old, fresh].iter()).unwrap();
        assert_eq!((flow.last_used, flow.tcp), (NOW - 5, OPEN | CLIENT_FIN));
        assert!(flow.has_snat());
        assert!(together(std::iter::empty::<&Flow<V4>>()).is_none());
    }
}
