//! The TC hooks: from a socket buffer to a verdict and back. `L3` is the
//! offset of the IP header: 14 behind an Ethernet header, 0 on devices whose
//! packets begin with it.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_redirect, bpf_skb_pull_data};
use aya_ebpf::programs::TcContext;
use lb_common::{Direction, Hook, Tuple, V4, V6, Verdict};

use crate::astray;
use crate::begin::{self, Made};
use crate::datagrams::DatagramFamily;
use crate::egress::{self, Departure};
use crate::family::{self, Family};
use crate::fragments;
use crate::icmp::{self, IcmpFamily};
use crate::icmp_quote::QuoteFamily;
use crate::ingress::{self, Arrival, Step};
use crate::limit::{self, Answer};
use crate::log;
use crate::packet::{ETHERTYPE_V4, ETHERTYPE_V6, Fragment, Packet, Parsed, Window};
use crate::rewrite::{self, RewriteFamily};
use crate::skip::{self, Hops, Past};
use crate::stats::{self, Size};
use crate::{ETHERNET, filter, flows, portless, refuse, service_addr, sockets};

/// Lets programs behind ours and the qdisc go on: `TC_ACT_UNSPEC`, which tcx
/// calls `TCX_NEXT`.
pub(crate) const NEXT: i32 = -1;

/// Bytes that must be linear: an Ethernet header, an IPv6 header with room for
/// extension headers, and a TCP header.
const LINEAR: u32 = 14 + 40 + 60 + 20;

/// `pkt_type` of a frame for another link-layer address (linux/if_packet.h).
const PACKET_OTHERHOST: u32 = 3;

/// What both families need, to write the hooks once.
trait TcFamily: Family + RewriteFamily + DatagramFamily + IcmpFamily + QuoteFamily + Hops {}

impl TcFamily for V4 {}
impl TcFamily for V6 {}

#[inline(always)]
fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// The EtherType, or `None` for a packet with a VLAN tag: the VLAN's own
/// interface has the programs too.
#[inline(always)]
fn protocol(ctx: &TcContext) -> Option<u16> {
    let skb = skb(ctx);
    // SAFETY: the kernel keeps the context valid during the run.
    if unsafe { (*skb).vlan_present } != 0 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { (*skb).protocol } as u16)
}

/// The linear part of the packet, with the headers pulled into it.
#[inline(always)]
fn window(ctx: &TcContext) -> Window {
    let skb = skb(ctx);
    // SAFETY: the kernel keeps the context valid during the run.
    let len = unsafe { (*skb).len };
    let linear = (ctx.data_end() - ctx.data()) as u32;
    if linear < LINEAR && linear < len {
        let want = if len < LINEAR { len } else { LINEAR };
        // SAFETY: the context is valid; on failure the packet stays as it was
        // and the parser sees the shorter part.
        let _ = unsafe { bpf_skb_pull_data(skb, want) };
    }
    Window { start: ctx.data(), end: ctx.data_end() }
}

#[inline(always)]
fn size<A: Family>(ctx: &TcContext, packet: &Packet<A>, l3: usize) -> Size {
    let skb = skb(ctx);
    // SAFETY: the kernel keeps the context valid during the run.
    let segments = unsafe { (*skb).gso_segs };
    // SAFETY: as above.
    let present = unsafe { (*skb).len }.wrapping_sub(l3 as u32);
    // The length of an offloaded packet may not fit its header.
    if segments > 1 || packet.len > present {
        Size { packets: u64::from(segments.max(1)), bytes: u64::from(present) }
    } else {
        Size { packets: 1, bytes: u64::from(packet.len) }
    }
}

/// Monotonic clock, nanoseconds.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Applies a verdict that lets the packet go on, or drops it.
#[inline(always)]
fn finish(hook: Hook, verdict: Verdict) -> i32 {
    if stats::verdict(hook, verdict).is_drop() { TC_ACT_SHOT } else { NEXT }
}

/// The ingress hook.
#[inline(always)]
pub(crate) fn ingress<const L3: usize>(ctx: &TcContext) -> i32 {
    match protocol(ctx) {
        Some(ETHERTYPE_V4) => ingress_family::<V4, L3>(skb(ctx)),
        Some(ETHERTYPE_V6) => ingress_family::<V6, L3>(skb(ctx)),
        _ => finish(Hook::Ingress, Verdict::Passed),
    }
}

