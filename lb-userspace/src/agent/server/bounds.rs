//! How many connections there may be at a time: when there are too many, one makes
//! room for the newest. First those that have not asked for anything yet, then
//! whose last question is the oldest; so whoever opens many and stalls can keep
//! neither a newcomer nor a steady client from an answer, nor take the agent's
//! memory and file descriptors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::{AbortHandle, JoinSet};

/// The connections of one or more listeners, and how many there may be.
#[derive(Debug)]
pub(in crate::agent) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

/// The order in which connections make room: whether they have asked, and when
/// they last did, or came.
type Turn = (bool, u64);

/// Those that are open, with the task of each as soon as it has one.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    tasks: BTreeMap<Turn, Option<AbortHandle>>,
}

impl Open {
    fn turn(&mut self, asked: bool) -> Turn {
        self.next += 1;
        (asked, self.next)
    }
}

impl Connections {
    /// Room for so many.
    pub(in crate::agent) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs one more, in place of another if there are too many.
    pub(in crate::agent) fn admit<F>(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        connection: impl FnOnce(Arc<Place>) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let turn = {
            let mut open = self.open();
            let turn = open.turn(false);
            open.tasks.insert(turn, None);
            turn
        };
        let place = Arc::new(Place { connections: Arc::clone(self), turn: Mutex::new(turn) });
        // Not under the lock: a runtime that ends drops the task at once, and with
        // it its place.
        let task = tasks.spawn(connection(place));
        let victim = {
            let mut open = self.open();
            if let Some(slot) = open.tasks.get_mut(&turn) {
                *slot = Some(task);
            }
            let too_many = open.tasks.len() > self.most;
            let others = open.tasks.keys().copied();
            let first = others.into_iter().find(|other| too_many && *other != turn);
            first.and_then(|first| open.tasks.remove(&first)).flatten()
        };
        if let Some(victim) = victim {
            victim.abort();
        }
    }
}

/// The place of a connection, which it gives back however it ends.
#[derive(Debug)]
pub(in crate::agent) struct Place {
    connections: Arc<Connections>,
    turn: Mutex<Turn>,
}

impl Place {
    /// The connection asks for something.
    pub(in crate::agent) fn asks(&self) {
        let mut open = self.connections.open();
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = open.tasks.remove(&turn) {
            *turn = open.turn(true);
            open.tasks.insert(*turn, task);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let turn = *self.turn.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.connections.open().tasks.remove(&turn);
    }
}
