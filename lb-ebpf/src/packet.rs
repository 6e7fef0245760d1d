//! The packet's headers: where they are and what they say. The only module
//! that reads packet memory.

use core::cell::UnsafeCell;

use lb_common::limits::MAX_EXTENSION_HEADERS;
use lb_common::proto::{self, SCTP, TCP, UDP};
use lb_common::{Address, BePort, Tuple, V4, V6, sctp};
use network_types::ip::{Ipv4Hdr, Ipv6Hdr};

/// Stands for the protocol of a packet whose headers are cut off, or longer
/// than we walk. (IANA reserves the number.)
const UNKNOWN: u8 = 255;

/// EtherType of IPv4, as it stands in memory.
pub(crate) const ETHERTYPE_V4: u16 = 0x0800_u16.to_be();
/// EtherType of IPv6, as it stands in memory.
pub(crate) const ETHERTYPE_V6: u16 = 0x86dd_u16.to_be();

/// The bytes that may be read, as the kernel gives them: every read is checked
/// against `end`, since the verifier accepts no other proof.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// First byte.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
}

impl Window {
    /// A pointer to `T` at `offset`, if all of it is inside.
    #[inline(always)]
    pub(crate) fn at<T>(self, offset: usize) -> Option<*mut T> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        Some(start as *mut T)
    }

    /// A copy of the `T` at `offset`.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(self, offset: usize) -> Option<T> {
        let ptr = self.at::<T>(offset)?;
        // SAFETY: `at` checked the bounds; T is an integer or a structure of
        // integers, and BPF loads need no alignment in packet memory.
        Some(unsafe { *ptr })
    }
}

/// Where a packet stands in a fragmented datagram.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// Not fragmented.
    Whole,
    /// The first fragment: it has the ports.
    First,
    /// A later fragment: no ports.
    Later,
}

/// What the pipeline needs to know of a packet.
pub(crate) struct Packet<A> {
    /// Addresses and ports; ports are 0 in a later fragment, and where the
    /// protocol has none.
    pub(crate) tuple: Tuple<A>,
    /// IP protocol number.
    pub(crate) proto: u8,
    /// TCP header flags, or what stands for them in SCTP; 0 for other
    /// protocols.
    pub(crate) flags: u8,
    /// Fragment position.
    pub(crate) fragment: Fragment,
    /// Identification of the datagram that a fragment belongs to.
    pub(crate) id: u32,
    /// Offset of the transport header.
    pub(crate) l4: usize,
    /// Length of the IP packet in bytes, by its header: a link may have padded
    /// the frame.
    pub(crate) len: u32,
    /// Keeps the packet off the stack.
    #[expect(dead_code, reason = "its type has the effect")]
    pub(crate) read_again: ReadAgain,
}

/// Has the compiler read what it is part of again from memory behind each call
/// of a helper, which may have changed it for all that is known. It would keep
/// everything that it has read once on the stack otherwise, which has no room.
pub(crate) struct ReadAgain(UnsafeCell<()>);

// SAFETY: there is nothing inside.
unsafe impl Sync for ReadAgain {}

impl ReadAgain {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(()))
    }
}

impl<A> Packet<A> {
    /// Whether it is of a protocol that Services may have.
    #[inline(always)]
    pub(crate) fn has_ports(&self) -> bool {
        proto::has_ports(self.proto)
    }
}

/// The parts of a TCP header that matter here (RFC 9293 section 3.1). One
/// structure, so that one check covers all of it: the verifier ties a proof to
/// the pointer that was compared.
#[repr(C)]
pub(crate) struct TcpHeader {
    sport: u16,
    dport: u16,
    _sequence: [u16; 4],
    _offset: u8,
    flags: u8,
    _window: u16,
    pub(crate) checksum: u16,
    _urgent: u16,
}

/// Likewise for UDP (RFC 768).
#[repr(C)]
pub(crate) struct UdpHeader {
    sport: u16,
    dport: u16,
    _len: u16,
    pub(crate) checksum: u16,
}

/// Likewise for SCTP with the type of the first chunk (RFC 9260 section 3).
#[repr(C)]
pub(crate) struct SctpHeader {
    sport: u16,
    dport: u16,
    _tag: [u16; 2],
    /// In two halves: the header stands at an even offset, no more.
    pub(crate) checksum: [u16; 2],
    chunk: u8,
    _flags: u8,
    _length: u16,
}