/// One function after the other, for the verifier's sake and the stack's: see
/// [`begin`].
#[inline(always)]
fn ingress_family<A: TcFamily, const L3: usize>(skb: *mut __sk_buff) -> i32 {
    let mut next = entering::<A, L3>(skb);
    if next == BEGIN {
        next = begun::<A, L3>(skb, begin::rows::<A>());
    }
    if L3 == ETHERNET && skip::is_wanted() {
        if next == ONWARD || next == OUTWARD {
            return onward::<A>(skb, u32::from(next == ONWARD));
        }
        if next == BACK || next == RESTORED {
            return back::<A>(skb, u32::from(next == RESTORED));
        }
    }
    if next == APPLY { applied::<A, L3>(skb) } else { next }
}

/// Stands for the action where a flow begins.
const BEGIN: i32 = i32::MAX;
/// Stands for the action where a verdict was noted that is yet to be applied.
const APPLY: i32 = i32::MAX - 1;

/// Stands for the action where the packet may go to its backend past the stack.
const ONWARD: i32 = i32::MAX - 2;
/// Likewise out by an uplink only.
const OUTWARD: i32 = i32::MAX - 3;
/// Likewise to its client, if it is a reply.
const BACK: i32 = i32::MAX - 4;
/// Likewise for a reply to this node's address.
const RESTORED: i32 = i32::MAX - 5;

/// What the packet meets until a flow begins with it, or until its verdict.
#[inline(never)]
fn entering<A: TcFamily, const L3: usize>(skb: *mut __sk_buff) -> i32 {
    decide_entering::<A, L3>(&TcContext::new(skb))
}

/// What follows when the rows of a flow are made, or could not be.
#[inline(never)]
fn begun<A: TcFamily, const L3: usize>(skb: *mut __sk_buff, made: Made) -> i32 {
    let Some(Parsed { packet, to, .. }) = family::parsed::<A>() else { return TC_ACT_SHOT };
    to_apply::<A>(begin::verdict(made, size(&TcContext::new(skb), packet, L3), to))
}

/// A packet to a backend, past the stack if there is a way.
#[inline(never)]
fn onward<A: TcFamily>(skb: *mut __sk_buff, into_pod: u32) -> i32 {
    let Some(Parsed { packet, to, .. }) = family::parsed::<A>() else { return TC_ACT_SHOT };
    let past = Past::find(skb, packet, to);
    let verdict = rewrite::apply(skb, packet, to, Verdict::Forwarded, ETHERNET);
    let action = finish(Hook::Ingress, verdict);
    let passes_by = past.is_there() && (into_pod != 0 || !past.is_into_pod());
    if action == NEXT && passes_by { past.take::<A>(skb) } else { action }
}

/// A packet of a backend, which may have this node's address restored: to its client
/// past the stack, if it is a reply and there is a way, and else to the stack. An
/// uplink translates it as it leaves; a pod's edge would have, and would have
/// counted it: that is done here.
#[inline(never)]
fn back<A: TcFamily>(skb: *mut __sk_buff, restored: u32) -> i32 {
    let Some(Parsed { packet, to, .. }) = family::parsed::<A>() else { return TC_ACT_SHOT };
    let mut verdict = if restored != 0 { Verdict::SourceRestored } else { Verdict::Passed };
    let mut past = Past::NONE;
    if let Some(row) = flows::find(*to, packet.proto, Direction::Egress)
        && skip::may(row)
    {
        past = Past::find(skb, packet, &row.dialled().reversed());
        if past.is_into_pod() {
            let size = size(&TcContext::new(skb), packet, ETHERNET);
            *to = egress::reply(packet, row, now(), size);
            verdict = Verdict::Returned;
        }
    }
    let action = finish(Hook::Ingress, rewrite::apply(skb, packet, to, verdict, ETHERNET));
    if action == NEXT && past.is_there() { past.take::<A>(skb) } else { action }
}

#[inline(always)]
fn to_apply<A: TcFamily>(verdict: Verdict) -> i32 {
    if family::note_verdict::<A>(verdict).is_some() { APPLY } else { TC_ACT_SHOT }
}

