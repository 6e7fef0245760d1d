//! Fragments at the TC hooks. Only the first of a datagram has the ports; the
//! others follow what was decided for it. Those that come before it wait.

use aya_ebpf::bindings::__sk_buff;
use lb_common::filter::{BACKEND_ADDR, NODE_ADDR};
use lb_common::{Hook, Tuple, Verdict};

use crate::datagrams::{self, DatagramFamily};
use crate::family::{self, Family};
use crate::held::{self, Place};
use crate::packet::Packet;
use crate::rewrite::{self, RewriteFamily};
use crate::tc::now;
use crate::{filter, service_addr};

/// Rewrites a first fragment to `to` where the verdict lets it go on; the
/// others of its datagram follow it. The packet's description is not to be used
/// any more.
#[inline(always)]
pub(crate) fn first<A: DatagramFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    to: &Tuple<A>,
    verdict: Verdict,
    l3: usize,
    hook: Hook,
) -> Verdict {
    let changes = to.src != packet.tuple.src || to.dst != packet.tuple.dst;
    let Some(key) = datagrams::key(packet, hook) else { return Verdict::DroppedRewrite };
    let now = now();
    let verdict = rewrite::apply(skb, packet, to, verdict, l3);
    let noted = family::note_verdict::<A>(verdict).and_then(|()| family::noted_verdict::<A>());
    let Some(verdict) = noted else { return Verdict::DroppedRewrite };
    let fate = if verdict.is_drop() { Verdict::DroppedFragment } else { verdict };
    let awaited = (changes || may_change(packet, hook)) && datagrams::remember(key, to, fate, now);
    if !awaited {
        return verdict;
    }
    if verdict.is_drop() {
        held::forget(key);
        return verdict;
    }
    let released = held::release(skb, key, Place { hook, l3, now });
    released.map_or(Verdict::DroppedRewrite, |()| verdict)
}

/// A first fragment is refused: so are the others of its datagram.
#[inline(always)]
pub(crate) fn refused<A: DatagramFamily>(packet: &Packet<A>, to: &Tuple<A>, hook: Hook) {
    if let Some(key) = datagrams::key(packet, hook)
        && datagrams::remember(key, to, Verdict::DroppedFragment, now())
    {
        held::forget(key);
    }
}

/// The verdict on a later fragment, if its first was seen, or may yet come.
#[inline(always)]
pub(crate) fn later<A: DatagramFamily + RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    l3: usize,
    hook: Hook,
) -> Option<Verdict> {
    let (key, now) = (datagrams::key(packet, hook)?, now());
    if let Some(verdict) = datagrams::follow(skb, packet, key, l3, now) {
        return Some(verdict);
    }
    if !may_change(packet, hook) || !datagrams::wait(key, now) {
        return None;
    }
    let slot = held::hold(skb, key, Place { hook, l3, now })?;
    // Another CPU may have met the first fragment before this one was there.
    if let Some(verdict) = datagrams::follow(skb, packet, key, l3, now)
        && held::take_back(slot, key, now)
    {
        return Some(verdict);
    }
    Some(Verdict::HeldFragment)
}

/// Whether a datagram with these addresses may be given others here: nothing
/// more can be told of a fragment without ports.
#[inline(always)]
fn may_change<A: Family>(packet: &Packet<A>, hook: Hook) -> bool {
    let Tuple { src, dst, .. } = packet.tuple;
    match hook {
        Hook::Egress => (filter::address(src) | filter::address(dst)) & BACKEND_ADDR != 0,
        Hook::Ingress | Hook::Xdp | Hook::Socket => {
            let flags = filter::address(dst);
            flags & NODE_ADDR != 0 || service_addr::kind(dst, flags).is_some()
        }
    }
}
