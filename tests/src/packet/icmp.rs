//! ICMP messages.

use std::net::{IpAddr, SocketAddr};

use super::{Packet, Transport};

impl Packet {
    /// An ICMP message without a body.
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, code: u8, rest: [u8; 4]) -> Self {
        let (src, dst) = (SocketAddr::new(src, 0), SocketAddr::new(dst, 0));
        Self::new(src, dst, Transport::Icmp { kind, code, rest })
    }

    /// A ping.
    pub fn ping(src: IpAddr, dst: IpAddr) -> Self {
        let kind = if src.is_ipv4() { 8 } else { 128 };
        Self::icmp(src, dst, kind, 0, [0x4c, 0x42, 0, 1]).payload(b"ping, and more of it")
    }

    /// The answer to [`Packet::ping`], as a host sends it.
    #[must_use]
    pub fn pong(&self) -> Self {
        let mut pong = Self { ttl: 64, macs: self.macs.map(super::Macs::reversed), ..self.clone() };
        (pong.src, pong.dst) = (self.dst, self.src);
        if let Transport::Icmp { kind, .. } = &mut pong.transport {
            *kind = if self.src.is_ipv4() { 0 } else { 129 };
        }
        pong
    }

    /// An error with a quote: the first `most` bytes of `about` from its IP
    /// header on, or all of it.
    #[must_use]
    pub fn quoting(self, about: &Self, most: usize) -> Self {
        let mut quote = Self { macs: None, ..about.clone() }.bytes();
        quote.truncate(most);
        self.payload(&quote)
    }

    /// A packet of another protocol.
    pub fn other(src: IpAddr, dst: IpAddr, number: u8) -> Self {
        let (src, dst) = (SocketAddr::new(src, 0), SocketAddr::new(dst, 0));
        Self::new(src, dst, Transport::Other { number }).payload(&[0x5a; 24])
    }
}
