//! One end of an SCTP association, chunk by chunk, on a raw socket: kernels
//! without SCTP still carry its packets.

use crate::netns::Namespace;
use crate::packet::{Packet, sctp_is_wrong};
use anyhow::{Result, bail, ensure};
use lb_common::proto;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// How long a packet may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A port of an address in a namespace.
#[derive(Debug)]
pub struct End {
    /// A raw socket: the standard library has none, but this type's calls.
    socket: UdpSocket,
    own: SocketAddr,
}

/// A packet that arrived, its checksum right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Who sent it.
    pub from: SocketAddr,
    /// Type of its chunk.
    pub chunk: u8,
    /// What the chunk carries, with its padding.
    pub payload: Vec<u8>,
}

impl End {
    /// An end on this address of the namespace.
    pub fn open(netns: &Namespace, own: SocketAddr) -> Result<Self> {
        let domain = Domain::for_address(own);
        let protocol = Some(Protocol::from(i32::from(proto::SCTP)));
        let socket = netns.run(|| Socket::new(domain, Type::RAW, protocol))??;
        // A raw socket has no port of its own; some families insist on zero.
        socket.bind(&SocketAddr::new(own.ip(), 0).into())?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self { socket: socket.into(), own })
    }

    /// Errors about packets to this address are the socket's from now on.
    pub fn connect(&self, to: IpAddr) -> io::Result<()> {
        self.socket.connect(SocketAddr::new(to, 0))
    }

    /// Sends a packet of one chunk.
    pub fn send(&self, to: SocketAddr, chunk: u8, payload: &[u8]) -> io::Result<()> {
        let bytes = Packet::sctp(self.own, to, chunk).payload(payload).bytes();
        let header = if self.own.is_ipv4() { 20 } else { 40 };
        self.socket.send_to(&bytes[header..], SocketAddr::new(to.ip(), 0)).map(drop)
    }

    /// The next packet to this end's port.
    pub fn receive(&self) -> Result<Arrived> {
        let begin = Instant::now();
        let mut buffer = vec![0; 65_536];
        while begin.elapsed() < LIMIT {
            let (len, from) = self.socket.recv_from(&mut buffer)?;
            // IPv4's raw sockets give the header too.
            let start = if self.own.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            let packet = &buffer[start..len];
            ensure!(packet.len() >= 16, "a packet of {} bytes", packet.len());
            let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
            if port(2) != self.own.port() {
                continue;
            }
            ensure!(!sctp_is_wrong(packet), "a wrong checksum: {packet:02x?}");
            let from = SocketAddr::new(from.ip(), port(0));
            return Ok(Arrived { from, chunk: packet[12], payload: packet[16..].to_vec() });
        }
        bail!("nothing came to {} within {LIMIT:?}", self.own)
    }
}