/// Where a packet ends of which `len` bytes are from `start` on, by its header. 0
/// stands for more than the field can say, of a packet that a device is to cut.
#[inline(always)]
fn end(start: usize, len: u16) -> usize {
    // Without a branch, which the verifier would go on from twice.
    start + usize::from(len.wrapping_sub(1)) + 1
}

/// Reads ports and TCP flags into a packet whose protocol has them. What stands
/// behind `end` is none of the packet's.
#[inline(always)]
fn transport<A: Address>(window: Window, packet: &mut Packet<A>, end: usize) -> Option<()> {
    if packet.proto == TCP {
        let header = header::<TcpHeader>(window, packet.l4, end)?;
        // SAFETY: `at` checked that the whole header is inside the packet.
        let header = unsafe { &*header };
        packet.flags = header.flags;
        packet.tuple.sport = BePort(header.sport);
        packet.tuple.dport = BePort(header.dport);
    } else if packet.proto == UDP {
        let header = header::<UdpHeader>(window, packet.l4, end)?;
        // SAFETY: as above.
        let header = unsafe { &*header };
        packet.tuple.sport = BePort(header.sport);
        packet.tuple.dport = BePort(header.dport);
    } else if packet.proto == SCTP {
        let header = header::<SctpHeader>(window, packet.l4, end)?;
        // SAFETY: as above.
        let header = unsafe { &*header };
        packet.flags = sctp::flags(header.chunk);
        packet.tuple.sport = BePort(header.sport);
        packet.tuple.dport = BePort(header.dport);
    }
    Some(())
}

/// A pointer to a header at `l4` of a packet that ends at `end`.
#[inline(always)]
fn header<T>(window: Window, l4: usize, end: usize) -> Option<*mut T> {
    if l4 + size_of::<T>() > end { None } else { window.at(l4) }
}

/// Offset of the time to live in the IPv4 header (RFC 791 section 3.1).
pub(crate) const V4_TTL: usize = 8;
/// Offset of the header checksum in the IPv4 header.
pub(crate) const V4_CHECKSUM: usize = 10;
/// Offset of the addresses, source first, in the IPv4 header.
pub(crate) const V4_ADDRESSES: usize = 12;
/// Offset of the hop limit in the IPv6 header (RFC 8200 section 3).
pub(crate) const V6_HOP_LIMIT: usize = 7;
/// Offset of the addresses, source first, in the IPv6 header.
pub(crate) const V6_ADDRESSES: usize = 8;
/// Length of the fixed IPv6 header.
pub(crate) const V6_LEN: usize = Ipv6Hdr::LEN;

/// Passes a packet through memory, to make the verifier forget how it was
/// parsed. It would follow every way through the headers to the end of the
/// program separately; now it follows one. (A volatile write: what is read
/// behind it comes from memory.)
#[inline(always)]
pub(crate) fn forget_the_way<A: Address>(
    packet: Packet<A>,
    memory: *mut Parsed<A>,
) -> &'static mut Parsed<A> {
    // SAFETY: the caller's memory is valid for a packet, and nobody else's.
    let parsed = unsafe { &mut *memory };
    // SAFETY: as above; it stays so for this run.
    unsafe { (&raw mut parsed.packet).write_volatile(packet) };
    parsed.to = parsed.packet.tuple;
    parsed
}

