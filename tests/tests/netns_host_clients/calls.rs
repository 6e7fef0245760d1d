//! What an application does with sockets, call by call.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::PATIENCE;
use lb_tests::manifest::Service;
use lb_tests::topology::Addresses;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// The node port of HTTP.
pub(crate) const HTTP: u16 = 30080;
/// The node port of the echo.
pub(crate) const UDP: u16 = 30053;

/// The Service of these tests.
pub(crate) fn web() -> Service {
    Service::new("web", 1).http(HTTP).udp(UDP)
}

/// An IPv4 address as an IPv6 socket dials it.
pub(crate) fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Where a process of a node finds the Service: addresses, with the ports of
/// HTTP and of the echo.
pub(crate) fn places(node: Addresses) -> Vec<(IpAddr, u16, u16)> {
    let loopback = |text: &str| text.parse::<IpAddr>().expect("an address");
    let [own_v4, own_v6] = node.both();
    let cluster = web().addresses.both();
    vec![
        (cluster[0], 80, 53),
        (cluster[1], 80, 53),
        (mapped(cluster[0]), 80, 53),
        (own_v4, HTTP, UDP),
        (own_v6, HTTP, UDP),
        (mapped(own_v4), HTTP, UDP),
        (loopback("127.0.0.1"), HTTP, UDP),
        (loopback("127.1.2.3"), HTTP, UDP),
        (loopback("0.0.0.0"), HTTP, UDP),
        (loopback("::1"), HTTP, UDP),
        (loopback("::ffff:127.0.0.1"), HTTP, UDP),
    ]
}

/// A UDP socket on a port (0 for any), of the family of an address; an IPv6 one
/// takes IPv4 too.
pub(crate) fn udp_socket(like: SocketAddr, port: u16) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(like), Type::DGRAM, Some(Protocol::UDP))?;
    let any: IpAddr = if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        socket.set_only_v6(false)?;
        Ipv6Addr::UNSPECIFIED.into()
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket.into())
}

/// The backend that an echo names.
pub(crate) fn backend_of(echo: &[u8]) -> Result<String> {
    let text = std::str::from_utf8(echo)?;
    Ok(text.split(' ').next().context("an empty echo")?.to_owned())
}

/// One datagram and its echo, without a connection: the backend, if the echo
/// comes from whom it was sent to.
pub(crate) fn echo_unconnected(socket: &UdpSocket, to: SocketAddr) -> Result<String> {
    socket.send_to(b"hello", to).with_context(|| format!("send to {to}"))?;
    let mut buffer = [0; 512];
    let (length, from) =
        socket.recv_from(&mut buffer).with_context(|| format!("the echo from {to}"))?;
    ensure!(from == to, "the echo of {to} comes from {from}");
    backend_of(&buffer[..length])
}