/// Does to the packet what its verdict asks for.
#[inline(never)]
fn applied<A: TcFamily, const L3: usize>(skb: *mut __sk_buff) -> i32 {
    let (Some(Parsed { packet, to, .. }), Some(verdict)) =
        (family::parsed::<A>(), family::noted_verdict::<A>())
    else {
        return TC_ACT_SHOT;
    };
    let ctx = TcContext::new(skb);
    if !verdict.is_refusal() {
        return finish(Hook::Ingress, apply(&ctx, packet, to, verdict, L3, Hook::Ingress));
    }
    stats::verdict(Hook::Ingress, verdict);
    if packet.fragment == Fragment::First {
        fragments::refused(packet, to, Hook::Ingress);
    }
    // SAFETY: the kernel keeps the context valid during the run.
    let ifindex = unsafe { (*skb).ifindex };
    let answers = limit::allows(Answer::Refusal, now());
    send_back(ifindex, answers && refuse::answer(skb, packet, L3))
}

#[inline(always)]
fn decide_entering<A: TcFamily, const L3: usize>(ctx: &TcContext) -> i32 {
    let Some(Parsed { packet, to, .. }) = family::parse::<A>(window(ctx), L3) else {
        return finish(Hook::Ingress, Verdict::Passed);
    };
    // SAFETY: the kernel keeps the context valid during the run.
    let ifindex = unsafe { (*skb(ctx)).ifindex };
    // SAFETY: as above.
    let other_host = L3 != 0 && unsafe { (*skb(ctx)).pkt_type } == PACKET_OTHERHOST;
    if other_host && !ingress::is_port(ifindex) {
        return finish(Hook::Ingress, Verdict::Passed);
    }
    if packet.fragment == Fragment::Later && packet.has_ports() {
        let verdict = fragments::later(skb(ctx), packet, L3, Hook::Ingress);
        return finish(Hook::Ingress, verdict.unwrap_or_else(|| stray_fragment(packet)));
    }
    if packet.has_ports() {
        let arrival = || Arrival { ifindex, now: now(), size: size(ctx, packet, L3) };
        let step = ingress::decide(packet, arrival, to, |tuple| {
            sockets::has_connection(skb(ctx).cast(), tuple, packet.proto)
        });
        return match step {
            Step::Begin => BEGIN,
            Step::Onward { into_pod } if packet.fragment == Fragment::Whole && L3 == ETHERNET => {
                if into_pod {
                    ONWARD
                } else {
                    OUTWARD
                }
            }
            Step::Back(verdict) if packet.fragment == Fragment::Whole && L3 == ETHERNET => {
                if verdict == Verdict::SourceRestored {
                    RESTORED
                } else {
                    BACK
                }
            }
            Step::Onward { .. } => to_apply::<A>(Verdict::Forwarded),
            // At once: most packets are of these kinds.
            Step::Known(verdict) if packet.fragment == Fragment::Whole => {
                finish(Hook::Ingress, rewrite::apply(skb(ctx), packet, to, verdict, L3))
            }
            Step::Done(verdict) if packet.fragment == Fragment::Whole && !verdict.is_refusal() => {
                finish(Hook::Ingress, verdict)
            }
            Step::Known(verdict) | Step::Back(verdict) | Step::Done(verdict) => {
                to_apply::<A>(verdict)
            }
        };
    }
    let verdict = portless::ingress(skb(ctx), packet, L3);
    if verdict == Verdict::EchoAnswered {
        echo::<A, L3>(ctx, packet, ifindex)
    } else if verdict.is_refusal() {
        to_apply::<A>(verdict)
    } else {
        finish(Hook::Ingress, verdict)
    }
}

/// Answers a ping, within the limit.
#[inline(always)]
fn echo<A: TcFamily, const L3: usize>(ctx: &TcContext, packet: &Packet<A>, ifindex: u32) -> i32 {
    let verdict = if !limit::allows(Answer::Echo, now()) {
        Verdict::DroppedLimited
    } else if icmp::reply(skb(ctx), packet, L3).is_none() {
        Verdict::DroppedRewrite
    } else {
        Verdict::EchoAnswered
    };
    stats::verdict(Hook::Ingress, verdict);
    send_back(ifindex, !verdict.is_drop())
}

/// Sends the answer that the packet has become out where the packet came in;
/// drops the packet if it has become none.
#[inline(always)]
fn send_back(ifindex: u32, is_answer: bool) -> i32 {
    if is_answer {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_redirect(ifindex, 0) as i32 }
    } else {
        TC_ACT_SHOT
    }
}

