//! Checksums computed from nothing, and the check of every one in a frame,
//! those of a packet that an ICMP error quotes included. Independent of
//! `lb_common::csum`, which it tests.

use std::net::IpAddr;

use etherparse::{IpNumber, Ipv4HeaderSlice, Ipv6Slice, NetSlice, SlicedPacket};

/// RFC 1071, from the definition: 16-bit words in network byte order.
pub fn rfc1071(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).expect("folded")
}

/// The checksum of a TCP segment, UDP datagram, ICMP or ICMPv6 message. Over a
/// segment that holds its checksum the result is 0 if that is right.
pub(super) fn transport_checksum(src: IpAddr, dst: IpAddr, proto: u8, segment: &[u8]) -> u16 {
    let len = u32::try_from(segment.len()).expect("a packet").to_be_bytes();
    let tail = [0, 0, 0, proto];
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if proto == 1 => rfc1071(&[segment]),
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            rfc1071(&[&src.octets(), &dst.octets(), &tail, &len, segment])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            rfc1071(&[&src.octets(), &dst.octets(), &tail, &len, segment])
        }
        (src, dst) => panic!("{src} and {dst} are not of one family"),
    }
}

/// The checksum of an SCTP packet whose field is zero, as it is sent (RFC 9260
/// section 6.8).
pub(super) fn sctp_checksum(packet: &[u8]) -> [u8; 4] {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(packet).to_le_bytes()
}

/// Whether an SCTP packet's checksum is wrong. Zero is none: a device was to
/// compute it.
pub fn sctp_is_wrong(packet: &[u8]) -> bool {
    let Some(field) = packet.get(8..12) else { return true };
    let mut zeroed = packet.to_vec();
    zeroed[8..12].fill(0);
    field != [0; 4] && field != sctp_checksum(&zeroed)
}

/// The first checksum in a frame that is wrong, or what makes the frame
/// unreadable; none if all is well. `ethernet` says whether a MAC header comes
/// first.
pub fn checksum_fault(frame: &[u8], ethernet: bool) -> Option<String> {
    fault(frame, ethernet, true)
}

/// Likewise, but a quoted packet may be as wrong as it was.
pub fn outer_checksum_fault(frame: &[u8], ethernet: bool) -> Option<String> {
    fault(frame, ethernet, false)
}

fn fault(frame: &[u8], ethernet: bool, quotes: bool) -> Option<String> {
    let sliced =
        if ethernet { SlicedPacket::from_ethernet(frame) } else { SlicedPacket::from_ip(frame) };
    let sliced = match sliced {
        Ok(sliced) => sliced,
        Err(error) => return Some(format!("unreadable: {error}")),
    };
    match sliced.net? {
        NetSlice::Arp(_) => None,
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            if rfc1071(&[header.slice()]) != 0 {
                return Some("IPv4 header checksum".into());
            }
            if ip.is_payload_fragmented() {
                return None;
            }
            let (src, dst) = (header.source_addr().into(), header.destination_addr().into());
            transport_fault(src, dst, ip.payload().ip_number, ip.payload().payload, quotes)
        }
        NetSlice::Ipv6(ip) => ipv6_fault(&ip, quotes),
    }
}

fn ipv6_fault(ip: &Ipv6Slice<'_>, quotes: bool) -> Option<String> {
    if ip.is_payload_fragmented() {
        return None;
    }
    let (src, dst) = (ip.header().source_addr().into(), ip.header().destination_addr().into());
    transport_fault(src, dst, ip.payload().ip_number, ip.payload().payload, quotes)
}

