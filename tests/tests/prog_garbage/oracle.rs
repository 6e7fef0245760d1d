//! What a program may do to a frame that nobody planned, by the standards and
//! not by our parser.

use crate::frames::World;
use lb_tests::packet::{outer_checksum_fault, rfc1071};
use lb_tests::prog::{Prog, action};
use std::net::IpAddr;
use std::ops::Range;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Where an IP header is, and its addresses.
#[derive(Clone, Copy)]
struct Network {
    v6: bool,
    src: IpAddr,
    dst: IpAddr,
    ip: usize,
}

/// What follows an IP header.
struct Layers {
    network: Network,
    proto: u8,
    /// Where the transport header begins, unless in a later fragment.
    transport: Option<usize>,
}

fn network(frame: &[u8], ethernet: bool) -> Option<Network> {
    let ip = if ethernet { 14 } else { 0 };
    match frame.get(12..14)? {
        [0x08, 0x00] => network_at(frame, ip, false),
        [0x86, 0xdd] => network_at(frame, ip, true),
        _ => None,
    }
}

fn network_at(frame: &[u8], ip: usize, v6: bool) -> Option<Network> {
    let header = frame.get(ip..)?;
    let (src, dst) = if v6 {
        let address = |at: usize| <[u8; 16]>::try_from(header.get(at..at + 16)?).ok();
        (address(8)?.into(), address(24)?.into())
    } else {
        let address = |at: usize| <[u8; 4]>::try_from(header.get(at..at + 4)?).ok();
        (address(12)?.into(), address(16)?.into())
    };
    Some(Network { v6, src, dst, ip })
}

fn layers(frame: &[u8], network: Network) -> Option<Layers> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let ip = network.ip;
    if network.v6 {
        let (mut next, mut at, mut later) = (*frame.get(ip + 6)?, ip + 40, false);
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
        return Some(Layers { network, proto: next, transport: (!later).then_some(at) });
    }
    let offset = word(ip + 6)? & 0x1fff;
    let transport = (offset == 0).then_some(ip + 4 * usize::from(frame.get(ip)? & 15));
    Some(Layers { network, proto: *frame.get(ip + 9)?, transport })
}

impl Layers {
    fn has_ports(&self) -> bool {
        matches!(self.proto, TCP | UDP | SCTP)
    }

    /// Where the transport checksum is.
    fn checksum(&self) -> Option<Range<usize>> {
        let (at, len) = match self.proto {
            TCP => (16, 2),
            UDP => (6, 2),
            _ => (8, 4),
        };
        let start = self.transport? + at;
        Some(start..start + len)
    }

    /// Length of the transport packet by the IP header, if that makes sense.
    fn claimed_len(&self, frame: &[u8]) -> Option<usize> {
        let (ip, v6) = (self.network.ip, self.network.v6);
        let at = if v6 { ip + 4 } else { ip + 2 };
        let word = usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
        let len = if v6 { word + 40 } else { word };
        len.checked_sub(self.transport? - ip).filter(|len| *len >= 12)
    }

    /// Sets all that a translation may change to zero, as far as it is there.
    fn mask(&self, frame: &mut [u8], end: usize) {
        let mut clear = |range: Range<usize>| {
            let range = range.start.min(end)..range.end.min(end);
            frame[range].fill(0);
        };
        let ip = self.network.ip;
        if self.network.v6 {
            clear(ip + 8..ip + 40);
        } else {
            clear(ip + 10..ip + 20);
        }
        if let (true, Some(transport), Some(sum)) =
            (self.has_ports(), self.transport, self.checksum())
        {
            clear(transport..transport + 4);
            clear(sum);
        }
    }

    /// Asserts that the checksum of the IP header, if it has one, is as right,
    /// or as wrong, as it was.
    fn compare_header_sums(&self, before: &[u8], after: &[u8], what: &dyn Fn() -> String) {
        if !self.network.v6 {
            let header = self.network.ip..self.network.ip + 20;
            let same = equal(rfc1071(&[&before[header.clone()]]), rfc1071(&[&after[header]]));
            assert!(same, "IPv4 header checksum: {}", what());
        }
    }

