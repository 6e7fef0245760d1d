//! A flow: one connection or exchange of datagrams through a Service, and the
//! tuple that its packets carry at each place on their way.
//!
//! ```text
//!           client's edge            node's edge to the backend
//! client ── frontend ──▶ source ── backend ──▶ snat ── backend ──▶ backend
//! client ◀── frontend ── source ◀── backend ── snat ◀── backend ── backend
//! ```
//!
//! `source` is the client's address with its own port, or with another one
//! where its own was taken towards that backend. `snat` is this node's address,
//! only where the reply would otherwise not come back through this node.
//!
//! A flow has up to three rows, each holding all of it: one for each tuple
//! that must be recognised ([`Flow::forward_key`], [`Flow::reverse_key`],
//! [`Flow::restore_key`]).

use crate::addr::{Address, BePort};
use crate::key::{Direction, FlowKey};
pub use crate::stage::{
    IDLE_CLOSING, IDLE_DATAGRAM, IDLE_DATAGRAMS, IDLE_ESTABLISHED, IDLE_TRANSIENT, Stage,
    idle_after,
};

/// Bits of [`Flow::flags`].
pub mod flag {
    /// Not a Service's: a connection straight to a backend, remembered so that
    /// a Service's flow with the same tuple is told apart from it.
    pub const DIRECT: u8 = 1 << 0;
    /// The client is not a pod of this node, so a backend beyond an uplink
    /// would answer past us.
    pub const EXTERNAL: u8 = 1 << 1;
    /// The way to the backend was seen and needs no source translation.
    pub const NO_SNAT: u8 = 1 << 2;
    /// The backend must see this node's address, whatever the way to it is.
    pub const MASQUERADE: u8 = 1 << 4;
    /// Set only in the row under [`super::Flow::restore_key`], to tell it from
    /// the row under [`super::Flow::forward_key`].
    pub const RESTORE: u8 = 1 << 3;
}

/// Addresses and ports of a packet, as they are or as they should become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuple<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: BePort,
    /// Destination port.
    pub dport: BePort,
}

impl<A: Address> Tuple<A> {
    /// The tuple of an answer.
    #[must_use]
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }

    /// The key under which a packet with this tuple is looked up.
    #[inline(always)]
    pub const fn key(self, proto: u8, direction: Direction) -> FlowKey<A> {
        FlowKey {
            src: self.src,
            dst: self.dst,
            sport: self.sport,
            dport: self.dport,
            proto,
            direction: direction as u8,
            pad: [0; 2],
        }
    }
}

/// A row of the flow maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow<A> {
    /// When a packet last met this row: nanoseconds of the monotonic clock,
    /// brought up to date once a second.
    pub last_used: u64,
    /// The Service port.
    pub service: u32,
    /// The backend's row.
    pub backend: u32,
    /// The generation of the backend's row when the flow began.
    pub generation: u32,
    /// Interface that the client's first packet came in on.
    pub ifindex: u32,
    /// Bits of [`crate::tcp::state`].
    pub tcp: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// IP protocol number.
    pub proto: u8,
    /// In the row under [`Flow::reverse_key`], 1 once the flow does not count as
    /// open any more; in the row under [`Flow::restore_key`], 1 while a CPU takes
    /// its port for another flow; in the others always 0.
    pub ended: u8,
    /// The client's address.
    pub client: A,
    /// The address that the client dialled.
    pub frontend: A,
    /// The backend's address.
    pub backend_addr: A,
    /// This node's address towards the backend, or [`Address::NONE`].
    pub snat: A,
    /// The client's port.
    pub client_port: BePort,
    /// The port that the client dialled.
    pub frontend_port: BePort,
    /// The backend's port.
    pub backend_port: BePort,
    /// The source port behind the client's edge.
    pub source_port: BePort,
    /// The source port behind source translation, or [`BePort::NONE`].
    pub snat_port: BePort,
    /// The low bits of the flow's place in the ring of young flows. A client may
    /// use its port again: then an older place has the same key, and this tells
    /// that the flow is another one.
    pub place: u16,
}

