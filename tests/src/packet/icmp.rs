//! ICMP messages, for packets that are not a Service's.

use std::net::IpAddr;

use etherparse::PacketBuilder;

use super::Macs;

/// A ping with a few bytes.
pub fn echo_request(macs: Macs, src: IpAddr, dst: IpAddr) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = PacketBuilder::ethernet2(macs.src, macs.dst);
    let written = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder
            .ipv4(src.octets(), dst.octets(), 64)
            .icmpv4_echo_request(7, 1)
            .write(&mut out, b"ping"),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder
            .ipv6(src.octets(), dst.octets(), 64)
            .icmpv6_echo_request(7, 1)
            .write(&mut out, b"ping"),
        (src, dst) => panic!("{src} and {dst} are not of one family"),
    };
    written.expect("a vector takes every write");
    out
}
