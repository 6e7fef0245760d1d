//! What a frame says, for tests that can't compare whole frames: answers whose
//! sender is free in some fields, and frames with a port chosen at random.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, LinkSlice, NetSlice, SlicedPacket, TransportSlice};

use super::Macs;

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer4 {
    /// A TCP segment.
    Tcp {
        /// Byte 13 of the header.
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
    },
    /// A UDP datagram.
    Udp,
    /// An SCTP packet; what it carries begins behind its first chunk's header.
    Sctp {
        /// Type of the first chunk.
        chunk: u8,
    },
    /// An ICMP or ICMPv6 message.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
        /// What follows its eight bytes of header.
        quote: Vec<u8>,
    },
}

/// A frame, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// None if the frame begins with the IP header.
    pub macs: Option<Macs>,
    /// Source; port 0 for ICMP.
    pub src: SocketAddr,
    /// Destination; port 0 for ICMP.
    pub dst: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// What follows.
    pub layer4: Layer4,
    /// What that carries; empty for ICMP.
    pub payload: Vec<u8>,
}

/// Reads an unfragmented TCP, UDP, SCTP, ICMP or ICMPv6 packet; none for all else.
pub fn parse(frame: &[u8], ethernet: bool) -> Option<Parsed> {
    let sliced =
        if ethernet { SlicedPacket::from_ethernet(frame) } else { SlicedPacket::from_ip(frame) };
    let sliced = sliced.ok()?;
    let macs = match &sliced.link {
        Some(LinkSlice::Ethernet2(link)) => {
            Some(Macs { src: link.source(), dst: link.destination() })
        }
        _ => None,
    };
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.ttl())
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        Some(NetSlice::Arp(_)) | None => return None,
    };
    let (ports, layer4, payload) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let flags = tcp.slice()[13];
            let (seq, ack) = (tcp.sequence_number(), tcp.acknowledgment_number());
            let ports = (tcp.source_port(), tcp.destination_port());
            (ports, Layer4::Tcp { flags, seq, ack }, tcp.payload().to_vec())
        }
        Some(TransportSlice::Udp(udp)) => {
            ((udp.source_port(), udp.destination_port()), Layer4::Udp, udp.payload().to_vec())
        }
        Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => {
            let message = sliced.ip_payload()?.payload;
            let quote = message.get(8..)?.to_vec();
            ((0, 0), Layer4::Icmp { kind: message[0], code: message[1], quote }, Vec::new())
        }
        None => {
            let ip = sliced.ip_payload().filter(|ip| ip.ip_number == IpNumber::SCTP)?;
            let &[a, b, c, d, .., chunk, _, _, _] = ip.payload.get(..16)? else { return None };
            let ports = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            (ports, Layer4::Sctp { chunk }, ip.payload[16..].to_vec())
        }
        Some(TransportSlice::Igmp(_)) => return None,
    };
    let (src, dst) = (SocketAddr::new(src, ports.0), SocketAddr::new(dst, ports.1));
    Some(Parsed { macs, src, dst, ttl, layer4, payload })
}

impl Parsed {
    /// The TCP flags, what stands for them in SCTP, or 0.
    pub const fn tcp_flags(&self) -> u8 {
        match self.layer4 {
            Layer4::Tcp { flags, .. } => flags,
            Layer4::Sctp { chunk } => lb_common::sctp::flags(chunk),
            Layer4::Udp | Layer4::Icmp { .. } => 0,
        }
    }
}
