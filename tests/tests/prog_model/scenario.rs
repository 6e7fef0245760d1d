//! What may happen: Services with endpoints out of a common pool, so that they
//! share some; few clients with few ports, so that tuples meet again.

use lb_common::tcp::flag;
use lb_common::value::backend_state;
use lb_userspace::desired::Protocol;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Endpoints to choose from: see `World`.
pub(crate) const POOL: usize = 6;
/// Clients to choose from.
pub(crate) const CLIENTS: usize = 5;

/// A Service port.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Which endpoints of the pool it has.
    pub(crate) endpoints: [bool; POOL],
    /// Random instead of round-robin.
    pub(crate) random: bool,
}

/// What a client dials.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// A Service's ClusterIP.
    ClusterIp(Index),
    /// A Service's node port.
    NodePort(Index),
    /// A port that a ClusterIP does not have.
    UnknownPort(Index),
    /// An address that no Service has, though Services' addresses are around it.
    Unallocated(u8),
    /// An endpoint, past the Services.
    Direct(Index),
}

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A client sends.
    Send { client: Index, port: u16, target: Target, flags: u8, xdp: bool },
    /// A backend answers a packet that it has got.
    Reply { to: Index, flags: u8, xdp: bool },
    /// A backend's state changes.
    State { backend: Index, state: u8 },
    /// A backend's row is given to another endpoint.
    Give { backend: Index, endpoint: Index },
}

/// Services and what happens to them.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) v6: bool,
    pub(crate) protocol: Protocol,
    /// Whether the range of Services' addresses is known.
    pub(crate) cidr: bool,
    pub(crate) services: Vec<Spec>,
    pub(crate) ops: Vec<Op>,
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        4 => any::<Index>().prop_map(Target::ClusterIp),
        4 => any::<Index>().prop_map(Target::NodePort),
        1 => any::<Index>().prop_map(Target::UnknownPort),
        1 => (100..110_u8).prop_map(Target::Unallocated),
        3 => any::<Index>().prop_map(Target::Direct),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    const FIN: u8 = flag::FIN | flag::ACK;
    let client_flags = select(vec![flag::SYN, flag::SYN, flag::SYN, flag::ACK, FIN, flag::RST]);
    let backend_flags = select(vec![flag::SYN | flag::ACK, flag::ACK, FIN, FIN, flag::RST]);
    let state = select(vec![
        backend_state::ACTIVE,
        backend_state::ACTIVE,
        backend_state::TERMINATING,
        backend_state::REMOVED,
    ]);
    prop_oneof![
        12 => (any::<Index>(), 4000..4002_u16, target(), client_flags, any::<bool>()).prop_map(
            |(client, port, target, flags, xdp)| Op::Send { client, port, target, flags, xdp }
        ),
        8 => (any::<Index>(), backend_flags, any::<bool>())
            .prop_map(|(to, flags, xdp)| Op::Reply { to, flags, xdp }),
        2 => (any::<Index>(), state).prop_map(|(backend, state)| Op::State { backend, state }),
        1 => (any::<Index>(), any::<Index>())
            .prop_map(|(backend, endpoint)| Op::Give { backend, endpoint }),
    ]
}

/// Every scenario.
pub(crate) fn scenarios() -> impl Strategy<Value = Scenario> {
    let spec = (any::<[bool; POOL]>(), any::<bool>())
        .prop_map(|(endpoints, random)| Spec { endpoints, random });
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    (any::<bool>(), protocol, any::<bool>(), vec(spec, 1..4), vec(op(), 1..120)).prop_map(
        |(v6, protocol, cidr, services, ops)| Scenario { v6, protocol, cidr, services, ops },
    )
}
