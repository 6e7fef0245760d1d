//! Runs of flows, and the tuples that they reserve.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::tcp;

use super::{Choice, Model, Seen};
use crate::prog::SNAT_PORTS;

/// One connection or exchange of datagrams. A client may use its port again;
/// that is another run.
#[derive(Clone, Debug)]
pub struct Run {
    /// None for a connection straight to a backend.
    pub service: Option<usize>,
    /// The backend's row; none for a connection straight to a backend.
    pub backend: Option<usize>,
    /// The generation of the backend's row when the run began.
    pub generation: u32,
    /// IP protocol number.
    pub proto: u8,
    /// The client.
    pub client: SocketAddr,
    /// What it dialled.
    pub front: SocketAddr,
    /// The backend.
    pub backend_addr: SocketAddr,
    /// The client behind its edge: its port may be another.
    pub source: SocketAddr,
    /// The source that the backend sees, where that is this node.
    pub snat: Option<SocketAddr>,
    /// The way to the backend was seen and needs no such source.
    pub no_snat: bool,
    /// The client is not a pod of this node.
    pub external: bool,
    /// Interface that the client's first packet came in on.
    pub ifindex: u32,
    /// Bits of [`lb_common::tcp::state`].
    pub tcp: u8,
}

impl Run {
    /// What a packet would begin with this backend, for questions about it.
    pub(super) const fn blank(packet: Seen, backend: SocketAddr) -> Self {
        Self {
            service: None,
            backend: None,
            generation: 0,
            proto: packet.proto,
            client: packet.src,
            front: packet.dst,
            backend_addr: backend,
            source: packet.src,
            snat: None,
            no_snat: false,
            external: false,
            ifindex: 0,
            tcp: 0,
        }
    }

    const fn is_over(&self) -> bool {
        tcp::is_closed(self.tcp)
    }

    fn is_of_flow(&self, client: SocketAddr, front: SocketAddr) -> bool {
        self.client == client && self.front == front
    }
}

impl Model {
    /// The sources that a new run from `client` to `front` may get towards a
    /// backend.
    pub(super) fn sources(
        &self,
        proto: u8,
        client: SocketAddr,
        front: SocketAddr,
        backend: SocketAddr,
    ) -> Choice {
        let taken_by_another = |source: SocketAddr| {
            self.reverse.get(&(proto, backend, source)).is_some_and(|run| {
                let run = &self.runs[*run];
                !run.is_of_flow(client, front) && !run.is_over()
            })
        };
        if !taken_by_another(client) {
            return Choice::Exactly(client);
        }
        let ip = client.ip();
        let taken = ports(|port| taken_by_another(SocketAddr::new(ip, port)));
        Choice::FreePort { ip, taken }
    }

    /// The sources of this node that a run may get.
    pub(super) fn node_sources(&self, run: &Run, ip: IpAddr) -> Choice {
        let taken = ports(|port| {
            let key = (run.proto, run.backend_addr, SocketAddr::new(ip, port));
            self.restore.get(&key).is_some_and(|holder| {
                let run = &self.runs[*holder];
                // A run that lost its reverse row to another has lost this too.
                let reverse = (run.proto, run.backend_addr, run.source);
                self.reverse.get(&reverse) == Some(holder) && !run.is_over()
            })
        });
        Choice::FreePort { ip, taken }
    }

    pub(super) fn begin(&mut self, run: Run) {
        let reverse = (run.proto, run.backend_addr, run.source);
        if let Some(holder) = self.reverse.get(&reverse) {
            let old = &self.runs[*holder];
            let forward = (old.proto, old.client, old.front);
            if !old.is_of_flow(run.client, run.front) && self.forward.get(&forward) == Some(holder)
            {
                self.forward.remove(&forward);
            }
        }
        let forward = (run.proto, run.client, run.front);
        self.runs.push(run);
        self.reverse.insert(reverse, self.runs.len() - 1);
        self.forward.insert(forward, self.runs.len() - 1);
    }

    pub(super) fn masquerade(&mut self, run: usize, source: SocketAddr) {
        self.runs[run].snat = Some(source);
        let key = (self.runs[run].proto, self.runs[run].backend_addr, source);
        self.restore.insert(key, run);
    }
}

fn ports(taken: impl Fn(u16) -> bool) -> BTreeSet<u16> {
    SNAT_PORTS.filter(|port| taken(*port)).collect()
}
