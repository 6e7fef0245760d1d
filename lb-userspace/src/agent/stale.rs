//! UDP sockets of this node that are connected to a backend which is gone. The
//! kernel sends their datagrams there without asking anybody, so they are told.

use super::report::Report;
use crate::dataplane::maps::{MapsError, SocketTable};
use crate::netlink::NetlinkError;
use crate::netlink::sock_diag::{self, Connected, Outcome};
use lb_common::value::backend_state;
use lb_common::{Backend, Frontend, SocketPeer};
use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;

/// When to look again after a change: a socket that was given its backend just
/// before may not be connected yet.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(30), Duration::from_millis(300), Duration::from_secs(2)];

/// Why sockets can't be found or told.
#[derive(Debug, Error)]
enum StaleError {
    /// The maps can't be read.
    #[error(transparent)]
    Maps(Box<MapsError>),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

impl From<MapsError> for StaleError {
    fn from(error: MapsError) -> Self {
        Self::Maps(Box::new(error))
    }
}

/// Finds such sockets after each change; none before [`StaleSockets::serve`].
#[derive(Default)]
pub(super) struct StaleSockets {
    table: Option<SocketTable>,
    /// Why the kernel can't tell sockets.
    unsupported: Option<String>,
    /// Rows of sockets that were not connected when it began: closed, most
    /// likely, while nobody watched.
    leftovers: Vec<(u64, SocketPeer)>,
    /// How often it has looked since the last change.
    looks: usize,
    /// When to look next.
    due: Option<Instant>,
}

impl StaleSockets {
    /// Begins, also with what changed while no agent ran.
    pub(super) fn serve(&mut self, pin_dir: &Path, report: &mut Report) -> Result<(), MapsError> {
        self.unsupported = sock_diag::check().err().map(|error| error.to_string());
        let table = SocketTable::open(pin_dir)?;
        if let Ok(connected) = connected() {
            self.leftovers = table.rows()?;
            self.leftovers.retain(|(cookie, _)| !connected.contains_key(cookie));
        }
        self.table = Some(table);
        self.changed(report);
        Ok(())
    }

    /// Something changed: looks now, and soon again.
    pub(super) fn changed(&mut self, report: &mut Report) {
        self.looks = 0;
        self.look(report);
    }

    /// When to look next.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Looks once.
    pub(super) fn look(&mut self, report: &mut Report) {
        let Some(table) = &mut self.table else { return };
        self.due = AGAIN.get(self.looks).map(|wait| Instant::now() + *wait);
        self.looks += 1;
        let result = match self.due {
            Some(_) => tell(table),
            None => tell(table).and_then(|()| forget(table, &std::mem::take(&mut self.leftovers))),
        };
        let error = result.err().map(|error| error.to_string());
        report.set_stale_error(error.or_else(|| self.unsupported.clone()));
    }
}

/// Tells every socket whose backend is gone. Its row stays until it is closed:
/// it may be connected again at any time.
fn tell(table: &SocketTable) -> Result<(), StaleError> {
    let stale = stale(table)?;
    if stale.is_empty() {
        return Ok(());
    }
    let connected = connected()?;
    let mut told = 0;
    for socket in stale.iter().filter_map(|cookie| connected.get(cookie)) {
        told += usize::from(sock_diag::abort(socket)? == Outcome::Told);
    }
    if told > 0 {
        tracing::info!("{told} UDP sockets of this node told that their backend is gone");
    }
    Ok(())
}

/// Forgets sockets that are still not connected.
fn forget(table: &mut SocketTable, leftovers: &[(u64, SocketPeer)]) -> Result<(), StaleError> {
    if leftovers.is_empty() {
        return Ok(());
    }
    let connected = connected()?;
    for (cookie, peer) in leftovers.iter().filter(|(cookie, _)| !connected.contains_key(cookie)) {
        table.forget(*cookie, peer)?;
    }
    Ok(())
}

fn connected() -> Result<HashMap<u64, Connected>, NetlinkError> {
    let sockets = sock_diag::connected_udp()?;
    Ok(sockets.into_iter().map(|socket| (socket.cookie, socket)).collect())
}

fn stale(table: &SocketTable) -> Result<Vec<u64>, MapsError> {
    let mut stale = Vec::new();
    for (cookie, peer) in table.rows()? {
        if !holds(&peer, table.backend(&peer), table.frontend(&peer)?) {
            stale.push(cookie);
        }
    }
    Ok(stale)
}

/// Whether a socket may go on sending to its backend: what the programs ask
/// for each datagram of a socket that is not connected.
fn holds(peer: &SocketPeer, backend: Option<Backend>, frontend: Option<Frontend>) -> bool {
    let serves = backend.is_some_and(|row| {
        row.generation == peer.generation
            && matches!(row.state, backend_state::ACTIVE | backend_state::TERMINATING)
    });
    serves && frontend.is_some_and(|row| row.service == peer.service)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_leaves_with_its_backend_or_its_frontend() {
        let peer = SocketPeer { service: 3, backend: 7, generation: 2, ..SocketPeer::default() };
        let backend = |state, generation| Some(Backend { state, generation, ..Backend::default() });
        let frontend = |service| Some(Frontend { service, ..Frontend::default() });
        assert!(holds(&peer, backend(backend_state::ACTIVE, 2), frontend(3)));
        assert!(holds(&peer, backend(backend_state::TERMINATING, 2), frontend(3)));
        assert!(!holds(&peer, backend(backend_state::REMOVED, 2), frontend(3)));
        assert!(!holds(&peer, backend(backend_state::FREE, 2), frontend(3)));
        assert!(!holds(&peer, backend(backend_state::ACTIVE, 3), frontend(3)), "another backend");
        assert!(!holds(&peer, backend(backend_state::ACTIVE, 2), frontend(4)), "another Service");
        assert!(!holds(&peer, backend(backend_state::ACTIVE, 2), None), "no frontend");
        assert!(!holds(&peer, None, frontend(3)));
    }
}
