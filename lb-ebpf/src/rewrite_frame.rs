//! Writes a new tuple and next hop into a frame, in place, for XDP.

use lb_common::csum::{self, address_diff, port_diff};
use lb_common::proto::{SCTP, TCP};
use lb_common::{Address, Tuple, V4, V6, sctp};

use crate::ETHERNET;
use crate::packet::{
    Packet, SctpHeader, TcpHeader, UdpHeader, V4_ADDRESSES, V4_CHECKSUM, V4_TTL, V6_ADDRESSES,
    V6_HOP_LIMIT, Window,
};

/// Link-layer addresses, in the order of the frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Macs {
    /// Of the next hop.
    pub(crate) dst: [u8; 6],
    /// Of the interface that the frame leaves by.
    pub(crate) src: [u8; 6],
}

/// How the IP header of a family is rewritten for the next hop.
pub(crate) trait FrameFamily: Address {
    /// One hop less; `None` if the packet must not go on.
    fn hop(window: Window) -> Option<()>;
    /// Stores both addresses; `diff` is what they change in a checksum.
    fn store_addresses(window: Window, src: Self, dst: Self, diff: u64) -> Option<()>;
}

impl FrameFamily for V4 {
    #[inline(always)]
    fn hop(window: Window) -> Option<()> {
        // Time to live and protocol share a word of the checksum.
        let word = window.at::<[u8; 2]>(ETHERNET + V4_TTL)?;
        // SAFETY: `at` checked the bounds.
        let old = unsafe { *word };
        if old[0] <= 1 {
            return None;
        }
        let new = [old[0] - 1, old[1]];
        // SAFETY: as above.
        unsafe { *word = new };
        let diff = u64::from(u16::from_ne_bytes(new)) + u64::from(!u16::from_ne_bytes(old));
        update_header_checksum(window, diff)
    }

    #[inline(always)]
    fn store_addresses(window: Window, src: Self, dst: Self, diff: u64) -> Option<()> {
        let addresses = window.at::<[u32; 2]>(ETHERNET + V4_ADDRESSES)?;
        // SAFETY: `at` checked the bounds.
        unsafe { *addresses = [src.0, dst.0] };
        update_header_checksum(window, diff)
    }
}

#[inline(always)]
fn update_header_checksum(window: Window, diff: u64) -> Option<()> {
    let field = window.at::<u16>(ETHERNET + V4_CHECKSUM)?;
    // SAFETY: `at` checked the bounds.
    let old = unsafe { *field };
    // SAFETY: as above.
    unsafe { *field = csum::update(old, diff) };
    Some(())
}

impl FrameFamily for V6 {
    #[inline(always)]
    fn hop(window: Window) -> Option<()> {
        let limit = window.at::<u8>(ETHERNET + V6_HOP_LIMIT)?;
        // SAFETY: `at` checked the bounds.
        let old = unsafe { *limit };
        if old <= 1 {
            return None;
        }
        // SAFETY: as above.
        unsafe { *limit = old - 1 };
        Some(())
    }

    #[inline(always)]
    fn store_addresses(window: Window, src: Self, dst: Self, _diff: u64) -> Option<()> {
        let addresses = window.at::<[[u32; 4]; 2]>(ETHERNET + V6_ADDRESSES)?;
        // SAFETY: `at` checked the bounds.
        unsafe { *addresses = [src.0, dst.0] };
        Some(())
    }
}

/// Whether the transport checksum is only that of the pseudo-header (SCTP: zero):
/// a sender behind a virtual link left the rest to a device that is not there,
/// and XDP has no mark of it. A complete checksum looks so once in 65,536 packets;
/// that packet takes the way through the stack and loses nothing.
#[inline(always)]
pub(crate) fn checksum_is_partial<A: Address>(window: Window, packet: &Packet<A>) -> bool {
    if packet.proto == SCTP {
        // SAFETY: `sctp_header` checked that the whole header is inside the frame.
        return sctp_header(window, packet)
            .is_none_or(|header| unsafe { (*header).checksum } == [0; 2]);
    }
    let Some(field) = checksum(window, packet) else { return true };
    let transport_len = (packet.len as u16).wrapping_sub((packet.l4 - ETHERNET) as u16);
    let tuple = &packet.tuple;
    // SAFETY: `checksum` checked the bounds.
    unsafe { *field == csum::pseudo_header(tuple.src, tuple.dst, packet.proto, transport_len) }
}

/// Offset of the transport header, within bounds that the verifier can follow:
/// an Ethernet header and the longest IPv4 header come to 74 bytes, and IPv6 is
/// handled without extension headers only.
#[inline(always)]
fn transport<A>(packet: &Packet<A>) -> usize {
    packet.l4 & 0x7f
}

/// SCTP's header.
#[inline(always)]
fn sctp_header<A>(window: Window, packet: &Packet<A>) -> Option<*mut SctpHeader> {
    window.at(transport(packet))
}

/// The transport checksum of TCP and UDP.
#[inline(always)]
fn checksum<A: Address>(window: Window, packet: &Packet<A>) -> Option<*mut u16> {
    if packet.proto == TCP {
        let header = window.at::<TcpHeader>(transport(packet))?;
        // SAFETY: `at` checked that the whole header is inside the frame.
        Some(unsafe { &raw mut (*header).checksum })
    } else {
        let header = window.at::<UdpHeader>(transport(packet))?;
        // SAFETY: as above.
        Some(unsafe { &raw mut (*header).checksum })
    }
}

/// Replaces the tuple by `to` and sends the frame to the next hop. On `None`
/// the frame is as it was.
#[inline(always)]
pub(crate) fn frame<A: FrameFamily>(
    window: Window,
    packet: &Packet<A>,
    to: &Tuple<A>,
    macs: &Macs,
) -> Option<()> {
    let from = &packet.tuple;
    let addresses = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
    let ethernet = window.at::<Macs>(0)?;
    let header = window.at::<[u16; 2]>(transport(packet))?;
    if packet.proto == SCTP {
        let header = sctp_header(window, packet)?;
        A::hop(window)?;
        // SAFETY: `sctp_header` checked that the whole header is inside the frame.
        let field = unsafe { &mut (*header).checksum };
        let len = packet.len.wrapping_sub((packet.l4 - ETHERNET) as u32);
        *field = sctp::update(*field, [from.sport, from.dport], [to.sport, to.dport], len);
    } else {
        let field = checksum(window, packet)?;
        A::hop(window)?;
        let diff = addresses + port_diff(from.sport, to.sport) + port_diff(from.dport, to.dport);
        // SAFETY: `checksum` checked the bounds.
        let field = unsafe { &mut *field };
        *field = if packet.proto == TCP {
            csum::update(*field, diff)
        } else {
            csum::update_udp(*field, diff)
        };
    }
    A::store_addresses(window, to.src, to.dst, addresses)?;
    // SAFETY: `at` checked the bounds of both.
    unsafe { *header = [to.sport.0, to.dport.0] };
    // SAFETY: as above.
    unsafe { *ethernet = *macs };
    Some(())
}