impl<A: Address> Flow<A> {
    /// What the client sends.
    #[inline(always)]
    pub const fn dialled(&self) -> Tuple<A> {
        Tuple {
            src: self.client,
            dst: self.frontend,
            sport: self.client_port,
            dport: self.frontend_port,
        }
    }

    /// What the node routes: behind the client's edge.
    #[inline(always)]
    pub const fn routed(&self) -> Tuple<A> {
        Tuple {
            src: self.client,
            dst: self.backend_addr,
            sport: self.source_port,
            dport: self.backend_port,
        }
    }

    /// What the backend receives where source translation applies.
    #[inline(always)]
    pub const fn masqueraded(&self) -> Tuple<A> {
        Tuple {
            src: self.snat,
            dst: self.backend_addr,
            sport: self.snat_port,
            dport: self.backend_port,
        }
    }

    /// Whether source translation applies and has its port.
    #[inline(always)]
    pub const fn has_snat(&self) -> bool {
        self.snat_port.0 != 0
    }

    /// Key of the row that packets from the client meet at the client's edge.
    #[inline(always)]
    pub const fn forward_key(&self) -> FlowKey<A> {
        self.dialled().key(self.proto, Direction::Ingress)
    }

    /// Key of the row that replies meet at the client's edge. It also reserves
    /// the tuple: no two flows can have the same.
    #[inline(always)]
    pub const fn reverse_key(&self) -> FlowKey<A> {
        self.routed().reversed().key(self.proto, Direction::Egress)
    }

    /// Key of the row that replies to this node's address meet where they
    /// enter. It also reserves the port.
    #[inline(always)]
    pub const fn restore_key(&self) -> FlowKey<A> {
        self.masqueraded().reversed().key(self.proto, Direction::Ingress)
    }
}

const SECOND: u64 = 1_000_000_000;

/// How often a row's [`Flow::last_used`] is brought up to date, in nanoseconds.
pub const TOUCH_INTERVAL: u64 = SECOND;

/// How long a port of this node rests, while others are free, after the flow
/// that had it was closed, in nanoseconds: a backend that closed first keeps
/// the tuple for this time (Linux's `TCP_TIMEWAIT_LEN`) and would not take a
/// stranger's first segment for a new connection.
pub const TIME_WAIT: u64 = 60 * SECOND;

impl<A: Address> Flow<A> {
    /// Whether the flow is over: closed, or silent for long at time `now`.
    #[inline(always)]
    pub const fn is_over(&self, now: u64) -> bool {
        crate::tcp::is_closed(self.tcp)
            || now.saturating_sub(self.last_used) > idle_after(self.proto, self.tcp)
    }

    /// Whether the client has yet to show that it is there, or never did: the flow
    /// may be one of a flood's.
    #[inline(always)]
    pub const fn is_unproven(&self) -> bool {
        self.tcp & crate::tcp::state::ASSURED == 0
    }

    /// Whether the flow's rows may be given to newer flows when those need room:
    /// it is unproven, or closed. A port of this node rests for its time.
    #[inline(always)]
    pub const fn gives_way(&self) -> bool {
        self.is_unproven() || (crate::tcp::is_closed(self.tcp) && !self.has_snat())
    }

    /// Where the flow stands.
    pub const fn stage(&self) -> Stage {
        Stage::of(self.proto, self.tcp)
    }

    /// For how long after its last packet the row is kept, in nanoseconds: a
    /// closed connection's for as long as its port rests.
    pub const fn kept_for(&self) -> u64 {
        if crate::tcp::is_closed(self.tcp) { TIME_WAIT } else { idle_after(self.proto, self.tcp) }
    }

    /// Whether two rows are of one run of one flow. A client may use its port
    /// again, and be given another backend: rows of the run before then stay
    /// for a while.
    pub fn is_same_run(&self, other: &Self) -> bool {
        self.dialled() == other.dialled()
            && self.routed() == other.routed()
            && self.proto == other.proto
            && self.backend == other.backend
            && self.generation == other.generation
    }
}

