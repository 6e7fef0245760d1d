//! The flow tables in the words of people: what stands in them, how many flows
//! of which kind, and which are over. Reads and ages them through
//! [`crate::dataplane::maps`]; decides nothing about packets.

mod census;
mod list;
mod names;
mod recount;
mod sweep;

pub use census::{FlowCount, census};
pub use list::{FlowFilter, FlowView, ServiceFilter, SocketFilter, list};
pub use sweep::{Expired, Reason, Sweeper, Swept};

use lb_common::flow::{Stage, flag};
use lb_common::{Direction, Flow, FlowKey};

/// Which of a flow's rows a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowKind {
    /// What the client's packets meet.
    Forward,
    /// What replies meet at the client's edge; each flow has one.
    Reverse,
    /// What replies to this node's address meet where they enter.
    Restore,
}

impl RowKind {
    /// The kind of a row.
    pub const fn of<A: Copy>(key: &FlowKey<A>, flow: &Flow<A>) -> Self {
        if key.direction == Direction::Egress as u8 {
            Self::Reverse
        } else if flow.flags & flag::RESTORE != 0 {
            Self::Restore
        } else {
            Self::Forward
        }
    }
}

/// The name of a stage in metrics, lists and filters.
pub const fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Syn => "syn",
        Stage::Open => "open",
        Stage::Closing => "closing",
        Stage::Closed => "closed",
        Stage::Active => "active",
    }
}

/// Every stage.
pub const STAGES: [Stage; 5] =
    [Stage::Syn, Stage::Open, Stage::Closing, Stage::Closed, Stage::Active];

/// Now, on the clock of [`Flow::last_used`].
pub(crate) fn monotonic_now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is what the call fills, and lives through it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    if result != 0 {
        return 0;
    }
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}
