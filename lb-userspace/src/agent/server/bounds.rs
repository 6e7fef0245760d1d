//! How many connections there may be at a time: when there are too many, the
//! oldest makes room. So whoever opens many and stalls can't keep others from an
//! answer, nor take the agent's memory and file descriptors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::{AbortHandle, JoinSet};

/// The connections of one or more listeners, and how many there may be.
#[derive(Debug)]
pub(in crate::agent) struct Connections {
    most: usize,
    open: Mutex<Open>,
}

/// Those that are open, the oldest first.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

impl Connections {
    /// Room for so many.
    pub(in crate::agent) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// Runs one more, in place of the oldest if there are too many.
    pub(in crate::agent) fn admit(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        let place = Place { connections: Arc::clone(self), number };
        let task = tasks.spawn(async move {
            let _place = place;
            connection.await;
        });
        open.tasks.insert(number, task);
        let oldest = if open.tasks.len() > self.most { open.tasks.pop_first() } else { None };
        drop(open);
        if let Some((_, oldest)) = oldest {
            oldest.abort();
        }
    }
}

/// Gives the place of a connection back, however it ends.
struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.connections.open.lock();
        open.unwrap_or_else(PoisonError::into_inner).tasks.remove(&self.number);
    }
}
