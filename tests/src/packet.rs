//! Packets as the tests write them down, and the bytes that they are on the
//! wire. Checksums and lengths are right unless a test asks otherwise, so two
//! packets compare by their bytes.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "test support: what goes wrong here must end the test"
)]

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Ethernet2Header, IpDscp, IpEcn, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, SingleVlanHeader, TcpHeader, UdpHeader,
    VlanId,
};
use lb_common::tcp::flag;

mod check;
mod icmp;
mod parse;

pub use check::{checksum_fault, outer_checksum_fault, rfc1071, sctp_is_wrong};
pub use parse::{Layer4, Parsed, parse};

/// Source and destination of an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Macs {
    /// Sender.
    pub src: [u8; 6],
    /// Receiver.
    pub dst: [u8; 6],
}

impl Macs {
    /// Those of an answer.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

/// What follows the IP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A TCP segment.
    Tcp {
        /// Bits of [`lb_common::tcp::flag`].
        flags: u8,
        /// Sequence number.
        seq: u32,
        /// Acknowledgement number.
        ack: u32,
        /// Options, a multiple of four bytes.
        options: Vec<u8>,
    },
    /// A UDP datagram.
    Udp {
        /// False leaves the field zero (RFC 768: none computed).
        checksum: bool,
    },
    /// An SCTP packet of one chunk, with a made-up verification tag. What it
    /// carries is padded to a multiple of four bytes.
    Sctp {
        /// Type of the chunk: [`lb_common::sctp::chunk`], or 0 for data.
        chunk: u8,
        /// False leaves the field zero: left to a device.
        checksum: bool,
    },
    /// An ICMP message, of the addresses' family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What follows the checksum.
        rest: [u8; 4],
    },
    /// Another protocol: only the payload.
    Other {
        /// IP protocol number.
        number: u8,
    },
}

/// An IPv6 extension header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its protocol number: 0 hop by hop, 43 routing, 60 destination options.
    pub number: u8,
    /// What follows its first two bytes: 6 bytes, or 6 and a multiple of 8.
    pub content: Vec<u8>,
}

/// Which part of the datagram a fragment carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// First byte, a multiple of 8.
    pub offset: usize,
    /// Number of bytes at most.
    pub len: usize,
    /// What the fragments of a datagram have in common.
    pub id: u16,
}

/// A packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// None: the frame begins with the IP header.
    pub macs: Option<Macs>,
    /// VLAN tags, the outer first.
    pub vlans: Vec<u16>,
    /// Source.
    pub src: SocketAddr,
    /// Destination, of the same family.
    pub dst: SocketAddr,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4 options, a multiple of four bytes.
    pub ip_options: Vec<u8>,
    /// IPv6 extension headers.
    pub extensions: Vec<Extension>,
    /// Set for a fragment.
    pub fragment: Option<Fragment>,
    /// TCP, UDP, SCTP, or what has no ports; those of the addresses are then 0.
    pub transport: Transport,
    /// What it carries.
    pub payload: Vec<u8>,
    /// Bytes that the link added behind the packet.
    pub padding: usize,
}

impl Packet {
    fn new(src: SocketAddr, dst: SocketAddr, transport: Transport) -> Self {
        Self {
            macs: None,
            vlans: Vec::new(),
            src,
            dst,
            ttl: 64,
            traffic_class: 0,
            ip_options: Vec::new(),
            extensions: Vec::new(),
            fragment: None,
            transport,
            payload: Vec::new(),
            padding: 0,
        }
    }

