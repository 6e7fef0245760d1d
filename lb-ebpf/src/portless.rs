//! Packets of protocols that no Service has: ICMP, others, and headers that are
//! cut off.

use aya_ebpf::bindings::__sk_buff;
use lb_common::Verdict;
use lb_common::names::option;
use lb_common::value::frontend_kind;

use crate::icmp::{self, IcmpFamily, Message};
use crate::icmp_quote::QuoteFamily;
use crate::packet::{Fragment, Packet};
use crate::rewrite::RewriteFamily;
use crate::{filter, globals, icmp_error, service_addr};

/// Decides on a packet that enters; an error is translated at once. On
/// [`Verdict::EchoAnswered`] the ping remains to be answered.
#[inline(always)]
pub(crate) fn ingress<A: IcmpFamily + QuoteFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    l3: usize,
) -> Verdict {
    let message = icmp::message(skb, packet);
    if message == Some(Message::Error)
        && let Some(verdict) = icmp_error::ingress(skb, packet, l3)
    {
        return verdict;
    }
    let dst = packet.tuple.dst;
    let flags = filter::address(dst);
    let Some(kind) = service_addr::kind(dst, flags) else {
        return service_addr::stranger(dst, flags);
    };
    if message == Some(Message::EchoRequest)
        && globals::option(option::ANSWER_ECHO)
        && packet.l4 == l3 + A::HEADER_LEN
        && packet.tuple.src.is_unicast()
    {
        return Verdict::EchoAnswered;
    }
    if kind != frontend_kind::ADDRESS {
        // The rest of this address may be somebody else's.
        return Verdict::Passed;
    }
    match message {
        // An error is never answered with an error (RFC 1122 section 3.2.2).
        Some(Message::Error | Message::Notice) => Verdict::DroppedNoFlow,
        _ if packet.fragment != Fragment::Whole => Verdict::DroppedFragment,
        _ => Verdict::RefusedUnknownPort,
    }
}

/// Decides on a packet that leaves; an error is translated at once.
#[inline(always)]
pub(crate) fn egress<A: IcmpFamily + QuoteFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    l3: usize,
    turns_back: bool,
) -> Verdict {
    if icmp::message(skb, packet) == Some(Message::Error)
        && let Some(verdict) = icmp_error::egress(skb, packet, l3)
    {
        return verdict;
    }
    service_addr::leaving(packet.tuple.dst, turns_back)
}