/// The verdict on a later fragment whose first was not seen: nobody else can
/// do anything with a piece of a Service's datagram.
#[inline(always)]
fn stray_fragment<A: TcFamily>(packet: &Packet<A>) -> Verdict {
    let dst = packet.tuple.dst;
    let flags = filter::address(dst);
    if service_addr::is_cluster_ip(dst, flags) {
        Verdict::DroppedFragment
    } else {
        service_addr::stranger(dst, flags)
    }
}

/// The egress hook.
#[inline(always)]
pub(crate) fn egress<const L3: usize>(ctx: &TcContext) -> i32 {
    match protocol(ctx) {
        Some(ETHERTYPE_V4) => egress_family::<V4, L3>(ctx),
        Some(ETHERTYPE_V6) => egress_family::<V6, L3>(ctx),
        _ => finish(Hook::Egress, Verdict::Passed),
    }
}

#[inline(always)]
fn egress_family<A: TcFamily, const L3: usize>(ctx: &TcContext) -> i32 {
    let action = leaving::<A, L3>(skb(ctx));
    if L3 == ETHERNET && action == ASTRAY {
        return astray::leave::<A>(skb(ctx));
    }
    if action != NO_PORT {
        return action;
    }
    log::no_source_port::<A>(skb(ctx), now());
    TC_ACT_SHOT
}

/// Stands for [`TC_ACT_SHOT`] where the log has something to say.
const NO_PORT: i32 = i32::MAX;

/// Stands for [`NEXT`] where a reply may leave by the wrong interface.
const ASTRAY: i32 = i32::MAX - 1;

/// All but the log. A function of its own for each family, since together, and
/// with the log's own on top, they need more stack than a program has.
#[inline(never)]
fn leaving<A: TcFamily, const L3: usize>(skb: *mut __sk_buff) -> i32 {
    let mut astray = false;
    let verdict = leave::<A, L3>(&TcContext::new(skb), &mut astray);
    let action = finish(Hook::Egress, verdict);
    if verdict == Verdict::DroppedNoPort {
        NO_PORT
    } else if L3 == ETHERNET && action == NEXT && astray {
        ASTRAY
    } else {
        action
    }
}

#[inline(always)]
fn leave<A: TcFamily, const L3: usize>(ctx: &TcContext, astray: &mut bool) -> Verdict {
    let Some(parsed) = family::parse::<A>(window(ctx), L3) else {
        return Verdict::Passed;
    };
    let Parsed { packet, to, astray: noted } = parsed;
    *noted = 0;
    // SAFETY: the kernel keeps the context valid during the run.
    let ifindex = unsafe { (*skb(ctx)).ifindex };
    // SAFETY: as above.
    let turns_back = unsafe { (*skb(ctx)).ingress_ifindex } == ifindex;
    if !packet.has_ports() {
        return portless::egress(skb(ctx), packet, L3, turns_back);
    }
    if packet.fragment == Fragment::Later {
        let verdict = fragments::later(skb(ctx), packet, L3, Hook::Egress);
        *astray = verdict == Some(Verdict::Returned);
        return verdict.unwrap_or_else(|| service_addr::leaving(packet.tuple.dst, turns_back));
    }
    let departure = || Departure { ifindex, now: now(), size: size(ctx, packet, L3) };
    let verdict = egress::decide(packet, turns_back, departure, to, noted, |tuple| {
        sockets::has_socket(skb(ctx).cast(), tuple, packet.proto)
    });
    let verdict = apply(ctx, packet, to, verdict, L3, Hook::Egress);
    // SAFETY: as good as any reference.
    let noted = unsafe { core::ptr::from_mut(noted).read_volatile() };
    *astray = verdict == Verdict::Returned && noted != 0;
    verdict
}

/// Rewrites the packet to `to` where the verdict lets it go on.
#[inline(always)]
fn apply<A: TcFamily>(
    ctx: &TcContext,
    packet: &Packet<A>,
    to: &Tuple<A>,
    verdict: Verdict,
    l3: usize,
    hook: Hook,
) -> Verdict {
    if packet.fragment == Fragment::First {
        return fragments::first(skb(ctx), packet, to, verdict, l3, hook);
    }
    rewrite::apply(skb(ctx), packet, to, verdict, l3)
}
