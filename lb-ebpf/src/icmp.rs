//! ICMP messages: what they are, and the answer to a ping.

use aya_ebpf::bindings::{__sk_buff, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_l3_csum_replace, bpf_l4_csum_replace};
use lb_common::{V4, V6};

use crate::packet::{Fragment, Packet, V4_ADDRESSES, V4_CHECKSUM, V4_TTL, V6_ADDRESSES};
use crate::refuse::{RefuseFamily, TTL, load, swap_macs};
use crate::rewrite::store;

/// Length of an ICMP header, as that of an error before the quote.
pub(crate) const HEADER_LEN: usize = 8;
/// Offset of the checksum in an ICMP header (RFC 792, RFC 4443 section 2.1).
pub(crate) const CHECKSUM: usize = 2;

/// What a message is to us.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message {
    /// An error that quotes the packet that it is about.
    Error,
    /// Like an error never to be answered with one, but nothing to translate.
    Notice,
    /// A ping.
    EchoRequest,
    /// Anything else.
    Other,
}

/// What differs between the families' messages.
pub(crate) trait IcmpFamily: RefuseFamily {
    /// Type of the answer to a ping.
    const ECHO_REPLY: u8;
    /// What a message of this type is.
    fn message(kind: u8) -> Message;
    /// Makes the packet one that was just sent, as for its hops.
    fn renew_hops(skb: *mut __sk_buff, l3: usize) -> Option<()>;
    /// Swaps source and destination: no checksum changes.
    fn swap_addresses(skb: *mut __sk_buff, l3: usize) -> Option<()>;
}

impl IcmpFamily for V4 {
    const ECHO_REPLY: u8 = 0;

    /// RFC 792: destination unreachable, source quench, time exceeded and
    /// parameter problem; redirect.
    #[inline(always)]
    fn message(kind: u8) -> Message {
        match kind {
            3 | 4 | 11 | 12 => Message::Error,
            5 => Message::Notice,
            8 => Message::EchoRequest,
            _ => Message::Other,
        }
    }

    #[inline(always)]
    fn renew_hops(skb: *mut __sk_buff, l3: usize) -> Option<()> {
        let old = load::<[u8; 2]>(skb, l3 + V4_TTL)?;
        let new = [TTL, old[1]];
        let offset = (l3 + V4_CHECKSUM) as u32;
        let (from, to) = (u16::from_ne_bytes(old), u16::from_ne_bytes(new));
        // SAFETY: the helper checks the offset; 2 is the size of the values.
        if unsafe { bpf_l3_csum_replace(skb, offset, u64::from(from), u64::from(to), 2) } != 0 {
            return None;
        }
        store(skb, l3 + V4_TTL, &to, 0)
    }

    #[inline(always)]
    fn swap_addresses(skb: *mut __sk_buff, l3: usize) -> Option<()> {
        let [src, dst] = load::<[u32; 2]>(skb, l3 + V4_ADDRESSES)?;
        store(skb, l3 + V4_ADDRESSES, &[dst, src], 0)
    }
}

impl IcmpFamily for V6 {
    const ECHO_REPLY: u8 = 129;

    /// RFC 4443 section 2.1: errors have the high bit clear, the first four
    /// types are assigned. RFC 4861 section 4.5: redirect.
    #[inline(always)]
    fn message(kind: u8) -> Message {
        match kind {
            1..=4 => Message::Error,
            0..128 | 137 => Message::Notice,
            128 => Message::EchoRequest,
            _ => Message::Other,
        }
    }

    #[inline(always)]
    fn renew_hops(skb: *mut __sk_buff, l3: usize) -> Option<()> {
        const NEXT_HEADER: usize = 6;
        // No checksum in the packet makes up for the change.
        store(skb, l3 + NEXT_HEADER, &[Self::ICMP, TTL], BPF_F_RECOMPUTE_CSUM)
    }

    #[inline(always)]
    fn swap_addresses(skb: *mut __sk_buff, l3: usize) -> Option<()> {
        let [src, dst] = load::<[[u32; 4]; 2]>(skb, l3 + V6_ADDRESSES)?;
        store(skb, l3 + V6_ADDRESSES, &[dst, src], 0)
    }
}

/// What a packet is, if it is a whole ICMP message.
#[inline(always)]
pub(crate) fn message<A: IcmpFamily>(skb: *mut __sk_buff, packet: &Packet<A>) -> Option<Message> {
    if packet.proto != A::ICMP || packet.fragment != Fragment::Whole {
        return None;
    }
    Some(A::message(load::<u8>(skb, packet.l4)?))
}

/// Makes a ping its own answer.
#[inline(always)]
pub(crate) fn reply<A: IcmpFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    l3: usize,
) -> Option<()> {
    let old = load::<[u8; 2]>(skb, packet.l4)?;
    let new = u16::from_ne_bytes([A::ECHO_REPLY, old[1]]);
    let (from, to) = (u64::from(u16::from_ne_bytes(old)), u64::from(new));
    let checksum = (packet.l4 + CHECKSUM) as u32;
    // SAFETY: the helper checks the offset; 2 is the size of the values.
    if unsafe { bpf_l4_csum_replace(skb, checksum, from, to, 2) } != 0 {
        return None;
    }
    store(skb, packet.l4, &new, 0)?;
    A::renew_hops(skb, l3)?;
    A::swap_addresses(skb, l3)?;
    swap_macs(skb, l3)
}
