//! Turns a packet into the answer that refuses it: a TCP reset, or an ICMP
//! port unreachable that quotes the packet. Other protocols than TCP get that
//! too, whether or not they have ports, as from nftables.
//!
//! TCP gets a reset in both families because Linux takes an ICMPv6 error
//! during connect for a soft one and goes on trying.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes};
use lb_common::csum::fold;
use lb_common::proto::{TCP, UDP};
use lb_common::{Address, Tuple, V4, V6, tcp};

use crate::family::Family;
use crate::packet::Packet;
use crate::rewrite::{TCP_CHECKSUM, UDP_CHECKSUM, store};
use crate::{icmp, quote};

/// Time to live of what we send: the recommended default (RFC 1700).
pub(crate) const TTL: u8 = 64;

/// What differs between the families in an answer.
pub(crate) trait RefuseFamily: Family {
    /// Length of the IP header that we write.
    const HEADER_LEN: usize;
    /// IP protocol number of ICMP.
    const ICMP: u8;
    /// Whether the checksum of ICMP covers a pseudo-header.
    const ICMP_HAS_PSEUDO_HEADER: bool;
    /// Type and code of "port unreachable".
    const PORT_UNREACHABLE: [u8; 2];
    /// Bytes of the original packet that an error may quote.
    const QUOTE_MAX: u32;
    /// Writes an IP header: from `tuple.src` to `tuple.dst`, `len` bytes behind it.
    fn store_header(
        skb: *mut __sk_buff,
        l3: usize,
        tuple: &Tuple<Self>,
        proto: u8,
        len: u16,
    ) -> Option<()>;
    /// Sum that the pseudo-header adds to an ICMP checksum; ICMPv4 has none.
    fn icmp_pseudo_header(tuple: &Tuple<Self>, len: u16) -> u64;
    /// Whether the address is a single host's, and so may be answered.
    fn is_unicast(self) -> bool;
}

/// A copy of the `T` at an offset of the packet.
#[inline(always)]
pub(crate) fn load<T: Copy + Default>(skb: *mut __sk_buff, offset: usize) -> Option<T> {
    let mut value = T::default();
    let to = (&raw mut value).cast();
    // SAFETY: `to` has room for size_of::<T>() bytes; the helper checks the offset.
    let result =
        unsafe { bpf_skb_load_bytes(skb.cast(), offset as u32, to, size_of::<T>() as u32) };
    (result == 0).then_some(value)
}

/// Sum of the pseudo-header for a transport packet of `len` bytes.
#[inline(always)]
fn pseudo_header<A: Address>(tuple: &Tuple<A>, proto: u8, len: u16) -> u64 {
    tuple.src.sum() + tuple.dst.sum() + u64::from(u16::from(proto).to_be()) + u64::from(len.to_be())
}

impl RefuseFamily for V4 {
    const HEADER_LEN: usize = 20;
    const ICMP: u8 = 1;
    const ICMP_HAS_PSEUDO_HEADER: bool = false;
    /// RFC 792: destination unreachable, port unreachable.
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];
    const QUOTE_MAX: u32 = lb_common::limits::QUOTE_MAX_V4;

    #[inline(always)]
    fn store_header(
        skb: *mut __sk_buff,
        l3: usize,
        tuple: &Tuple<Self>,
        proto: u8,
        len: u16,
    ) -> Option<()> {
        const VERSION_AND_LENGTH: u32 = 0x4500_0000;
        const DONT_FRAGMENT: u32 = 0x4000;
        let mut words = [
            (VERSION_AND_LENGTH | (Self::HEADER_LEN as u32 + u32::from(len))).to_be(),
            DONT_FRAGMENT.to_be(),
            ((u32::from(TTL) << 24) | (u32::from(proto) << 16)).to_be(),
            tuple.src.0,
            tuple.dst.0,
        ];
        let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
        // The checksum is the second half of the third word in memory.
        words[2] |= (u32::from(u16::from_be(!fold(sum)))).to_be();
        store(skb, l3, &words, 0)
    }

    #[inline(always)]
    fn icmp_pseudo_header(_tuple: &Tuple<Self>, _len: u16) -> u64 {
        0
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        let first = self.0.to_ne_bytes()[0];
        first != 0 && first < 224
    }
}

