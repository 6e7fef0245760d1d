//! The network of this namespace: which interfaces packets of Services pass,
//! what each of them is for, and which addresses are the node's own.
//!
//! In come netlink messages of links, addresses and routes; out goes a
//! [`NetworkState`], again after each change. Nothing here touches BPF or
//! changes the network, except [`tc`], which removes what the data plane left,
//! and [`sock_diag`], which tells sockets that their peer is gone.

mod classify;
mod decode;
mod pattern;
mod request;
pub mod sock_diag;
mod source;
mod state;
pub mod tc;
mod watch;

pub use classify::{PolicyHints, classify};
pub use decode::{AddressFacts, Facts, LinkFacts};
pub use pattern::{Pattern, PatternError};
pub use state::network_state;
pub use watch::{LocalClients, NetworkWatcher, WatchOptions, interfaces, snapshot};

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an interface is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Leads to other hosts.
    Uplink,
    /// Leads to one pod of this node: addresses of clients are kept.
    Pod,
    /// Leads to other nodes' pods through an encapsulation.
    Tunnel,
}

impl Role {
    /// The number that the interface map holds for it.
    pub const fn number(self) -> u8 {
        match self {
            Self::Uplink => lb_common::value::role::UPLINK,
            Self::Pod => lb_common::value::role::POD,
            Self::Tunnel => lb_common::value::role::TUNNEL,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uplink => "uplink",
            Self::Pod => "pod",
            Self::Tunnel => "tunnel",
        })
    }
}

/// What an interface leads to, as far as packets are treated differently for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Beyond {
    /// Nothing special.
    #[default]
    Link,
    /// It is a port of a bridge.
    Bridge,
    /// It is a veth whose other end is in another network namespace.
    Namespace,
}

/// An interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Kind as `ip -d link` shows it (`veth`, `vxlan`); none for a physical one.
    pub kind: Option<String>,
    /// What it is for.
    pub role: Role,
    /// Whether packets begin with an Ethernet header.
    pub has_mac: bool,
    /// Its Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// What it leads to.
    pub beyond: Beyond,
    /// Whether clients behind it are taken for pods of this node.
    pub local_clients: bool,
    /// Source of IPv4 flows that need this node's address here.
    pub snat_v4: Option<Ipv4Addr>,
    /// Source of IPv6 flows that need this node's address here.
    pub snat_v6: Option<Ipv6Addr>,
}

/// The network as far as it concerns Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// The interfaces to attach to, by index.
    pub links: Vec<Link>,
    /// The node's own addresses, neither loopback nor link-local: node ports
    /// answer on them.
    pub node_addresses: BTreeSet<IpAddr>,
}

/// Why the network could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or used.
    #[error("netlink: cannot {operation}: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("netlink: the kernel refused to {operation}: {source}")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A reply ended in the middle of a message.
    #[error("netlink: the reply to \"{operation}\" is cut short")]
    Truncated {
        /// What was asked for.
        operation: &'static str,
    },
}