    /// Likewise for the transport checksum, if it ends before `end`.
    fn compare_sums(&self, before: &[u8], after: &[u8], end: usize, what: &dyn Fn() -> String) {
        let ip = self.network.ip;
        let (Some(transport), Some(sum)) = (self.transport, self.checksum()) else { return };
        if !self.has_ports() || sum.end > end {
            return;
        }
        let none = before[sum.clone()].iter().all(|byte| *byte == 0);
        if self.proto != TCP && none {
            assert_eq!(after[sum.clone()], before[sum], "{}", what());
            return;
        }
        if self.proto == SCTP {
            let Some(len) = self.claimed_len(before) else { return };
            // What is not there counts as zeros: it changes neither.
            let fault = |frame: &[u8]| {
                let mut packet = frame[transport..end].to_vec();
                packet.resize(len, 0);
                let field = [packet[8], packet[9], packet[10], packet[11]];
                packet[8..12].fill(0);
                let computed = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(&packet);
                computed ^ u32::from_le_bytes(field)
            };
            assert_eq!(fault(before), fault(after), "SCTP checksum: {}", what());
            return;
        }
        // All that the checksum covers and a translation changes.
        let total = |frame: &[u8]| {
            let addresses = if self.network.v6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
            let ports = transport..transport + 4;
            rfc1071(&[&frame[addresses], &frame[ports], &frame[sum.clone()]])
        };
        assert!(equal(total(before), total(after)), "transport checksum: {}", what());
    }
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
    let ethernet = prog.is_ethernet();
    let what = || format!("{prog:?}, action {action}\n in {frame:02x?}\nout {out:02x?}");
    let Some(network) = network(frame, ethernet) else { panic!("not ours: {}", what()) };
    let layers = layers(frame, network);
    let ends = if prog == Prog::Xdp {
        action == action::XDP_DROP
    } else {
        action == action::TC_DROP || action == action::TC_REDIRECT
    };
    if ends {
        let waits = |layers: &Layers| layers.has_ports() && layers.transport.is_none();
        if prog != Prog::Xdp && layers.as_ref().is_some_and(waits) {
            // For its first fragment: the filter of addresses says "maybe".
            return;
        }
        assert_ours(world, network, &what);
        if !layers.as_ref().is_some_and(Layers::has_ports) {
            assert!(world.services.contains(&network.dst), "no Service's: {}", what());
        }
        if prog != Prog::Xdp && action == action::TC_REDIRECT {
            match layers {
                Some(layers) if prog == Prog::Egress && goes_on(frame, out, ethernet, &layers) => {
                    translated(prog, frame, out, &layers, false, &what);
                }
                layers => answered(frame, out, ethernet, layers, &what),
            }
        }
        return;
    }
    let Some(layers) = layers else { panic!("unreadable, but changed: {}", what()) };
    assert_eq!(frame.len(), out.len(), "{}", what());
    if layers.has_ports() {
        assert_ours(world, network, &what);
        translated(prog, frame, out, &layers, !passes, &what);
    } else {
        error_translated(world, frame, out, &layers, &what);
    }
}

fn assert_ours(world: &World, network: Network, what: &dyn Fn() -> String) {
    let ours = world.ours.contains(&network.dst) || world.ours.contains(&network.src);
    assert!(ours, "not ours: {}", what());
}

/// Whether what was redirected is a packet on its way to where it was going, a reply
/// that leaves by another uplink, and no answer to who sent it.
fn goes_on(frame: &[u8], out: &[u8], ethernet: bool, layers: &Layers) -> bool {
    // Of a later fragment there is the address alone.
    let end = |frame: &[u8], address, port: usize| {
        let at = layers.transport.map(|transport| transport + port);
        (address, at.and_then(|at| frame.get(at..at + 2).map(<[u8]>::to_vec)))
    };
    let target = end(frame, layers.network.dst, 2);
    frame.len() == out.len()
        && layers.has_ports()
        && network(out, ethernet).is_some_and(|after| {
            after.dst == layers.network.dst && end(out, after.src, 0) != target
        })
}