impl RefuseFamily for V6 {
    const HEADER_LEN: usize = 40;
    const ICMP: u8 = 58;
    const ICMP_HAS_PSEUDO_HEADER: bool = true;
    /// RFC 4443 section 3.1.
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];
    const QUOTE_MAX: u32 = lb_common::limits::QUOTE_MAX_V6;

    #[inline(always)]
    fn store_header(
        skb: *mut __sk_buff,
        l3: usize,
        tuple: &Tuple<Self>,
        proto: u8,
        len: u16,
    ) -> Option<()> {
        const VERSION: u32 = 0x6000_0000;
        let start = [
            VERSION.to_be(),
            ((u32::from(len) << 16) | (u32::from(proto) << 8) | u32::from(TTL)).to_be(),
        ];
        store(skb, l3, &start, 0)?;
        store(skb, l3 + crate::packet::V6_ADDRESSES, &[tuple.src.0, tuple.dst.0], 0)
    }

    #[inline(always)]
    fn icmp_pseudo_header(tuple: &Tuple<Self>, len: u16) -> u64 {
        pseudo_header(tuple, Self::ICMP, len)
    }

    #[inline(always)]
    fn is_unicast(self) -> bool {
        self != Self::NONE && self.0[0].to_ne_bytes()[0] != 0xff
    }
}

/// Makes the buffer the answer to the packet in it. On `false` there is none
/// to send: the packet is to be dropped.
#[inline(always)]
pub(crate) fn answer<A: RefuseFamily>(skb: *mut __sk_buff, packet: &Packet<A>, l3: usize) -> bool {
    if packet.flags & tcp::flag::RST != 0 || !packet.tuple.src.is_unicast() {
        return false;
    }
    let answer =
        if packet.proto == TCP { reset(skb, packet, l3) } else { unreachable(skb, packet, l3) };
    answer.is_some()
}

/// Sends the frame back where it came from.
#[inline(always)]
pub(crate) fn swap_macs(skb: *mut __sk_buff, l3: usize) -> Option<()> {
    if l3 == 0 {
        return Some(());
    }
    // Three half-words each: a BPF load of six bytes does not exist.
    let [dst, src] = load::<[[u16; 3]; 2]>(skb, 0)?;
    store(skb, 0, &[src, dst], 0)
}

/// Whether the buffer's checksum is left to the device: then an update that is
/// not of the pseudo-header changes nothing, and that shows.
#[inline(always)]
fn is_partial(skb: *mut __sk_buff, offset: usize) -> Option<bool> {
    let before = load::<u16>(skb, offset)?;
    // SAFETY: the helper checks the offset; 2 is the size of the values.
    if unsafe { bpf_l4_csum_replace(skb, offset as u32, 0, 1, 2) } != 0 {
        return None;
    }
    Some(load::<u16>(skb, offset)? == before)
}

