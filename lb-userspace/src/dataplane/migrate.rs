//! Flows on their way from one table to another of a different size.
//!
//! Programs use the one or the other until all of them are replaced, so the
//! rows are brought over again and again: once for the bulk of them, right
//! before the programs are replaced, and right after. Then the new table takes
//! the place of the old one. Until then both are pinned, so that an agent that
//! is killed on the way loses nothing: the next one goes on.

use super::maps::{FlowFamily, FlowRows, FlowTable, MapsError};
use super::{DataplaneError, MapSizes, PinDir, sys, teardown};
use lb_common::flow::TOUCH_INTERVAL;
use lb_common::{Flow, FlowKey, V4, V6};
use nix::time::{ClockId, clock_gettime};
use std::fs;
use std::time::Duration;

/// The tables of which the rows are on their way.
pub(super) struct MovingFlows {
    pins: PinDir,
    v4: Option<Pair<V4>>,
    v6: Option<Pair<V6>>,
    /// When the rows were brought over last; none before that.
    followed: Option<u64>,
    rows: usize,
}

/// A table and the one that takes its place.
struct Pair<A: FlowFamily> {
    old: FlowTable<A>,
    new: FlowTable<A>,
    /// Whether only flows that are not over are brought over: a full table
    /// would make room at the expense of any.
    only_live: bool,
}

impl MovingFlows {
    /// Makes the tables that are to have another size, or finds those that
    /// another process made. None if there is nothing to do.
    pub(super) fn begin(pins: &PinDir, sizes: &MapSizes) -> Result<Option<Self>, DataplaneError> {
        let v4 = Pair::open(pins, sizes.flows_v4)?;
        let v6 = Pair::open(pins, sizes.flows_v6)?;
        if v4.is_none() && v6.is_none() {
            teardown::remove_staged(pins);
            return Ok(None);
        }
        Ok(Some(Self { pins: pins.clone(), v4, v6, followed: None, rows: 0 }))
    }

    /// A table with more rows of flows that are not over than its successor has
    /// room for: its name, how many there are, and the room.
    pub(super) fn too_many(&mut self) -> Result<Option<(&'static str, u32, u32)>, DataplaneError> {
        let now = now();
        let v4 = self.v4.as_mut().map(|pair| pair.too_many(now)).transpose()?.flatten();
        let v6 = self.v6.as_mut().map(|pair| pair.too_many(now)).transpose()?.flatten();
        Ok(v4.or(v6))
    }

    /// Brings over what is new since the last time.
    pub(super) fn follow(&mut self) -> Result<(), DataplaneError> {
        let now = now();
        // A row tells its last packet by a second more or less.
        let since = self.followed.map_or(0, |last| last.saturating_sub(2 * TOUCH_INTERVAL));
        if let Some(pair) = &mut self.v4 {
            self.rows += pair.follow(since, now)?;
        }
        if let Some(pair) = &mut self.v6 {
            self.rows += pair.follow(since, now)?;
        }
        self.followed = Some(now);
        Ok(())
    }

    /// Brings over what is new, and puts the new tables in the old ones' place.
    pub(super) fn finish(mut self) -> Result<(), DataplaneError> {
        self.follow()?;
        for pair in self.v4.iter().map(Pair::summary).chain(self.v6.iter().map(Pair::summary)) {
            let (map, old, new) = pair;
            self.pins.install(map)?;
            tracing::info!("{map} has {new} rows now instead of {old}");
        }
        tracing::info!("{} rows of flows brought along", self.rows);
        teardown::remove_staged(&self.pins);
        Ok(())
    }
}

impl<A: FlowFamily> Pair<A> {
    /// None if the table has its size, or is not there yet.
    fn open(pins: &PinDir, room: u32) -> Result<Option<Self>, DataplaneError> {
        if !pins.map(A::MAP).exists() {
            return Ok(None);
        }
        let old = FlowTable::open(pins.path())?;
        let staged = pins.staged();
        let path = staged.map(A::MAP);
        if path.exists() && FlowTable::<A>::open(staged.path())?.capacity() != room {
            // Programs that use it already know flows that no other table has.
            let mut back: Self =
                Self { old: FlowTable::open(staged.path())?, new: old, only_live: false };
            back.follow(0, now())?;
            let fail =
                |source| DataplaneError::Io { operation: "remove", path: path.clone(), source };
            fs::remove_file(&path).map_err(fail)?;
            return Self::open(pins, room);
        }
        if old.capacity() == room {
            return Ok(None);
        }
        if !path.exists() {
            pins.stage()?;
            let bytes = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
            let sizes = [bytes(size_of::<FlowKey<A>>()), bytes(size_of::<Flow<A>>()), room];
            sys::create_lru(A::MAP, sizes, &path).map_err(|source| DataplaneError::Io {
                operation: "make",
                path,
                source,
            })?;
        }
        Ok(Some(Self { old, new: FlowTable::open(staged.path())?, only_live: false }))
    }

    fn too_many(&mut self, now: u64) -> Result<Option<(&'static str, u32, u32)>, MapsError> {
        let room = self.new.capacity();
        let [rows, live] = count(&self.old, now)?;
        self.only_live = rows > room;
        Ok((live > room).then_some((A::MAP, live, room)))
    }

    fn summary(&self) -> (&'static str, u32, u32) {
        (A::MAP, self.old.capacity(), self.new.capacity())
    }

    /// Brings over the rows that were used since then; how many.
    fn follow(&mut self, since: u64, now: u64) -> Result<usize, MapsError> {
        let (mut walk, mut rows) = (FlowRows::new(), 0);
        while self.old.read(&mut walk)? {
            for (key, flow) in walk.rows() {
                let forgotten = now.saturating_sub(flow.last_used) > flow.kept_for();
                let left = forgotten || (self.only_live && flow.is_over(now));
                if flow.last_used >= since && !left {
                    rows += usize::from(self.bring(key, flow)?);
                }
            }
        }
        Ok(rows)
    }

    /// Brings one row over, unless the new table knows more already; whether it
    /// was not there.
    fn bring(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, MapsError> {
        if self.new.add(key, flow)? {
            return Ok(true);
        }
        let known = self.new.get(key)?;
        if known.is_some_and(|known| known != *flow && known.last_used <= flow.last_used) {
            self.new.insert(key, flow)?;
        }
        Ok(false)
    }
}

/// All rows of a table, and those of flows that are not over.
fn count<A: FlowFamily>(table: &FlowTable<A>, now: u64) -> Result<[u32; 2], MapsError> {
    let (mut walk, mut rows, mut live) = (FlowRows::new(), 0, 0);
    while table.read(&mut walk)? {
        for (_, flow) in walk.rows() {
            rows += 1;
            live += u32::from(!flow.is_over(now));
        }
    }
    Ok([rows, live])
}

/// How many rows the pinned flow table of a family has, if more of them are in use
/// than a table of this size holds.
pub fn outgrown<A: FlowFamily>(pins: &PinDir, size: u32) -> Option<u32> {
    // What can't be read is not of this layout, which is told elsewhere.
    let table = FlowTable::<A>::open(pins.path()).ok()?;
    let larger = table.capacity() > size;
    (larger && count(&table, now()).ok()?[1] > size).then(|| table.capacity())
}

/// Now, on the clock of [`Flow::last_used`].
fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
