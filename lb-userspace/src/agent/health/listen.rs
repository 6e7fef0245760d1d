//! Sockets that listen on one family each, so that the same port of both can be
//! told apart and taken one by one.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::TcpListener;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on an address; on an IPv6 one for IPv6 only.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of an agent that has just ended must not keep the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Listens on all addresses of a family; `None` if the kernel does not have it.
pub(super) fn listen_any(address: SocketAddr) -> io::Result<Option<TcpListener>> {
    match listen(address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All addresses of IPv4 and of IPv6.
pub(super) fn everywhere(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

/// Listens on all addresses of both families.
pub(super) fn listen_everywhere(port: u16) -> [io::Result<Option<TcpListener>>; 2] {
    everywhere(port).map(listen_any)
}