/// RFC 9293 section 3.10.7.1: the answer to a segment for no connection. One that
/// lies about its lengths gets none, as from any host.
#[inline(always)]
fn reset<A: RefuseFamily>(skb: *mut __sk_buff, packet: &Packet<A>, l3: usize) -> Option<()> {
    const LEN: u16 = 20;
    let partial = is_partial(skb, packet.l4 + TCP_CHECKSUM)?;
    // Sequence, acknowledgement, and the word with header length and flags.
    let [seq, ack, offset] = load::<[u32; 3]>(skb, packet.l4 + 4)?;
    let header_len = (u32::from_be(offset) >> 28) * 4;
    let behind_ip = packet.len.wrapping_sub((packet.l4 - l3) as u32);
    // SAFETY: the kernel keeps the context valid during the run.
    let present = unsafe { (*skb).len }.wrapping_sub(l3 as u32);
    // One that is to be cut may be too long to say how long it is.
    let header_is_cut = behind_ip != 0 && header_len > behind_ip;
    if header_len < LEN.into() || header_is_cut || packet.len > present {
        return None;
    }
    let mut len = behind_ip.wrapping_sub(header_len);
    if packet.flags & (tcp::flag::SYN | tcp::flag::FIN) != 0 {
        len = len.wrapping_add(1);
    }
    let (seq, ack, flags) = if packet.flags & tcp::flag::ACK != 0 {
        (ack, 0, tcp::flag::RST)
    } else {
        let ack = u32::from_be(seq).wrapping_add(len).to_be();
        (0, ack, tcp::flag::RST | tcp::flag::ACK)
    };
    let to = packet.tuple.reversed();
    let l4 = l3 + A::HEADER_LEN;
    if partial && packet.l4 != l4 {
        // The device would write the sum where the checksum was.
        return None;
    }
    // SAFETY: the context is valid; the helper checks the length.
    if unsafe { bpf_skb_change_tail(skb, (l4 + LEN as usize) as u32, 0) } != 0 {
        return None;
    }
    swap_macs(skb, l3)?;
    A::store_header(skb, l3, &to, TCP, LEN)?;
    let mut words = [
        (u32::from(to.sport.get()) << 16 | u32::from(to.dport.get())).to_be(),
        seq,
        ack,
        (5 << 28 | u32::from(flags) << 16).to_be(),
        0,
    ];
    let pseudo = pseudo_header(&to, TCP, LEN);
    let sum: u64 = words.iter().map(|word| u64::from(*word)).sum();
    // A device that completes the checksum starts from the pseudo-header's.
    let checksum = if partial { fold(pseudo) } else { !fold(pseudo + sum) };
    words[4] = u32::from(u16::from_be(checksum)).wrapping_shl(16).to_be();
    store(skb, l4, &words, 0)
}

/// The ICMP error that quotes as much of the packet as it may.
#[inline(always)]
fn unreachable<A: RefuseFamily>(skb: *mut __sk_buff, packet: &Packet<A>, l3: usize) -> Option<()> {
    // SAFETY: the kernel keeps the context valid during the run.
    let present = unsafe { (*skb).len }.wrapping_sub(l3 as u32);
    let len = packet.len;
    let len = if len < present { len } else { present };
    let len = if len < A::QUOTE_MAX { len } else { A::QUOTE_MAX };
    if (len as usize) < A::HEADER_LEN {
        return None;
    }
    let to = packet.tuple.reversed();
    let l4 = l3 + A::HEADER_LEN;
    let quoted = quote::take(skb, l3, len)?;
    // A device that completes the checksum of the packet as it was writes to
    // an unused field of the error, where it must find the pseudo-header's sum
    // to leave a valid message; and it counts on the header's place.
    // (Others have no such checksums but SCTP; a link that leaves that open
    // takes it so too, and the answer goes back by the same.)
    let partial = packet.proto == UDP && is_partial(skb, packet.l4 + UDP_CHECKSUM)?;
    if partial && packet.l4 != l4 {
        return None;
    }
    let total = l4 as u32 + icmp::HEADER_LEN as u32 + len;
    // SAFETY: the context is valid; the helper checks the length.
    if unsafe { bpf_skb_change_tail(skb, total, 0) } != 0 {
        return None;
    }
    swap_macs(skb, l3)?;
    let icmp_len = icmp::HEADER_LEN as u16 + len as u16;
    A::store_header(skb, l3, &to, A::ICMP, icmp_len)?;
    let [kind, code] = A::PORT_UNREACHABLE;
    let start = u16::from_ne_bytes([kind, code]);
    let pseudo = A::icmp_pseudo_header(&to, icmp_len);
    let unused = if partial { fold(pseudo) } else { 0 };
    let sum = u64::from(start) + u64::from(unused) + quoted + pseudo;
    store(skb, l4, &[start, !fold(sum), 0, unused], 0)?;
    quote::put(skb, l4 + icmp::HEADER_LEN, len)
}