/// A packet, and what it is to become: beside it, since the stack is full.
#[repr(C)]
pub(crate) struct Parsed<A> {
    /// What the parser found.
    pub(crate) packet: Packet<A>,
    /// The packet's own tuple at first.
    pub(crate) to: Tuple<A>,
    /// In the egress hook, not zero for a reply that leaves by another interface than
    /// the client's first packet came in by. Here, so that the verifier does not follow
    /// both ways.
    pub(crate) astray: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AddressPair<A> {
    src: A,
    dst: A,
}

/// A packet over IPv4 whose IP header begins at `l3`; `None` if the stack would
/// not take it for one.
#[inline(always)]
pub(crate) fn parse_v4(window: Window, l3: usize) -> Option<Packet<V4>> {
    const LENGTH: usize = 2;
    const ID: usize = 4;
    const FRAGMENT: usize = 6;
    const PROTOCOL: usize = 9;
    const MORE_FRAGMENTS: u16 = 0x2000;
    const FRAGMENT_OFFSET: u16 = 0x1fff;

    window.at::<[u8; Ipv4Hdr::LEN]>(l3)?;
    let version_and_length = window.read::<u8>(l3)?;
    if version_and_length >> 4 != 4 {
        return None;
    }
    let header_len = usize::from(version_and_length & 0x0f) * 4;
    if header_len < Ipv4Hdr::LEN {
        return None;
    }
    let proto = window.read::<u8>(l3 + PROTOCOL)?;
    let addresses = window.read::<AddressPair<V4>>(l3 + V4_ADDRESSES)?;
    let fragment = u16::from_be(window.read::<u16>(l3 + FRAGMENT)?);
    let len = u16::from_be(window.read::<u16>(l3 + LENGTH)?);
    let end = end(l3, len);
    let mut packet = Packet {
        tuple: Tuple {
            src: addresses.src,
            dst: addresses.dst,
            sport: BePort::NONE,
            dport: BePort::NONE,
        },
        proto,
        flags: 0,
        fragment: Fragment::Whole,
        id: 0,
        l4: l3 + header_len,
        len: u32::from(len),
        read_again: ReadAgain::new(),
    };
    if fragment & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0 {
        packet.id = u32::from(window.read::<u16>(l3 + ID)?);
        packet.fragment =
            if fragment & FRAGMENT_OFFSET == 0 { Fragment::First } else { Fragment::Later };
    }
    if packet.fragment != Fragment::Later && transport(window, &mut packet, end).is_none() {
        packet.proto = UNKNOWN;
    }
    Some(packet)
}

/// Likewise over IPv6; walks up to [`MAX_EXTENSION_HEADERS`] extension headers
/// (RFC 8200 section 4).
#[inline(always)]
pub(crate) fn parse_v6(window: Window, l3: usize) -> Option<Packet<V6>> {
    const PAYLOAD_LENGTH: usize = 4;
    const NEXT_HEADER: usize = 6;
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;

    window.at::<[u8; Ipv6Hdr::LEN]>(l3)?;
    if window.read::<u8>(l3)? >> 4 != 6 {
        return None;
    }
    let addresses = window.read::<AddressPair<V6>>(l3 + V6_ADDRESSES)?;
    let len = u16::from_be(window.read::<u16>(l3 + PAYLOAD_LENGTH)?);
    let end = end(l3 + V6_LEN, len);
    let mut packet = Packet {
        tuple: Tuple {
            src: addresses.src,
            dst: addresses.dst,
            sport: BePort::NONE,
            dport: BePort::NONE,
        },
        proto: window.read::<u8>(l3 + NEXT_HEADER)?,
        flags: 0,
        fragment: Fragment::Whole,
        id: 0,
        l4: l3 + Ipv6Hdr::LEN,
        len: V6_LEN as u32 + u32::from(len),
        read_again: ReadAgain::new(),
    };
    for _ in 0..MAX_EXTENSION_HEADERS {
        match packet.proto {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, units] = window.read(packet.l4).unwrap_or([UNKNOWN, 0]);
                packet.proto = next;
                packet.l4 += (usize::from(units) + 1) * 8;
            }
            FRAGMENT => {
                let header = window.read(packet.l4).unwrap_or([UNKNOWN, 0, 0, 0, 0, 0, 0, 0]);
                let offset = u16::from_be_bytes([header[2], header[3]]);
                packet.proto = header[0];
                packet.l4 += 8;
                // An "atomic" fragment (RFC 6946) is a whole packet.
                if offset & 0xfff9 != 0 {
                    packet.id = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
                    packet.fragment =
                        if offset >> 3 == 0 { Fragment::First } else { Fragment::Later };
                }
                if packet.fragment == Fragment::Later {
                    break;
                }
            }
            _ => break,
        }
    }
    if packet.fragment != Fragment::Later && transport(window, &mut packet, end).is_none() {
        packet.proto = UNKNOWN;
    }
    Some(packet)
}
