//! Writes a new tuple into a socket buffer.
//!
//! All through helpers: they know whether the buffer's checksum is complete,
//! partial (a sender on this machine, or behind a virtual link, leaves it to
//! the device) or summed by the receiving device, and keep it right in each
//! case. They also unshare the buffer if it is shared.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::{bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_store_bytes};
use lb_common::csum::{address_diff, fold, port_diff};
use lb_common::proto::{SCTP, UDP};
use lb_common::{Address, BePort, Tuple, V4, V6, Verdict, sctp};

use crate::packet::{Fragment, Packet, V4_ADDRESSES, V4_CHECKSUM, V6_ADDRESSES};
use crate::refuse::load;

/// Offset of the checksum in a TCP header (RFC 9293 section 3.1).
pub(crate) const TCP_CHECKSUM: usize = 16;
/// Offset of the checksum in a UDP header (RFC 768).
pub(crate) const UDP_CHECKSUM: usize = 6;

/// Offset of the checksum in an SCTP header (RFC 9260 section 3.1).
pub(crate) const SCTP_CHECKSUM: usize = 8;

/// How the IP header of a family takes new addresses.
pub(crate) trait RewriteFamily: Address {
    /// Stores both addresses; `diff` is what they change in a checksum.
    fn store_addresses(
        skb: *mut __sk_buff,
        l3: usize,
        src: Self,
        dst: Self,
        diff: u64,
    ) -> Option<()>;

    /// Source and destination as they are in the packet now.
    fn load_addresses(skb: *mut __sk_buff, l3: usize) -> Option<[Self; 2]>;
}

/// Stores a value at an offset of the packet.
#[inline(always)]
pub(crate) fn store<T>(skb: *mut __sk_buff, offset: usize, value: &T, flags: u32) -> Option<()> {
    let from = core::ptr::from_ref(value).cast();
    // SAFETY: `from` points to size_of::<T>() initialised bytes; the helper
    // checks the offset.
    let result = unsafe {
        bpf_skb_store_bytes(skb, offset as u32, from, size_of::<T>() as u32, u64::from(flags))
    };
    (result == 0).then_some(())
}

impl RewriteFamily for V4 {
    #[inline(always)]
    fn store_addresses(
        skb: *mut __sk_buff,
        l3: usize,
        src: Self,
        dst: Self,
        diff: u64,
    ) -> Option<()> {
        // SAFETY: the helper checks the offset. Size 0: `to` is a difference.
        if unsafe { bpf_l3_csum_replace(skb, (l3 + V4_CHECKSUM) as u32, 0, diff, 0) } != 0 {
            return None;
        }
        store(skb, l3 + V4_ADDRESSES, &[src.0, dst.0], 0)
    }

    #[inline(always)]
    fn load_addresses(skb: *mut __sk_buff, l3: usize) -> Option<[Self; 2]> {
        Some(load::<[_; 2]>(skb, l3 + V4_ADDRESSES)?.map(Self))
    }
}

impl RewriteFamily for V6 {
    #[inline(always)]
    fn store_addresses(
        skb: *mut __sk_buff,
        l3: usize,
        src: Self,
        dst: Self,
        _diff: u64,
    ) -> Option<()> {
        // The header has no checksum of its own to make up for the change, so
        // a device's sum over the packet (CHECKSUM_COMPLETE) changes with it:
        // RECOMPUTE adds here what the pseudo-header update takes off.
        store(skb, l3 + V6_ADDRESSES, &[src.0, dst.0], BPF_F_RECOMPUTE_CSUM)
    }

    #[inline(always)]
    fn load_addresses(skb: *mut __sk_buff, l3: usize) -> Option<[Self; 2]> {
        Some(load::<[_; 2]>(skb, l3 + V6_ADDRESSES)?.map(Self))
    }
}

/// Rewrites the packet to `to` where the verdict lets it go on.
#[inline(always)]
pub(crate) fn apply<A: RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    to: &Tuple<A>,
    verdict: Verdict,
    l3: usize,
) -> Verdict {
    if verdict.is_drop() || *to == packet.tuple {
        return verdict;
    }
    match headers(skb, packet, to, l3) {
        Some(()) => verdict,
        None => Verdict::DroppedRewrite,
    }
}

/// Replaces the packet's tuple by `to`.
#[inline(always)]
pub(crate) fn headers<A: RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    to: &Tuple<A>,
    l3: usize,
) -> Option<()> {
    if packet.proto == SCTP {
        return sctp_headers(skb, packet, to, l3);
    }
    let from = &packet.tuple;
    let (offset, zero_means_none) = if packet.proto == UDP {
        (packet.l4 + UDP_CHECKSUM, u64::from(BPF_F_MARK_MANGLED_0))
    } else {
        (packet.l4 + TCP_CHECKSUM, 0)
    };
    let offset = offset as u32;
    let ports = port_diff(from.sport, to.sport) + port_diff(from.dport, to.dport);
    if from.sport != to.sport || from.dport != to.dport {
        let diff = u64::from(fold(ports));
        // SAFETY: the helper checks the offset. Size 0: `to` is a difference.
        if unsafe { bpf_l4_csum_replace(skb, offset, 0, diff, zero_means_none) } != 0 {
            return None;
        }
        store(skb, packet.l4, &Ports { sport: to.sport, dport: to.dport }, 0)?;
    }
    if from.src != to.src || from.dst != to.dst {
        let diff = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
        let diff = u64::from(fold(diff));
        let flags = zero_means_none | u64::from(BPF_F_PSEUDO_HDR);
        // SAFETY: as above.
        if unsafe { bpf_l4_csum_replace(skb, offset, 0, diff, flags) } != 0 {
            return None;
        }
        A::store_addresses(skb, l3, to.src, to.dst, diff)?;
    }
    Some(())
}

/// Likewise for SCTP, whose checksum covers no addresses, and all else to the
/// end of the packet: of a part of one it can't be brought up to date.
#[inline(always)]
fn sctp_headers<A: RewriteFamily>(
    skb: *mut __sk_buff,
    packet: &Packet<A>,
    to: &Tuple<A>,
    l3: usize,
) -> Option<()> {
    let from = &packet.tuple;
    let (old, new) = ([from.sport, from.dport], [to.sport, to.dport]);
    if old != new {
        if packet.fragment != Fragment::Whole {
            return None;
        }
        let len = packet.len.wrapping_sub((packet.l4 - l3) as u32);
        let field = load::<[u16; 2]>(skb, packet.l4 + SCTP_CHECKSUM)?;
        let field = sctp::update(field, old, new, len);
        // What a device has summed over the packet changes with it: unlike an
        // Internet checksum, this one does not make up for the change.
        store(skb, packet.l4 + SCTP_CHECKSUM, &field, BPF_F_RECOMPUTE_CSUM)?;
        let ports = Ports { sport: to.sport, dport: to.dport };
        store(skb, packet.l4, &ports, BPF_F_RECOMPUTE_CSUM)?;
    }
    if from.src != to.src || from.dst != to.dst {
        let diff = address_diff(from.src, to.src) + address_diff(from.dst, to.dst);
        A::store_addresses(skb, l3, to.src, to.dst, u64::from(fold(diff)))?;
    }
    Some(())
}

#[repr(C)]
struct Ports {
    sport: BePort,
    dport: BePort,
}