/// An answer is right; that to a wrong ping may be as wrong.
fn answered(
    frame: &[u8],
    out: &[u8],
    ethernet: bool,
    layers: Option<Layers>,
    what: &dyn Fn() -> String,
) {
    let icmp = layers.is_some_and(|layers| matches!(layers.proto, 1 | 58));
    let was_wrong = || outer_checksum_fault(frame, ethernet).is_some();
    if icmp && frame.len() == out.len() && was_wrong() {
        return;
    }
    assert_eq!(outer_checksum_fault(out, ethernet), None, "an answer: {}", what());
}

fn translated(
    prog: Prog,
    frame: &[u8],
    out: &[u8],
    layers: &Layers,
    sent: bool,
    what: &dyn Fn() -> String,
) {
    let next_hop = prog == Prog::Xdp && sent;
    let masked = |frame: &[u8]| {
        let mut masked = frame.to_vec();
        layers.mask(&mut masked, frame.len());
        if next_hop {
            masked[0..12].fill(0);
            masked[layers.network.ip + if layers.network.v6 { 7 } else { 8 }] = 0;
        }
        masked
    };
    assert!(masked(frame) == masked(out), "more than the tuple: {}", what());
    if !next_hop {
        layers.compare_header_sums(frame, out, what);
    }
    layers.compare_sums(frame, out, frame.len(), what);
}

/// An ICMP error: its addresses change, and the tuple that it quotes, with all
/// checksums.
fn error_translated(
    world: &World,
    frame: &[u8],
    out: &[u8],
    layers: &Layers,
    what: &dyn Fn() -> String,
) {
    let Layers { network, proto, transport: Some(message) } = *layers else {
        panic!("a later fragment changed: {}", what());
    };
    let errors: &[u8] = if network.v6 { &[1, 2, 3, 4] } else { &[3, 4, 11, 12] };
    let is_error = proto == if network.v6 { 58 } else { 1 } && errors.contains(&frame[message]);
    assert!(is_error, "no error: {}", what());
    let length = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let end =
        network.ip + if network.v6 { 40 + length(network.ip + 4) } else { length(network.ip + 2) };
    let end = end.min(frame.len());
    let quote = network_at(frame, message + 8, network.v6).and_then(|at| self::layers(frame, at));
    let Some(quote) = quote else { panic!("no quote: {}", what()) };
    assert_ours(world, quote.network, what);
    assert!(quote.has_ports(), "a quote without ports: {}", what());
    let masked = |frame: &[u8]| {
        let mut masked = frame.to_vec();
        layers.mask(&mut masked, end);
        masked[message + 2..message + 4].fill(0);
        quote.mask(&mut masked, end);
        masked
    };
    assert!(masked(frame) == masked(out), "more than the tuples: {}", what());
    layers.compare_header_sums(frame, out, what);
    quote.compare_header_sums(frame, out, what);
    quote.compare_sums(frame, out, end, what);
    let total = |frame: &[u8]| {
        let addresses = if network.v6 { network.ip + 8..network.ip + 40 } else { 0..0 };
        rfc1071(&[&frame[addresses], &frame[message..end]])
    };
    assert!(equal(total(frame), total(out)), "checksum of the error: {}", what());
}

/// Equal in one's complement, which has two zeros.
const fn equal(a: u16, b: u16) -> bool {
    a == b || (a == 0 && b == 0xffff) || (a == 0xffff && b == 0)
}

/// The answer to a frame that a program gave out: addresses and ports change
/// places, which leaves every sum as it is.
pub(crate) fn answer(out: &[u8], ethernet: bool) -> Option<Vec<u8>> {
    let layers = layers(out, network(out, ethernet)?)?;
    let (transport, ip) = (layers.transport?, layers.network.ip);
    if !layers.has_ports() {
        return None;
    }
    let mut frame = out.to_vec();
    let (at, len) = if layers.network.v6 { (ip + 8, 16) } else { (ip + 12, 4) };
    frame[at..at + 2 * len].rotate_left(len);
    frame.get_mut(transport..transport + 4)?.rotate_left(2);
    Some(frame)
}
