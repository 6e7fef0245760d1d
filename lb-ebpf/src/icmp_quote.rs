//! What an ICMP error quotes: the start of the packet that it is about. Reads
//! it, and writes another tuple into it.
//!
//! A quote may end anywhere behind the ports, so its checksums can only be
//! brought up to date, never computed.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_l4_csum_replace;
use lb_common::csum::{address_diff, fold, port_diff, update, update_udp};
use lb_common::proto::{SCTP, TCP, UDP};
use lb_common::{BePort, Tuple, V4, V6, sctp};

use crate::family::Family;
use crate::icmp;
use crate::packet::{
    self, Fragment, Packet, ReadAgain, V4_ADDRESSES, V4_CHECKSUM, V6_ADDRESSES, V6_LEN,
};
use crate::refuse::load;
use crate::rewrite::{SCTP_CHECKSUM, TCP_CHECKSUM, UDP_CHECKSUM, store};

/// IPv6 extension headers walked in a quote: what hosts send has one or two.
const MAX_QUOTED_EXTENSIONS: usize = 4;

/// How a family's IP header is read and written inside an error.
pub(crate) trait QuoteFamily: Family {
    /// Reads the IP header at `at`: addresses, protocol, and where the
    /// transport header begins. `None` for a later fragment: it has no ports.
    fn header(skb: *mut __sk_buff, at: usize) -> Option<Packet<Self>>;
    /// Length in bytes that the packet had, by its IP header at `at`.
    fn original_len(skb: *mut __sk_buff, at: usize) -> Option<u32>;
    /// Stores the addresses of `to` into the IP header at `at`; `diff` is what
    /// they change in a checksum. Returns what this changes in a checksum over
    /// the IP header.
    fn store_quoted(skb: *mut __sk_buff, at: usize, to: &Tuple<Self>, diff: u64) -> Option<u64>;
}

/// What the headers of a quote say; the rest is read by [`read`].
#[inline(always)]
fn quoted<A: Family>(src: A, dst: A, proto: u8, l4: usize) -> Packet<A> {
    Packet {
        tuple: Tuple { src, dst, sport: BePort::NONE, dport: BePort::NONE },
        proto,
        flags: 0,
        fragment: Fragment::Whole,
        id: 0,
        l4,
        len: 0,
        read_again: ReadAgain::new(),
    }
}

impl QuoteFamily for V4 {
    #[inline(always)]
    fn header(skb: *mut __sk_buff, at: usize) -> Option<Packet<Self>> {
        let words = load::<[u32; 5]>(skb, at)?;
        let [version_and_length, ..] = words[0].to_ne_bytes();
        let [_, _, high, low] = words[1].to_ne_bytes();
        let [_, proto, ..] = words[2].to_ne_bytes();
        let len = usize::from(version_and_length & 0x0f) * 4;
        let offset = u16::from_be_bytes([high, low]) & 0x1fff;
        if version_and_length >> 4 != 4 || len < size_of_val(&words) || offset != 0 {
            return None;
        }
        Some(quoted(Self(words[3]), Self(words[4]), proto, at + len))
    }

    #[inline(always)]
    fn original_len(skb: *mut __sk_buff, at: usize) -> Option<u32> {
        const LENGTH: usize = 2;
        Some(u32::from(u16::from_be(load::<u16>(skb, at + LENGTH)?)))
    }

    #[inline(always)]
    fn store_quoted(skb: *mut __sk_buff, at: usize, to: &Tuple<Self>, diff: u64) -> Option<u64> {
        let old = load::<u16>(skb, at + V4_CHECKSUM)?;
        let new = update(old, diff);
        store(skb, at + V4_CHECKSUM, &new, 0)?;
        store(skb, at + V4_ADDRESSES, &[to.src.0, to.dst.0], 0)?;
        Some(diff + port_diff(BePort(old), BePort(new)))
    }
}