    /// A TCP segment without payload.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        let ack = if flags & flag::ACK == 0 { 0 } else { 0x8182_8384 };
        let transport = Transport::Tcp { flags, seq: 0x0102_0304, ack, options: Vec::new() };
        Self::new(src, dst, transport)
    }

    /// A UDP datagram with a few bytes.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self::new(src, dst, Transport::Udp { checksum: true }).payload(b"datagram")
    }

    /// An SCTP packet of one chunk with a few bytes.
    pub fn sctp(src: SocketAddr, dst: SocketAddr, chunk: u8) -> Self {
        Self::new(src, dst, Transport::Sctp { chunk, checksum: true }).payload(b"what a chunk says")
    }

    /// Within an Ethernet frame.
    #[must_use]
    pub fn macs(mut self, macs: Macs) -> Self {
        self.macs = Some(macs);
        self
    }

    /// With a payload.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// With other sequence numbers; no effect on UDP.
    #[must_use]
    pub fn numbers(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Transport::Tcp { seq, ack, .. } = &mut self.transport {
            *seq = new_seq;
            *ack = new_ack;
        }
        self
    }

    /// From another source.
    #[must_use]
    pub const fn from(mut self, src: SocketAddr) -> Self {
        self.src = src;
        self
    }

    /// To another destination.
    #[must_use]
    pub const fn to(mut self, dst: SocketAddr) -> Self {
        self.dst = dst;
        self
    }

    /// IP protocol number.
    pub const fn proto(&self) -> u8 {
        match self.transport {
            Transport::Tcp { .. } => 6,
            Transport::Udp { .. } => 17,
            Transport::Sctp { .. } => 132,
            Transport::Icmp { .. } if self.src.is_ipv4() => 1,
            Transport::Icmp { .. } => 58,
            Transport::Other { number } => number,
        }
    }

    /// TCP header flags, what stands for them in SCTP, or 0.
    pub const fn tcp_flags(&self) -> u8 {
        match self.transport {
            Transport::Tcp { flags, .. } => flags,
            Transport::Sctp { chunk, .. } => lb_common::sctp::flags(chunk),
            Transport::Udp { .. } | Transport::Icmp { .. } | Transport::Other { .. } => 0,
        }
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let segment = self.segment();
        let (part, more) = match self.fragment {
            None => (segment.as_slice(), false),
            Some(Fragment { offset, len, .. }) => {
                let end = (offset + len).min(segment.len());
                (&segment[offset..end], end < segment.len())
            }
        };
        let mut out = self.link_header();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend(self.ipv4(src.octets(), dst.octets(), part.len(), more));
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend(self.ipv6(src.octets(), dst.octets(), part.len(), more));
            }
            (src, dst) => panic!("{src} and {dst} are not of one family"),
        }
        out.extend(part);
        out.resize(out.len() + self.padding, 0);
        out
    }

    fn link_header(&self) -> Vec<u8> {
        let Some(macs) = self.macs else { return Vec::new() };
        let network = if self.src.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let mut types = vec![EtherType::VLAN_TAGGED_FRAME; self.vlans.len()];
        types.push(network);
        let header =
            Ethernet2Header { source: macs.src, destination: macs.dst, ether_type: types[0] };
        let mut out = header.to_bytes().to_vec();
        for (vlan, ether_type) in self.vlans.iter().zip(&types[1..]) {
            let vlan_id = VlanId::try_new(*vlan).expect("a VLAN id has 12 bits");
            let tag = SingleVlanHeader { vlan_id, ether_type: *ether_type, ..Default::default() };
            out.extend(tag.to_bytes());
        }
        out
    }

    fn ipv4(&self, source: [u8; 4], destination: [u8; 4], payload: usize, more: bool) -> Vec<u8> {
        let mut header = Ipv4Header {
            dscp: IpDscp::try_new(self.traffic_class >> 2).expect("six bits"),
            ecn: IpEcn::try_new(self.traffic_class & 3).expect("two bits"),
            identification: 0x4c42,
            dont_fragment: self.fragment.is_none(),
            time_to_live: self.ttl,
            protocol: IpNumber(self.proto()),
            source,
            destination,
            options: self.ip_options.as_slice().try_into().expect("ten words at most"),
            ..Ipv4Header::default()
        };
        header.set_payload_len(payload).expect("at most 65,535 bytes");
        if let Some(fragment) = self.fragment {
            header.identification = fragment.id;
            header.more_fragments = more;
            header.fragment_offset = offset_in_units(fragment.offset);
        }
        header.header_checksum = header.calc_header_checksum();
        header.to_bytes().to_vec()
    }

    fn ipv6(&self, source: [u8; 16], destination: [u8; 16], payload: usize, more: bool) -> Vec<u8> {
        let mut numbers: Vec<u8> = self.extensions.iter().map(|e| e.number).collect();
        if self.fragment.is_some() {
            numbers.push(44);
        }
        numbers.push(self.proto());
        let mut chain = Vec::new();
        for (extension, next) in self.extensions.iter().zip(&numbers[1..]) {
            let header = Ipv6RawExtHeader::new_raw(IpNumber(*next), &extension.content)
                .expect("content of 6 bytes and a multiple of 8");
            chain.extend_from_slice(&header.to_bytes());
        }
        if let Some(fragment) = self.fragment {
            let header = Ipv6FragmentHeader {
                next_header: IpNumber(self.proto()),
                fragment_offset: offset_in_units(fragment.offset),
                more_fragments: more,
                identification: u32::from(fragment.id),
            };
            chain.extend(header.to_bytes());
        }
        let mut header = Ipv6Header {
            traffic_class: self.traffic_class,
            flow_label: Ipv6FlowLabel::try_new(0x12345).expect("20 bits"),
            next_header: IpNumber(numbers[0]),
            hop_limit: self.ttl,
            source,
            destination,
            ..Ipv6Header::default()
        };
        header.set_payload_length(chain.len() + payload).expect("at most 65,535 bytes");
        let mut out = header.to_bytes().to_vec();
        out.extend(chain);
        out
    }

    /// Transport header with checksum, and payload.
    fn segment(&self) -> Vec<u8> {
        let mut out = match &self.transport {
            Transport::Tcp { flags, seq, ack, options } => {
                let mut header = TcpHeader::new(self.src.port(), self.dst.port(), *seq, 0xfaf0);
                header.acknowledgment_number = *ack;
                header.set_options_raw(options).expect("at most 40 bytes of options");
                let mut bytes = header.to_bytes().to_vec();
                // Whole, so that the flags that the header type splits stay together.
                bytes[13] = *flags;
                bytes
            }
            Transport::Udp { .. } => {
                let length = u16::try_from(8 + self.payload.len()).expect("at most 65,535 bytes");
                let (source_port, destination_port) = (self.src.port(), self.dst.port());
                UdpHeader { source_port, destination_port, length, checksum: 0 }.to_bytes().to_vec()
            }
            Transport::Sctp { chunk, .. } => {
                let mut bytes = Vec::new();
                bytes.extend(self.src.port().to_be_bytes());
                bytes.extend(self.dst.port().to_be_bytes());
                bytes.extend([0x71, 0x72, 0x73, 0x74, 0, 0, 0, 0, *chunk, 0]);
                let length = u16::try_from(4 + self.payload.len()).expect("at most 65,535 bytes");
                bytes.extend(length.to_be_bytes());
                bytes
            }
            Transport::Icmp { kind, code, rest } => [&[*kind, *code, 0, 0], &rest[..]].concat(),
            Transport::Other { .. } => Vec::new(),
        };
        out.extend(&self.payload);
        if let Transport::Sctp { checksum, .. } = self.transport {
            out.resize(out.len().next_multiple_of(4), 0);
            if checksum {
                let sum = check::sctp_checksum(&out);
                out[8..12].copy_from_slice(&sum);
            }
            return out;
        }
        let sum = check::transport_checksum(self.src.ip(), self.dst.ip(), self.proto(), &out);
        match self.transport {
            Transport::Icmp { .. } => out[2..4].copy_from_slice(&sum.to_be_bytes()),
            Transport::Tcp { .. } => out[16..18].copy_from_slice(&sum.to_be_bytes()),
            Transport::Udp { checksum: true } => {
                let sum = if sum == 0 { 0xffff } else { sum };
                out[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            Transport::Udp { checksum: false }
            | Transport::Sctp { .. }
            | Transport::Other { .. } => {}
        }
        out
    }
}

fn offset_in_units(bytes: usize) -> IpFragOffset {
    assert!(bytes.is_multiple_of(8), "a fragment begins at a multiple of 8");
    let units = u16::try_from(bytes / 8).expect("13 bits");
    IpFragOffset::try_new(units).expect("13 bits")
}
