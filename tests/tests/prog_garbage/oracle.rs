//! What a program may do to a frame that nobody planned, by the standards and
//! not by our parser.

use crate::frames::World;
use lb_tests::packet::{outer_checksum_fault, rfc1071};
use lb_tests::prog::{Prog, action};
use std::net::IpAddr;

/// Where the IP header of a TCP or UDP packet is and what the packet says:
/// none for all else. By the standards, not by our parser.
struct Layers {
    v6: bool,
    src: IpAddr,
    dst: IpAddr,
    ip: usize,
    /// Where the transport header begins, unless in a later fragment.
    transport: Option<usize>,
    tcp: bool,
}

fn layers(frame: &[u8], ethernet: bool) -> Option<Layers> {
    let ip = if ethernet { 14 } else { 0 };
    let v6 = match frame.get(12..14)? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        _ => return None,
    };
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let header = frame.get(ip..)?;
    if v6 {
        let header = header.get(..40)?;
        let address = |at: usize| <[u8; 16]>::try_from(&header[at..at + 16]).map(IpAddr::from);
        let (src, dst) = (address(8).ok()?, address(24).ok()?);
        let (mut next, mut at, mut later) = (header[6], ip + 40, false);
        while matches!(next, 0 | 43 | 44 | 60) && !later {
            if next == 44 {
                later = word(at + 2)? & 0xfff8 != 0;
                next = *frame.get(at)?;
                at += 8;
            } else {
                next = *frame.get(at)?;
                at += 8 * (1 + usize::from(*frame.get(at + 1)?));
            }
        }
        let tcp = next == 6;
        let transport = (!later).then_some(at);
        return (tcp || next == 17).then_some(Layers { v6, src, dst, ip, transport, tcp });
    }
    let header = header.get(..20)?;
    let address = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).map(IpAddr::from);
    let (src, dst) = (address(12).ok()?, address(16).ok()?);
    let bits = word(ip + 6)?;
    let tcp = header[9] == 6;
    let offset = bits & 0x1fff;
    let transport = (offset == 0).then_some(ip + 4 * usize::from(header[0] & 15));
    (tcp || header[9] == 17).then_some(Layers { v6, src, dst, ip, transport, tcp })
}

/// The frame with all that a translation may change set to zero.
fn masked(frame: &[u8], layers: &Layers, next_hop: bool) -> Vec<u8> {
    let mut masked = frame.to_vec();
    let mut clear = |range: std::ops::Range<usize>| masked[range].fill(0);
    if layers.v6 {
        clear(layers.ip + 8..layers.ip + 40);
    } else {
        clear(layers.ip + 12..layers.ip + 20);
        clear(layers.ip + 10..layers.ip + 12);
    }
    if let Some(transport) = layers.transport {
        clear(transport..transport + 4);
        let sum = transport + if layers.tcp { 16 } else { 6 };
        clear(sum..sum + 2);
    }
    if next_hop {
        clear(0..12);
        let ttl = layers.ip + if layers.v6 { 7 } else { 8 };
        clear(ttl..ttl + 1);
    }
    masked
}

/// Sum over all that the transport checksum covers and a translation changes:
/// the same before and after, right or wrong.
fn transport_sum(frame: &[u8], layers: &Layers) -> u16 {
    let addresses = if layers.v6 { 8..40 } else { 12..20 };
    let addresses = &frame[layers.ip + addresses.start..layers.ip + addresses.end];
    let transport = layers.transport.expect("asked only of packets that have it");
    let sum = transport + if layers.tcp { 16 } else { 6 };
    rfc1071(&[addresses, &frame[transport..transport + 4], &frame[sum..sum + 2]])
}

/// Asserts that a program may have done this to this frame.
pub(crate) fn check(world: &World, prog: Prog, frame: &[u8], action: u32, out: &[u8]) {
    let passes = if prog == Prog::Xdp {
        action == action::XDP_PASS
    } else {
        action::TC_PASS.contains(&action)
    };
    if passes && out == frame {
        return;
    }
    let what = || format!("{prog:?}, action {action}\n in {frame:02x?}\nout {out:02x?}");
    let Some(layers) = layers(frame, prog.is_ethernet()) else { panic!("not ours: {}", what()) };
    let ours = world.ours.contains(&layers.dst) || world.ours.contains(&layers.src);
    assert!(ours, "not ours: {}", what());
    if action == action::TC_REDIRECT && prog != Prog::Xdp {
        let fault = outer_checksum_fault(out, prog.is_ethernet());
        assert_eq!(fault, None, "an answer: {}", what());
        return;
    }
    if action == action::TC_DROP && prog != Prog::Xdp || action == action::XDP_DROP {
        return;
    }
    let next_hop = prog == Prog::Xdp && !passes;
    assert_eq!(frame.len(), out.len(), "{}", what());
    let same = masked(frame, &layers, next_hop) == masked(out, &layers, next_hop);
    assert!(same, "more than the tuple: {}", what());
    if !layers.v6 && !next_hop {
        let (before, after) = (&frame[layers.ip..], &out[layers.ip..]);
        let same = equal(rfc1071(&[&before[..20]]), rfc1071(&[&after[..20]]));
        assert!(same, "IPv4 header checksum: {}", what());
    }
    if let Some(transport) = layers.transport {
        if !layers.tcp && frame[transport + 6..transport + 8] == [0, 0] {
            assert_eq!(out[transport + 6..transport + 8], [0, 0], "{}", what());
        } else {
            let same = equal(transport_sum(frame, &layers), transport_sum(out, &layers));
            assert!(same, "transport checksum: {}", what());
        }
    }
}

/// Equal in one's complement, which has two zeros.
const fn equal(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

/// The answer to a frame that a program gave out: addresses and ports change
/// places, which leaves every sum as it is.
pub(crate) fn answer(out: &[u8], ethernet: bool) -> Option<Vec<u8>> {
    let layers = layers(out, ethernet)?;
    let mut frame = out.to_vec();
    let (at, len) = if layers.v6 { (layers.ip + 8, 16) } else { (layers.ip + 12, 4) };
    frame[at..at + 2 * len].rotate_left(len);
    let transport = layers.transport?;
    frame.get_mut(transport..transport + 4)?.rotate_left(2);
    Some(frame)
}
