//! ICMP errors about packets of flows. Each edge gives them the addresses that
//! it gives to packets: those of the error itself, and those of the packet that
//! it quotes, so that its receiver knows what it is about.
//!
//! ```text
//! client ── error about frontend ▶ client's packet ─▶ backend or its router   (and back)
//! ```
//!
//! Whoever can guess a tuple can send an error, so an error opens no flow,
//! keeps none alive and ends none.

use aya_ebpf::bindings::{__sk_buff, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::bpf_l4_csum_replace;
use lb_common::csum::{address_diff, fold};
use lb_common::filter::BACKEND;
use lb_common::flow::flag;
use lb_common::{Direction, Tuple, Verdict};

use crate::icmp_quote::{self, QuoteFamily};
use crate::packet::Packet;
use crate::refuse::RefuseFamily;
use crate::rewrite::RewriteFamily;
use crate::{filter, flows, icmp, ingress};

/// What an error must become.
struct Translation<A> {
    /// Its own source.
    src: A,
    /// Its own destination.
    dst: A,
    /// The tuple of the packet that it quotes.
    quoted: Tuple<A>,
}

/// An error that enters: from a client's side about a reply, or from a
/// backend's side about a packet that this node masqueraded. `None` if it is
/// about no flow.
#[inline(always)]
pub(crate) fn ingress<A: QuoteFamily + RewriteFamily + RefuseFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    l3: usize,
) -> Option<Verdict> {
    let quoted = icmp_quote::read(skb, error, l3)?;
    // The flow is found by what an answer to the quoted packet would carry.
    let answer = quoted.tuple.reversed();
    if error.tuple.dst != answer.dst {
        // An error goes to the sender of what it is about.
        return None;
    }
    let socket = filter::socket(answer.dst, answer.dport, quoted.proto);
    let address = filter::address(answer.dst);
    if !ingress::concerns(answer.dport, socket, address) {
        return None;
    }
    let row = flows::find(answer, quoted.proto, Direction::Ingress)?;
    let src = error.tuple.src;
    let to = if row.flags & flag::RESTORE != 0 {
        Translation { src, dst: row.client, quoted: row.routed() }
    } else {
        Translation { src, dst: row.backend_addr, quoted: row.routed().reversed() }
    };
    Some(translate(skb, error, quoted, &to, l3))
}

/// An error that leaves: to a client, or towards a backend that knows the
/// client by an address of this node. `None` if it is about no flow.
#[inline(always)]
pub(crate) fn egress<A: QuoteFamily + RewriteFamily + RefuseFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    l3: usize,
) -> Option<Verdict> {
    let quoted = icmp_quote::read(skb, error, l3)?;
    let (tuple, proto) = (quoted.tuple, quoted.proto);
    if error.tuple.dst != tuple.src {
        return None;
    }
    let src = error.tuple.src;
    if filter::socket(tuple.dst, tuple.dport, proto) & BACKEND != 0
        && let Some(row) = flows::find(tuple.reversed(), proto, Direction::Egress)
    {
        let src = if src == row.backend_addr { row.frontend } else { src };
        let to = Translation { src, dst: error.tuple.dst, quoted: row.dialled() };
        return Some(translate(skb, error, quoted, &to, l3));
    }
    if filter::socket(tuple.src, tuple.sport, proto) & BACKEND != 0
        && let Some(row) = flows::find(tuple, proto, Direction::Egress)
        && row.has_snat()
    {
        let src = if src == row.client { row.snat } else { src };
        let quoted_to = row.masqueraded().reversed();
        let to = Translation { src, dst: error.tuple.dst, quoted: quoted_to };
        return Some(translate(skb, error, quoted, &to, l3));
    }
    None
}

/// Makes the error what it must become; a flow past the Services may need
/// nothing.
#[inline(always)]
fn translate<A: QuoteFamily + RewriteFamily + RefuseFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    quoted: &Packet<A>,
    to: &Translation<A>,
    l3: usize,
) -> Verdict {
    let (src, dst) = (error.tuple.src, error.tuple.dst);
    if to.quoted == quoted.tuple && to.src == src && to.dst == dst {
        return Verdict::Passed;
    }
    let done = icmp_quote::rewrite(skb, error, quoted, &to.quoted)
        .and_then(|()| addresses(skb, error, to, l3));
    if done.is_some() { Verdict::ErrorTranslated } else { Verdict::DroppedRewrite }
}

/// Gives the error its own new addresses.
#[inline(always)]
fn addresses<A: RewriteFamily + RefuseFamily>(
    skb: *mut __sk_buff,
    error: &Packet<A>,
    to: &Translation<A>,
    l3: usize,
) -> Option<()> {
    let diff = address_diff(error.tuple.src, to.src) + address_diff(error.tuple.dst, to.dst);
    let diff = u64::from(fold(diff));
    if A::ICMP_HAS_PSEUDO_HEADER {
        let checksum = (error.l4 + icmp::CHECKSUM) as u32;
        let flags = u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: the helper checks the offset. Size 0: `to` is a difference.
        if unsafe { bpf_l4_csum_replace(skb, checksum, 0, diff, flags) } != 0 {
            return None;
        }
    }
    A::store_addresses(skb, l3, to.src, to.dst, diff)
}
