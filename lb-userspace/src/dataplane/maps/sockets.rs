//! `LB_SOCKETS_TCP` and `LB_SOCKETS_UDP`: which sockets of this node are
//! connected to which backends.

use super::error::MapsError;
use super::{BackendTable, FrontendId, FrontendTable, open_pin, typed};
use aya::maps::{HashMap, MapData, MapError};
use lb_common::socket::at_place;
use lb_common::{Backend, Frontend, SocketPeer, V4, V6, names};
use std::net::IpAddr;
use std::path::Path;

const PROTO: u8 = 17;

/// Connected sockets of one protocol.
pub struct ConnectedSockets {
    rows: HashMap<MapData, u64, SocketPeer>,
    name: &'static str,
}

impl ConnectedSockets {
    /// Opens both maps, TCP's first, that are pinned below `pin_dir`.
    pub fn open_both(pin_dir: &Path) -> Result<[Self; 2], MapsError> {
        Ok([
            Self::open(pin_dir, names::MAP_SOCKETS_TCP)?,
            Self::open(pin_dir, names::MAP_SOCKETS_UDP)?,
        ])
    }

    fn open(pin_dir: &Path, name: &'static str) -> Result<Self, MapsError> {
        Ok(Self { rows: typed(open_pin(pin_dir, name)?, name)?, name })
    }

    /// Every socket by its cookie. One that is opened or closed meanwhile may
    /// be there or not.
    pub fn rows(&self) -> Result<Vec<(u64, SocketPeer)>, MapsError> {
        let mut rows = Vec::new();
        for row in &self.rows {
            match row {
                Ok(row) => rows.push(row),
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(MapsError::Read { map: self.name, source }),
            }
        }
        Ok(rows)
    }
}

/// Forgets all TCP sockets: those that were closed while no program saw it would
/// count as open for ever, and the others only lose the name that they dialled.
pub fn forget_tcp_sockets(pin_dir: &Path) -> Result<(), MapsError> {
    let mut sockets = ConnectedSockets::open(pin_dir, names::MAP_SOCKETS_TCP)?;
    for (cookie, _) in sockets.rows()? {
        match sockets.rows.remove(&cookie) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(source) => {
                let row = format!("socket {cookie}");
                return Err(MapsError::Write { map: sockets.name, row, source });
            }
        }
    }
    Ok(())
}

/// Connected UDP sockets, and what they depend on.
pub struct SocketTable {
    sockets: ConnectedSockets,
    backends: BackendTable,
    frontends: FrontendTable,
}

impl SocketTable {
    /// Opens the maps that are pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let open = |map| open_pin(pin_dir, map);
        Ok(Self {
            sockets: ConnectedSockets::open(pin_dir, names::MAP_SOCKETS_UDP)?,
            backends: BackendTable::open(&open(names::MAP_BACKENDS)?)?,
            frontends: FrontendTable::open(pin_dir)?,
        })
    }

    /// Every socket by its cookie.
    pub fn rows(&self) -> Result<Vec<(u64, SocketPeer)>, MapsError> {
        self.sockets.rows()
    }

    /// The row of the backend that a socket was given.
    pub fn backend(&self, peer: &SocketPeer) -> Option<Backend> {
        self.backends.get(peer.backend)
    }

    /// The row of the frontend that a socket dialled, if it is still there.
    pub fn frontend(&self, peer: &SocketPeer) -> Result<Option<Frontend>, MapsError> {
        self.frontends.get(dialled(peer))
    }

    /// Forgets a socket, unless it was given another backend meanwhile.
    pub fn forget(&mut self, cookie: u64, peer: &SocketPeer) -> Result<(), MapsError> {
        let rows = &mut self.sockets.rows;
        let same = rows.get(&cookie, 0).map(|row| row == *peer);
        match same.and_then(|same| if same { rows.remove(&cookie) } else { Ok(()) }) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => {
                let row = format!("socket {cookie}");
                Err(MapsError::Write { map: names::MAP_SOCKETS_UDP, row, source })
            }
        }
    }
}

/// The frontend's row, as the program found it.
fn dialled(peer: &SocketPeer) -> FrontendId {
    let name = peer.frontend;
    let (addr, loopback): (IpAddr, bool) = if let Some(addr) = name.addr.to_unmapped() {
        let (addr, loopback): (V4, bool) = at_place(addr);
        (addr.into(), loopback)
    } else {
        let (addr, loopback): (V6, bool) = at_place(name.addr);
        (addr.into(), loopback)
    };
    let port = name.port.get();
    if loopback {
        FrontendId::loopback(addr, port, PROTO)
    } else {
        FrontendId::port(addr, port, PROTO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{BePort, SocketName};

    #[test]
    fn what_was_dialled_is_found_again_in_every_form() {
        let of = |addr: V6| {
            let frontend = SocketName::new(addr, BePort::new(30053));
            dialled(&SocketPeer { frontend, ..SocketPeer::default() })
        };
        let v4 = |text: &str| V4::from(text.parse::<std::net::Ipv4Addr>().unwrap()).to_mapped();
        let v6 = |text: &str| V6::from(text.parse::<std::net::Ipv6Addr>().unwrap());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(of(v4("10.96.0.1")), FrontendId::port(ip("10.96.0.1"), 30053, 17));
        assert_eq!(of(v6("fd00::1")), FrontendId::port(ip("fd00::1"), 30053, 17));
        let local = FrontendId::loopback(ip("127.0.0.1"), 30053, 17);
        assert_eq!([of(v4("127.0.0.9")), of(v4("0.0.0.0"))], [local; 2]);
        assert_eq!(of(v6("::1")), FrontendId::loopback(ip("::1"), 30053, 17));
    }
}
