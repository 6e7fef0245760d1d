//! Follows the network: the state now, and again after every change.
//!
//! Messages of the kernel only say that something changed; what is there is
//! then read anew, so a lost message can't leave a wrong picture. Routes are
//! read only when a default route may have changed: there can be many.

use super::decode::{self, Facts};
use super::request::{Message, split};
use super::state::network_state;
use super::{NetlinkError, NetworkState, Pattern};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use tokio::io::unix::AsyncFd;

/// Room for the messages of a burst, such as hundreds of pods that start.
const RECEIVE_BUFFER: usize = 4 << 20;

/// What the user and the cluster say of the interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Attach to interfaces that match one of these only; all if empty.
    pub interfaces: Vec<Pattern>,
    /// Interfaces that lead to other hosts whatever else they look like.
    pub uplinks: Vec<Pattern>,
    /// Which interfaces pods of this node are behind, as clients.
    pub local_clients: LocalClients,
    /// Addresses by which the cluster knows this node: who carries one is an
    /// uplink.
    pub uplink_addresses: BTreeSet<IpAddr>,
}

/// Which interfaces pods of this node are behind, as far as clients are told
/// apart by interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LocalClients {
    /// Those whose role is a pod's.
    #[default]
    Pods,
    /// A bridge and its ports.
    PortsOf(String),
    /// Those whose name begins so.
    Named(String),
    /// None.
    None,
}

/// The network as it is now.
pub fn snapshot(options: &WatchOptions) -> Result<NetworkState, NetlinkError> {
    let facts = Facts {
        links: decode::links()?,
        addresses: decode::addresses()?,
        default_routes: decode::default_routes()?,
    };
    Ok(network_state(&facts, options))
}

/// Index and name of every interface.
pub fn interfaces() -> Result<Vec<(u32, String)>, NetlinkError> {
    Ok(decode::links()?.into_iter().map(|link| (link.index, link.name)).collect())
}

/// Follows the network of the namespace that it was made in.
pub struct NetworkWatcher {
    socket: AsyncFd<Socket>,
    options: WatchOptions,
    facts: Facts,
    state: NetworkState,
    /// What changed and could not be read yet.
    unread: Stale,
}

/// What a change makes worth reading again.
#[derive(Clone, Copy, Default)]
struct Stale {
    links: bool,
    routes: bool,
}

impl Stale {
    const fn any(self) -> bool {
        self.links || self.routes
    }
}

impl NetworkWatcher {
    /// Subscribes, then reads what is there. Needs a tokio runtime.
    pub fn new(options: WatchOptions) -> Result<Self, NetlinkError> {
        let socket = subscribe()?;
        let (facts, state) = (Facts::default(), NetworkState::default());
        let unread = Stale { links: true, routes: true };
        let mut watcher = Self { socket, options, facts, state, unread };
        watcher.read()?;
        Ok(watcher)
    }

    /// The network after the last change that was waited for.
    pub const fn state(&self) -> &NetworkState {
        &self.state
    }

    /// Replaces the addresses by which the cluster knows this node; true if
    /// that changes the state.
    pub fn set_uplink_addresses(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        self.options.uplink_addresses = addresses;
        self.interpret()
    }

    /// Waits until the state is another than [`state`](Self::state) was, and
    /// returns the new one. After an error it reads again at once what it could
    /// not read, and returns the state as it then is. Cancelling it loses nothing.
    pub async fn changed(&mut self) -> Result<&NetworkState, NetlinkError> {
        if self.unread.any() {
            self.read()?;
            return Ok(&self.state);
        }
        loop {
            {
                let ready = self.socket.readable().await;
                let mut ready = ready.map_err(|source| socket_error("wait for changes", source))?;
                drain(self.socket.get_ref(), &mut self.unread)?;
                ready.clear_ready();
            }
            if self.read()? {
                return Ok(&self.state);
            }
        }
    }

    /// Reads what is unread; true if the state changed.
    fn read(&mut self) -> Result<bool, NetlinkError> {
        let stale = self.unread;
        if !stale.any() {
            return Ok(false);
        }
        let links = decode::links()?;
        // The kernel drops IPv4 routes of an interface that goes away or down
        // without a message about each.
        let lost = |index: &u32| !links.iter().any(|link| link.index == *index && link.running);
        if stale.routes || self.facts.default_routes.iter().any(lost) {
            self.facts.default_routes = decode::default_routes()?;
        }
        self.facts.links = links;
        self.facts.addresses = decode::addresses()?;
        self.unread = Stale::default();
        Ok(self.interpret())
    }

    fn interpret(&mut self) -> bool {
        let state = network_state(&self.facts, &self.options);
        let changed = state != self.state;
        self.state = state;
        changed
    }
}

fn subscribe() -> Result<AsyncFd<Socket>, NetlinkError> {
    let mut socket =
        Socket::new(NETLINK_ROUTE).map_err(|source| socket_error("open a socket", source))?;
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    socket
        .bind(&SocketAddr::new(0, groups.cast_unsigned()))
        .map_err(|source| socket_error("subscribe", source))?;
    // A smaller buffer only means that a burst is read anew as a whole.
    if let Err(error) = socket.set_rx_buf_sz(i32::try_from(RECEIVE_BUFFER).unwrap_or(i32::MAX)) {
        tracing::debug!(%error, "netlink: keep the default receive buffer");
    }
    socket.set_non_blocking(true).map_err(|source| socket_error("watch a socket", source))?;
    // SAFETY: the socket owns its descriptor and keeps it until it is dropped;
    // only shared references to it are handed out.
    let socket = unsafe { AsyncFd::register(socket) };
    socket.map_err(|error| socket_error("watch a socket", error.into()))
}

/// Takes every message that waits, and notes in `stale` what they change.
fn drain(socket: &Socket, stale: &mut Stale) -> Result<(), NetlinkError> {
    loop {
        match socket.recv_from_full() {
            Ok((datagram, _)) => {
                let mut rest = datagram.as_slice();
                while let Some((message, after)) = split(rest) {
                    note(&message, stale);
                    rest = after;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Messages were lost: anything may have changed.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                *stale = Stale { links: true, routes: true };
            }
            Err(source) => return Err(socket_error("receive changes", source)),
        }
    }
}

fn note(message: &Message, stale: &mut Stale) {
    match message.kind {
        libc::RTM_NEWLINK | libc::RTM_DELLINK | libc::RTM_NEWADDR | libc::RTM_DELADDR => {
            stale.links = true;
        }
        libc::RTM_NEWROUTE | libc::RTM_DELROUTE => {
            stale.routes |= !decode::default_route(message).is_empty();
        }
        _ => {}
    }
}

const fn socket_error(operation: &'static str, source: io::Error) -> NetlinkError {
    NetlinkError::Socket { operation, source }
}