const _: () = {
    use crate::addr::{V4, V6};
    use core::mem::offset_of;
    // One word for an atomic operation.
    assert!(offset_of!(Flow<V4>, tcp) == 24 && offset_of!(Flow<V6>, tcp) == 24);
    assert!(offset_of!(Flow<V4>, ended) == 27 && offset_of!(Flow<V6>, ended) == 27);
    assert!(size_of::<Flow<V4>>() == 56);
    assert!(size_of::<Flow<V6>>() == 104);
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::V4;

    fn flow() -> Flow<V4> {
        Flow {
            proto: 6,
            client: V4(1),
            frontend: V4(2),
            backend_addr: V4(3),
            snat: V4(4),
            client_port: BePort(10),
            frontend_port: BePort(20),
            backend_port: BePort(30),
            source_port: BePort(11),
            snat_port: BePort(40),
            ..Flow::default()
        }
    }

    #[test]
    fn each_row_is_keyed_by_the_tuple_that_meets_it() {
        let key = |src, sport, dst, dport, direction| {
            Tuple { src: V4(src), dst: V4(dst), sport: BePort(sport), dport: BePort(dport) }
                .key(6, direction)
        };
        assert_eq!(flow().forward_key(), key(1, 10, 2, 20, Direction::Ingress));
        assert_eq!(flow().reverse_key(), key(3, 30, 1, 11, Direction::Egress));
        assert_eq!(flow().restore_key(), key(3, 30, 4, 40, Direction::Ingress));
    }

    #[test]
    fn a_closed_connection_is_kept_while_its_port_rests() {
        use crate::tcp::state::{ASSURED, BACKEND_FIN, CLIENT_FIN, REPLIED, RESET};
        const OPEN: u8 = REPLIED | ASSURED;
        for (tcp, stage, kept) in [
            (0, Stage::Syn, IDLE_TRANSIENT),
            (REPLIED, Stage::Syn, IDLE_TRANSIENT),
            (OPEN, Stage::Open, IDLE_ESTABLISHED),
            (OPEN | BACKEND_FIN, Stage::Closing, IDLE_CLOSING),
            (OPEN | BACKEND_FIN | CLIENT_FIN, Stage::Closed, TIME_WAIT),
            (RESET, Stage::Closed, TIME_WAIT),
        ] {
            let flow = Flow { tcp, ..flow() };
            assert_eq!((flow.stage(), flow.kept_for()), (stage, kept), "{tcp:#b}");
        }
        for (tcp, kept) in [(0, IDLE_DATAGRAM), (REPLIED, IDLE_DATAGRAM), (ASSURED, IDLE_DATAGRAMS)]
        {
            let datagrams = Flow { proto: 17, tcp, ..flow() };
            assert_eq!((datagrams.stage(), datagrams.kept_for()), (Stage::Active, kept));
        }
    }

    #[test]
    fn silence_ends_a_datagram_flow_long_before_an_established_connection() {
        const OPEN: u8 = crate::tcp::state::REPLIED | crate::tcp::state::ASSURED;
        let mut flow = Flow { proto: 17, last_used: 5, ..flow() };
        assert!(!flow.is_over(5 + 30 * SECOND));
        assert!(flow.is_over(6 + 30 * SECOND), "one question and its answer");
        flow.tcp = OPEN;
        assert!(!flow.is_over(5 + 120 * SECOND));
        assert!(flow.is_over(6 + 120 * SECOND));
        flow.proto = 6;
        flow.tcp = OPEN;
        assert!(!flow.is_over(3600 * SECOND));
        flow.tcp |= crate::tcp::state::CLIENT_FIN;
        assert!(!flow.is_over(3600 * SECOND), "the answer may take its time");
        assert!(flow.is_over(3606 * SECOND), "half closed and silent");
        flow.tcp = OPEN;
        assert!(!flow.is_over(0), "a clock read before the row's never underflows");
    }
}
