//! Sends the fragments of a datagram one by one, in any order, as a host's own
//! stack never would.
//!
//! Like clients, it uses the network namespace of the calling thread.

use crate::packet::{Fragment, Packet};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;

/// What a fragment carries at most: an Ethernet frame holds it in both families.
pub const LENGTH: usize = 1_440;

/// A datagram in fragments; `id` is not 0, which the kernel replaces.
pub fn cut(src: SocketAddr, dst: SocketAddr, payload: &[u8], id: u16) -> Vec<Packet> {
    let whole = Packet::udp(src, dst).payload(payload);
    (0..8 + payload.len())
        .step_by(LENGTH)
        .map(|offset| Packet {
            fragment: Some(Fragment { offset, len: LENGTH, id }),
            ..whole.clone()
        })
        .collect()
}

/// Sends packets as they are, without link-layer headers.
pub fn send<'a>(packets: impl IntoIterator<Item = &'a Packet>) -> io::Result<()> {
    for packet in packets {
        let domain = Domain::for_address(packet.dst);
        // With this protocol the IP header is the sender's, in both families.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.send_to(&packet.bytes(), &SocketAddr::new(packet.dst.ip(), 0).into())?;
    }
    Ok(())
}
