//! Any bytes as a packet: the parser of the BPF programs reads nothing beyond
//! them, finds every TCP and UDP packet that etherparse finds, and reads it
//! alike.
#![no_main]

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use lb_common::limits::MAX_EXTENSION_HEADERS;
use lb_common::proto::{SCTP, TCP};
use lb_common::{Address, V4, V6, sctp};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

#[path = "../../lb-ebpf/src/packet.rs"]
#[allow(dead_code, reason = "the programs use more of it")]
mod packet;

use packet::{Fragment, Packet, Window, parse_v4, parse_v6};

/// Offset of the IP header, as behind an Ethernet header.
const L3: usize = 14;

fuzz_target!(|bytes: &[u8]| {
    // As the kernel places packets: the IP header begins on a word. Bytes that
    // the parser must not read end the buffer's memory exactly.
    let mut buffer = vec![0_u8; 2 + L3 + bytes.len()].into_boxed_slice();
    if buffer.as_ptr().align_offset(4) != 0 {
        return;
    }
    buffer[2 + L3..].copy_from_slice(bytes);
    let range = buffer[2..].as_ptr_range();
    let window = Window { start: range.start.expose_provenance(), end: range.end.addr() };
    let theirs = Theirs::read(bytes);
    match bytes.first().map(|byte| byte >> 4) {
        Some(4) => compare::<V4>(bytes, parse_v4(window, L3), theirs),
        Some(6) => compare::<V6>(bytes, parse_v6(window, L3), theirs),
        _ => assert!(parse_v4(window, L3).is_none() && parse_v6(window, L3).is_none()),
    }
});

/// What etherparse says of a whole TCP or UDP packet.
struct Theirs {
    addresses: (IpAddr, IpAddr),
    ports: (u16, u16),
    tcp_flags: Option<u8>,
}

impl Theirs {
    fn read(bytes: &[u8]) -> Option<Self> {
        let sliced = SlicedPacket::from_ip(bytes).ok()?;
        if sliced.is_ip_payload_fragmented() {
            return None;
        }
        let addresses: (IpAddr, IpAddr) = match sliced.net? {
            NetSlice::Ipv4(ip) if ip.extensions().is_empty() => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            NetSlice::Ipv6(ip) => {
                // Authentication headers are not ours; of the others, so many.
                let walked = ip.extensions().clone().into_iter().count();
                let known = ip.extensions().clone().into_iter().all(|extension| {
                    !matches!(extension, etherparse::Ipv6ExtensionSlice::Authentication(_))
                });
                if walked > MAX_EXTENSION_HEADERS as usize || !known {
                    return None;
                }
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            NetSlice::Ipv4(_) | NetSlice::Arp(_) => return None,
        };
        let (ports, tcp_flags) = match sliced.transport? {
            TransportSlice::Tcp(tcp) => {
                ((tcp.source_port(), tcp.destination_port()), Some(tcp.slice()[13]))
            }
            TransportSlice::Udp(udp) => ((udp.source_port(), udp.destination_port()), None),
            _ => return None,
        };
        Some(Self { addresses, ports, tcp_flags })
    }
}

fn compare<A: Address + Into<IpAddr>>(
    bytes: &[u8],
    ours: Option<Packet<A>>,
    theirs: Option<Theirs>,
) {
    let Some(ours) = ours else {
        assert!(theirs.is_none(), "etherparse finds a packet and we don't");
        return;
    };
    if !ours.has_ports() {
        // Another protocol, or cut off: only its addresses are of use.
        assert!(theirs.is_none(), "etherparse finds ports and we don't");
        return;
    }
    // etherparse does not read SCTP.
    let theirs = theirs.filter(|_| ours.proto != SCTP);
    let transport = ours.l4 - L3;
    if ours.fragment != Fragment::Later {
        // What a translation writes is inside the packet.
        let header = match ours.proto {
            TCP => 20,
            SCTP => 16,
            _ => 8,
        };
        assert!(transport + header <= bytes.len());
        if ours.proto == SCTP {
            assert_eq!(ours.flags, sctp::flags(bytes[transport + 12]));
        }
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        assert_eq!(ours.tuple.sport.get(), port(transport));
        assert_eq!(ours.tuple.dport.get(), port(transport + 2));
    }
    if let Some(theirs) = theirs {
        assert_eq!((ours.tuple.src.into(), ours.tuple.dst.into()), theirs.addresses);
        assert_eq!((ours.tuple.sport.get(), ours.tuple.dport.get()), theirs.ports);
        assert_eq!(theirs.tcp_flags.is_some(), ours.proto == TCP);
        assert_eq!(theirs.tcp_flags.unwrap_or(0), ours.flags);
        assert!(ours.fragment == Fragment::Whole);
    }
}