impl QuoteFamily for V6 {
    #[inline(always)]
    fn header(skb: *mut __sk_buff, at: usize) -> Option<Packet<Self>> {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const DESTINATION: u8 = 60;

        let [start, length_and_next] = load::<[u32; 2]>(skb, at)?;
        let [version, ..] = start.to_ne_bytes();
        let [_, _, next, _] = length_and_next.to_ne_bytes();
        if version >> 4 != 6 {
            return None;
        }
        let [src, dst] = load::<[[u32; 4]; 2]>(skb, at + V6_ADDRESSES)?;
        let mut header = quoted(Self(src), Self(dst), next, at + V6_LEN);
        for _ in 0..MAX_QUOTED_EXTENSIONS {
            if !matches!(header.proto, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
                break;
            }
            let [next, units, high, low] = load::<[u8; 4]>(skb, header.l4)?;
            let fragment = header.proto == FRAGMENT;
            if fragment && u16::from_be_bytes([high, low]) >> 3 != 0 {
                return None;
            }
            header.proto = next;
            header.l4 += if fragment { 8 } else { (usize::from(units) + 1) * 8 };
        }
        Some(header)
    }

    #[inline(always)]
    fn original_len(skb: *mut __sk_buff, at: usize) -> Option<u32> {
        const PAYLOAD_LENGTH: usize = 4;
        let payload = u16::from_be(load::<u16>(skb, at + PAYLOAD_LENGTH)?);
        Some(V6_LEN as u32 + u32::from(payload))
    }

    #[inline(always)]
    fn store_quoted(skb: *mut __sk_buff, at: usize, to: &Tuple<Self>, diff: u64) -> Option<u64> {
        store(skb, at + V6_ADDRESSES, &[to.src.0, to.dst.0], 0)?;
        Some(diff)
    }
}

/// The packet that an ICMP error quotes, if it is of a protocol that Services
/// may have and its ports are there.
#[inline(always)]
pub(crate) fn read<A: QuoteFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    l3: usize,
) -> Option<&'static Packet<A>> {
    let at = error.l4 + icmp::HEADER_LEN;
    let mut header = A::header(skb, at)?;
    // A link may have padded the frame; an error may claim more than is there.
    // SAFETY: the kernel keeps the context valid during the run.
    let present = unsafe { (*skb).len } as usize;
    let end = l3 + error.len as usize;
    let end = if end < present { end } else { present };
    if !header.has_ports() || header.l4 + size_of::<[BePort; 2]>() > end {
        return None;
    }
    let [sport, dport] = load::<[u16; 2]>(skb, header.l4)?;
    header.tuple.sport = BePort(sport);
    header.tuple.dport = BePort(dport);
    header.len = (end - at) as u32;
    Some(&packet::forget_the_way(header, A::packet().get_ptr_mut(1)?).packet)
}

/// Replaces the tuple in the quote by `to`, and brings the checksums of the
/// quote and of the error up to date.
#[inline(always)]
pub(crate) fn rewrite<A: QuoteFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    quoted: &Packet<A>,
    to: &Tuple<A>,
) -> Option<()> {
    let from = &quoted.tuple;
    let at = error.l4 + icmp::HEADER_LEN;
    let addresses = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
    let ports = port_diff(from.sport, to.sport) + port_diff(from.dport, to.dport);
    let mut change = ports;
    let end = at + quoted.len as usize;
    let checksum = quoted.l4
        + match quoted.proto {
            TCP => TCP_CHECKSUM,
            UDP => UDP_CHECKSUM,
            _ => SCTP_CHECKSUM,
        };
    if quoted.proto == SCTP {
        if checksum + size_of::<[u16; 2]>() <= end {
            let len = A::original_len(skb, at)?.wrapping_sub((quoted.l4 - at) as u32);
            let old = load::<[u16; 2]>(skb, checksum)?;
            let (was, is) = ([from.sport, from.dport], [to.sport, to.dport]);
            let new = sctp::update(old, was, is, len);
            store(skb, checksum, &new, 0)?;
            change += port_diff(BePort(old[0]), BePort(new[0]));
            change += port_diff(BePort(old[1]), BePort(new[1]));
        }
    } else if checksum + size_of::<u16>() <= end {
        let old = load::<u16>(skb, checksum)?;
        let diff = addresses + ports;
        let new = if quoted.proto == UDP { update_udp(old, diff) } else { update(old, diff) };
        store(skb, checksum, &new, 0)?;
        change += port_diff(BePort(old), BePort(new));
    }
    store(skb, quoted.l4, &[to.sport.0, to.dport.0], 0)?;
    change += A::store_quoted(skb, at, to, addresses)?;
    let checksum = (error.l4 + icmp::CHECKSUM) as u32;
    // SAFETY: the helper checks the offset. Size 0: `to` is a difference.
    let result = unsafe { bpf_l4_csum_replace(skb, checksum, 0, u64::from(fold(change)), 0) };
    (result == 0).then_some(())
}
