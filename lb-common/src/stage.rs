//! Where a flow stands, and how long it may be silent there before it is over.

use crate::proto::connects;

const SECOND: u64 = 1_000_000_000;

/// After which silence an established connection is over, in nanoseconds: what
/// kube-proxy sets conntrack to for TCP (`--conntrack-tcp-timeout-established`,
/// 24 h). SCTP is never silent for long (RFC 9260 section 8.3: heartbeats), but
/// may be told to be.
pub const IDLE_ESTABLISHED: u64 = 24 * 3600 * SECOND;

/// After which silence a connection is over that one side has closed, in
/// nanoseconds: the other may take its time to answer, so kube-proxy raises
/// conntrack's limit (`--conntrack-tcp-timeout-close-wait`, 1 h).
pub const IDLE_CLOSING: u64 = 3600 * SECOND;

/// After which silence a connection is over that is not established yet, in
/// nanoseconds: conntrack's default `nf_conntrack_tcp_timeout_syn_sent`.
pub const IDLE_TRANSIENT: u64 = 120 * SECOND;

/// After which silence an exchange of datagrams is over, in nanoseconds:
/// conntrack's default `nf_conntrack_udp_timeout_stream`.
pub const IDLE_DATAGRAMS: u64 = 120 * SECOND;

/// After which silence an exchange of datagrams is over that has not lasted for a
/// second, in nanoseconds: conntrack's default
/// `nf_conntrack_udp_timeout`. Most questions to name servers are of this kind,
/// and each holds a port.
pub const IDLE_DATAGRAM: u64 = 30 * SECOND;

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// A connection: the backend has not answered yet, or the client has not
    /// gone on from its answer.
    Syn,
    /// A connection: both sides may send.
    Open,
    /// A connection: one side has closed.
    Closing,
    /// A connection: both sides have closed, or one has reset.
    Closed,
    /// Datagrams: in use, as far as anybody can tell.
    Active,
}

impl Stage {
    /// Where a flow with this protocol and these bits of [`crate::tcp::state`]
    /// stands.
    #[inline(always)]
    pub const fn of(proto: u8, tcp_state: u8) -> Self {
        use crate::tcp::state::{ASSURED, BACKEND_FIN, CLIENT_FIN};
        if !connects(proto) {
            Self::Active
        } else if crate::tcp::is_closed(tcp_state) {
            Self::Closed
        } else if tcp_state & (CLIENT_FIN | BACKEND_FIN) != 0 {
            Self::Closing
        } else if tcp_state & ASSURED != 0 {
            Self::Open
        } else {
            Self::Syn
        }
    }
}

/// After which silence another connection may take over the flow's tuple, in
/// nanoseconds.
pub const fn idle_after(proto: u8, tcp_state: u8) -> u64 {
    match Stage::of(proto, tcp_state) {
        Stage::Active if tcp_state & crate::tcp::state::ASSURED == 0 => IDLE_DATAGRAM,
        Stage::Active => IDLE_DATAGRAMS,
        Stage::Open => IDLE_ESTABLISHED,
        // A closed one is over by itself; until then it is no less than this.
        Stage::Closing | Stage::Closed => IDLE_CLOSING,
        Stage::Syn => IDLE_TRANSIENT,
    }
}
