//! Packets in fragments: only the first has the ports.

use lb_common::{V4, V6, Verdict, filter};
use lb_tests::packet::{Fragment, Packet};
use lb_tests::prog::net::{POD_2, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig};
use lb_userspace::desired::Protocol;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A datagram of 2,000 bytes in three fragments.
fn cut(packet: &Packet, id: u16) -> [Packet; 3] {
    let packet = packet.clone().payload(&[0x5a; 2000]);
    [0, 800, 1600].map(|offset| Packet {
        fragment: Some(Fragment { offset, len: 800, id }),
        ..packet.clone()
    })
}

fn install(rig: &mut Rig, case: Case, backend: SocketAddr) {
    rig.reset();
    rig.install(&case.web(&[backend]));
}

/// SCTP comes in fragments nowhere, and can't be translated so.
fn cut_cases() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.protocol != Protocol::Sctp)
}

#[test]
fn later_fragments_follow_the_first_both_ways() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(100..) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        for fragment in cut(&case.open(client, vip), id) {
            case.enter(&mut rig, POD_2, &fragment).forwarded_to(backend);
        }
        for fragment in cut(&case.accept(backend, client), id) {
            case.leave(&mut rig, POD_2, &fragment).returned_from(vip);
        }
    }
}

#[test]
fn later_fragments_follow_the_first_through_source_translation() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(200..) {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        install(&mut rig, case, backend);
        for fragment in cut(&case.open(client, front), id) {
            case.enter(&mut rig, UPLINK, &fragment).forwarded_to(backend);
        }
        let [first, second, third] = cut(&case.open(client, backend), id);
        let bytes_of = |step: &lb_tests::prog::Step| step.outcome.frame.clone();
        let step = case.leave(&mut rig, UPLINK_2, &first);
        assert_eq!(step.outcome.verdict, Verdict::SourceTranslated, "{}", step.describe());
        // The port stands where the transport header begins.
        let link = if case.l3 { 0 } else { 14 };
        let at = link + if case.v6 { 48 } else { 20 };
        let frame = bytes_of(&step);
        let source = case.node(UPLINK_2, u16::from_be_bytes([frame[at], frame[at + 1]]));
        step.became(Verdict::SourceTranslated, source, backend);
        for fragment in [second, third] {
            case.leave(&mut rig, UPLINK_2, &fragment).became(
                Verdict::SourceTranslated,
                source,
                backend,
            );
        }
        for fragment in cut(&case.accept(backend, source), id) {
            case.enter(&mut rig, UPLINK_2, &fragment).became(
                Verdict::SourceRestored,
                backend,
                client,
            );
        }
        for fragment in cut(&case.accept(backend, client), id) {
            case.leave(&mut rig, UPLINK, &fragment).returned_from(front);
        }
    }
}

#[test]
fn a_later_fragment_whose_first_was_not_seen_is_dropped_at_a_service_and_passes_elsewhere() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(300..) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        let [_, second, third] = cut(&case.open(client, vip), id);
        for fragment in [second, third] {
            case.enter(&mut rig, POD_2, &fragment).dropped(Verdict::DroppedFragment);
        }
        for to in [backend, case.node(UPLINK, 30_080), case.outside(7, 9)] {
            for fragment in &cut(&case.open(client, to), id)[1..] {
                case.enter(&mut rig, POD_2, fragment).passed();
                case.leave(&mut rig, POD_2, fragment).passed();
            }
        }
        // Another datagram's first says nothing about this one.
        let [first, _, _] = cut(&case.open(client, vip), id + 1000);
        case.enter(&mut rig, POD_2, &first).forwarded_to(backend);
        let [_, second, _] = cut(&case.open(client, vip), id);
        case.enter(&mut rig, POD_2, &second).dropped(Verdict::DroppedFragment);
    }
}

#[test]
fn fragments_of_a_strangers_datagram_pass() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(400..) {
        install(&mut rig, case, case.pod(1, 10, 8080));
        let (client, stranger) = (case.pod(1, 20, 4000), case.outside(7, 9));
        for fragment in cut(&case.open(client, stranger), id) {
            case.enter(&mut rig, POD_2, &fragment).passed();
            case.leave(&mut rig, UPLINK, &fragment).passed();
        }
    }
}

/// RFC 6946: a fragment header on a whole packet.
#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.v6) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        let atomic = Some(Fragment { offset: 0, len: 2000, id: 9 });
        let packet = Packet { fragment: atomic, ..case.open(client, vip) };
        case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
        let packet = Packet { fragment: atomic, ..case.accept(backend, client) };
        case.leave(&mut rig, POD_2, &packet).returned_from(vip);
    }
}

/// The filter says "maybe" of an address that shares a bucket with a Service's.
#[test]
fn a_later_fragment_to_a_stranger_passes_whatever_the_filter_says() {
    let Some(mut rig) = Rig::take() else { return };
    let case = Case { v6: false, protocol: Protocol::Udp, l3: false };
    install(&mut rig, case, case.pod(1, 10, 8080));
    let bucket = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => filter::address_bucket(V4::from(addr)),
        IpAddr::V6(addr) => filter::address_bucket(V6::from(addr)),
    };
    let wanted = bucket(case.vip(1, 80).ip());
    let stranger = (0x1400_0000..0x2000_0000_u32)
        .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)))
        .find(|addr| bucket(*addr) == wanted)
        .expect("an address of the same bucket");
    for packet in cut(&case.open(case.pod(1, 20, 4000), SocketAddr::new(stranger, 9)), 77) {
        case.enter(&mut rig, POD_2, &packet).passed();
    }
}
