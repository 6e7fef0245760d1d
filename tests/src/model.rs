//! What the data plane should do, in plain Rust: no maps, no bytes, no BPF.
//! It says of each packet what must become of it, as exactly as the design
//! fixes it, is then told what did, and takes note of the choices that were
//! the program's to make.
//!
//! Time stands still in it: flows end by their segments only.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support: what goes wrong here must end the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::tcp::{self, From};
use lb_common::value::{backend_state, role};
use lb_common::{Traffic, Verdict};

use crate::prog::net::Port;

mod egress;
mod flow;
mod ingress;
mod xdp;

pub use flow::Run;

/// A packet, as far as the model looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// IP protocol number.
    pub proto: u8,
    /// TCP header flags; 0 for UDP.
    pub flags: u8,
    /// Source.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Bytes from the IP header on.
    pub len: u64,
}

/// A source or destination that a program may give a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// This one.
    Exactly(SocketAddr),
    /// This address with a port of the translation range that no live flow
    /// has reserved.
    FreePort {
        /// The address.
        ip: IpAddr,
        /// Ports that others have.
        taken: BTreeSet<u16>,
    },
}

/// What must become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Goes on as it is, under this verdict.
    Unchanged(Verdict),
    /// Goes on under this verdict, as one of these (source, destination).
    Rewritten(Verdict, Vec<(Choice, SocketAddr)>),
    /// XDP: likewise, and out by the uplink that leads to the destination.
    Sent(Verdict, Vec<(Choice, SocketAddr)>),
    /// Is answered.
    Refused(Verdict),
    /// Ends here.
    Dropped(Verdict),
}

/// A backend's row.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Where it is.
    pub addr: SocketAddr,
    /// One of [`backend_state`].
    pub state: u8,
    /// Raised when the row is given away.
    pub generation: u32,
}

/// What a packet that is not of a known flow could be: decided by
/// [`Model::ingress`], made fact by [`Model::learn`].
#[derive(Clone, Debug)]
enum Pending {
    Nothing,
    /// A new run of a flow; the backend's row for each choice.
    Begin {
        service: Option<usize>,
        backends: Vec<Option<usize>>,
        ifindex: u32,
        external: bool,
        /// XDP gives it its source on the way out at once.
        masquerade: bool,
    },
    /// A run gets its source on the way out.
    Masquerade(usize),
}

/// The data plane's state.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Backends' rows.
    pub backends: Vec<Backend>,
    /// Endpoints of each Service that may take new flows: rows.
    pub services: Vec<Vec<usize>>,
    /// Service by frontend.
    pub frontends: BTreeMap<(SocketAddr, u8), usize>,
    /// Addresses that are Services' as a whole.
    pub addresses: BTreeSet<IpAddr>,
    /// Ranges of Services' addresses.
    pub service_cidrs: Vec<IpNet>,
    /// Whatever was a backend's address, port and protocol.
    pub known_backends: BTreeSet<(SocketAddr, u8)>,
    runs: Vec<Run>,
    /// By protocol, and source and destination of the packet that is
    /// recognised: runs.
    forward: BTreeMap<(u8, SocketAddr, SocketAddr), usize>,
    reverse: BTreeMap<(u8, SocketAddr, SocketAddr), usize>,
    restore: BTreeMap<(u8, SocketAddr, SocketAddr), usize>,
    pending: Option<Pending>,
    /// What each Service's counters should say.
    pub service_traffic: Vec<Traffic>,
    /// What each backend's counters should say.
    pub backend_traffic: Vec<Traffic>,
}

impl Model {
    /// Notes which of the choices of the last decision was made.
    pub fn learn(&mut self, packet: Seen, fate: &Fate, src: SocketAddr, dst: SocketAddr) {
        match self.pending.take().unwrap_or(Pending::Nothing) {
            Pending::Begin { service, backends, ifindex, external, masquerade } => {
                let (Fate::Rewritten(_, choices) | Fate::Sent(_, choices)) = fate else { return };
                let at = choices.iter().position(|(_, to)| *to == dst);
                let backend = backends[at.expect("one of the choices")];
                self.begin(Run {
                    service,
                    backend,
                    generation: backend.map_or(0, |row| self.backends[row].generation),
                    source: if masquerade { packet.src } else { src },
                    external,
                    ifindex,
                    ..Run::blank(packet, dst)
                });
                let run = self.runs.len() - 1;
                if masquerade {
                    self.masquerade(run, src);
                    self.note(run, From::Client, packet.flags);
                }
                self.count(run, |traffic| traffic.connections += 1);
                self.count_in(run, packet.len);
            }
            Pending::Masquerade(run) => self.masquerade(run, src),
            Pending::Nothing => {}
        }
    }

    /// Changes the counters of a run's Service and backend, while the backend
    /// is still its own.
    fn count(&mut self, run: usize, change: impl Fn(&mut Traffic)) {
        let Run { service, backend, generation, .. } = self.runs[run];
        if let (Some(service), Some(backend)) = (service, backend)
            && self.backends[backend].generation == generation
        {
            change(&mut self.service_traffic[service]);
            change(&mut self.backend_traffic[backend]);
        }
    }

    fn count_in(&mut self, run: usize, len: u64) {
        self.count(run, |traffic| {
            traffic.packets_in += 1;
            traffic.bytes_in += len;
        });
    }

    fn count_out(&mut self, run: usize, len: u64) {
        self.count(run, |traffic| {
            traffic.packets_out += 1;
            traffic.bytes_out += len;
        });
    }

    /// What becomes of a packet that nothing is known of.
    fn stranger(&self, dst: SocketAddr) -> Fate {
        if self.service_cidrs.iter().any(|range| range.contains(&dst.ip())) {
            Fate::Dropped(Verdict::DroppedUnallocated)
        } else {
            Fate::Unchanged(Verdict::Passed)
        }
    }

    /// Whether a packet to a backend with this row may begin or go on: see
    /// [`backend_state`].
    fn still_serves(&self, run: &Run) -> bool {
        run.backend.is_none_or(|row| {
            let backend = &self.backends[row];
            backend.generation == run.generation
                && matches!(backend.state, backend_state::ACTIVE | backend_state::TERMINATING)
        })
    }

    fn note(&mut self, run: usize, from: From, flags: u8) {
        let run = &mut self.runs[run];
        run.tcp = tcp::step(run.tcp, from, flags, false);
    }
}

/// Whether a client that comes in by this interface is not a pod of this node.
const fn is_external(port: &Port) -> bool {
    port.role != role::POD
}