fn transport_fault(
    src: IpAddr,
    dst: IpAddr,
    proto: IpNumber,
    segment: &[u8],
    quotes: bool,
) -> Option<String> {
    match proto {
        IpNumber::TCP => (transport_checksum(src, dst, 6, segment) != 0)
            .then(|| format!("TCP checksum, {src} to {dst}")),
        IpNumber::UDP => {
            let none = segment.get(6..8).is_some_and(|field| field == [0, 0]);
            let wrong = if none {
                // RFC 8200 section 8.1: IPv6 has no datagrams without a checksum.
                src.is_ipv6()
            } else {
                transport_checksum(src, dst, 17, segment) != 0
            };
            wrong.then(|| format!("UDP checksum, {src} to {dst}"))
        }
        IpNumber::SCTP => sctp_is_wrong(segment).then(|| format!("SCTP checksum, {src} to {dst}")),
        IpNumber::ICMP => {
            if rfc1071(&[segment]) != 0 {
                return Some("ICMP checksum".into());
            }
            (quotes && is_error_v4(segment)).then(|| quote_fault(&segment[8..])).flatten()
        }
        IpNumber::IPV6_ICMP => {
            if transport_checksum(src, dst, 58, segment) != 0 {
                return Some("ICMPv6 checksum".into());
            }
            // RFC 4443 section 2.1: errors have the high bit clear.
            let error = segment.len() > 8 && segment[0] < 128;
            (quotes && error).then(|| quote_fault(&segment[8..])).flatten()
        }
        _ => None,
    }
}

/// Destination unreachable, time exceeded, parameter problem (RFC 792).
fn is_error_v4(message: &[u8]) -> bool {
    message.len() > 8 && matches!(message[0], 3 | 11 | 12)
}

/// The quote's own checksums: the IPv4 header's always, the transport's if the
/// quote is whole.
fn quote_fault(quote: &[u8]) -> Option<String> {
    if quote[0] >> 4 == 4 {
        let Ok(header) = Ipv4HeaderSlice::from_slice(quote) else {
            return Some("the quote has no IPv4 header".into());
        };
        if rfc1071(&[header.slice()]) != 0 {
            return Some("IPv4 header checksum of the quote".into());
        }
        if quote.len() < usize::from(header.total_len()) {
            return None;
        }
    } else if quote.len() < 40 {
        return Some("the quote has no IPv6 header".into());
    } else if quote.len() < 40 + usize::from(u16::from_be_bytes([quote[4], quote[5]])) {
        return None;
    }
    checksum_fault(quote, false).map(|fault| format!("in the quote: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::{Extension, Macs, Packet};
    use lb_common::tcp::flag;

    const MACS: Macs = Macs { src: [2; 6], dst: [4; 6] };

    fn packets() -> Vec<Packet> {
        let v4 = ("10.0.0.1:4000".parse().unwrap(), "10.96.0.1:80".parse().unwrap());
        let v6 = ("[fd00::1]:4000".parse().unwrap(), "[fd00:96::1]:80".parse().unwrap());
        let mut out = Vec::new();
        for (src, dst) in [v4, v6] {
            for payload in [&b""[..], b"odd", b"even"] {
                out.push(Packet::tcp(src, dst, flag::SYN).macs(MACS).payload(payload));
                out.push(Packet::udp(src, dst).macs(MACS).payload(payload));
            }
        }
        let mut optioned = Packet::udp(v4.0, v4.1).macs(MACS);
        optioned.ip_options = vec![1, 1, 1, 0];
        let mut extended = Packet::udp(v6.0, v6.1).macs(MACS);
        extended.extensions = vec![
            Extension { number: 0, content: vec![1, 4, 0, 0, 0, 0] },
            Extension { number: 60, content: vec![1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] },
        ];
        out.extend([optioned, extended]);
        out
    }

    #[test]
    fn built_packets_are_faultless_and_any_changed_bit_behind_the_mac_header_is_found() {
        for packet in packets() {
            let frame = packet.bytes();
            assert_eq!(checksum_fault(&frame, true), None, "{packet:?}");
            // Addresses and ports: all that a translation changes.
            let network = if packet.src.is_ipv4() { 14 + 12..14 + 20 } else { 14 + 8..14 + 40 };
            for byte in network {
                let mut wrong = frame.clone();
                wrong[byte] ^= 0x10;
                assert!(checksum_fault(&wrong, true).is_some(), "{packet:?}, byte {byte}");
            }
        }
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(rfc1071(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }
}
