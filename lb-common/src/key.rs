//! Keys of the hash maps.

use crate::addr::BePort;

/// Key of the frontend maps: what a client dials.
///
/// A row with port 0 and protocol 0 marks an address that belongs to Services
/// as a whole (a ClusterIP), so that an unknown port on it is refused instead
/// of being routed away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub struct FrontendKey<A> {
    /// The address dialled.
    pub addr: A,
    /// The port dialled, or 0 for the row of the address.
    pub port: BePort,
    /// IP protocol number (6 TCP, 17 UDP), or 0 for the row of the address.
    pub proto: u8,
    /// One of [`place`].
    pub place: u8,
}

/// Where a frontend is dialled; the value of [`FrontendKey::place`].
pub mod place {
    /// On the network, and by sockets of this node.
    pub const ANYWHERE: u8 = 0;
    /// By sockets of this node alone: a node port on a loopback address. A
    /// packet that comes from outside with such an address must not match.
    pub const LOOPBACK: u8 = 1;
}

impl<A> FrontendKey<A> {
    /// Key of a port of an address.
    #[inline(always)]
    pub const fn new(addr: A, port: BePort, proto: u8) -> Self {
        Self { addr, port, proto, place: place::ANYWHERE }
    }

    /// Key of a port of a loopback address.
    #[inline(always)]
    pub const fn loopback(addr: A, port: BePort, proto: u8) -> Self {
        Self { addr, port, proto, place: place::LOOPBACK }
    }

    /// Key of the row that claims the whole address.
    #[inline(always)]
    pub const fn address(addr: A) -> Self {
        Self { addr, port: BePort::NONE, proto: 0, place: place::ANYWHERE }
    }
}

/// Which kind of lookup a flow row answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Packets that enter at an edge: from a client towards a frontend, and
    /// replies to an address that this node put in as the source.
    Ingress = 1,
    /// Packets that leave at the client's edge: from a backend to the client.
    Egress = 2,
}

/// Key of the flow maps: a packet's tuple as it is when it meets the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: BePort,
    /// Destination port.
    pub dport: BePort,
    /// IP protocol number.
    pub proto: u8,
    /// A [`Direction`].
    pub direction: u8,
    /// Always 0.
    pub pad: [u8; 2],
}

/// Key of the affinity maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct AffinityKey<A> {
    /// The client's address, as it was before any translation.
    pub client: A,
    /// The Service port: all its frontends share what a client was given.
    pub service: u32,
}

/// What the prefix maps match: a longest-prefix lookup over both fields, with
/// the owner always whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PrefixKey<A> {
    /// The Service port whose source ranges these are, [`PODS`], or
    /// [`SERVICE_CIDRS`].
    pub owner: u32,
    /// An address, of which the first bits count.
    pub addr: A,
}

/// [`PrefixKey::owner`] of the ranges in which clients are local pods
/// (`--detect-local cluster-cidr`). No Service port has this id.
pub const PODS: u32 = 0;
/// [`PrefixKey::owner`] of the ranges that the cluster takes Services' addresses
/// from. No Service port has this id.
pub const SERVICE_CIDRS: u32 = u32::MAX;

const _: () = {
    use crate::addr::{V4, V6};
    assert!(size_of::<FrontendKey<V4>>() == 8);
    assert!(size_of::<FrontendKey<V6>>() == 20);
    assert!(size_of::<FlowKey<V4>>() == 16);
    assert!(size_of::<FlowKey<V6>>() == 40);
    assert!(size_of::<AffinityKey<V4>>() == 8 && size_of::<AffinityKey<V6>>() == 20);
    assert!(size_of::<PrefixKey<V4>>() == 8 && size_of::<PrefixKey<V6>>() == 20);
};
