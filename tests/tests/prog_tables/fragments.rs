//! Packets in fragments: only the first has the ports.

use lb_common::{V4, V6, Verdict, filter};
use lb_tests::packet::{Fragment, Packet};
use lb_tests::prog::net::{POD_2, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig, Step, Tap};
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
        let bytes_of = |step: &Step| step.outcome.frame.clone();
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

/// Every order of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// Runs the fragments in an order. Those that come before the first are held,
/// and what the interface sees once that has come runs in turn; `check` is for
/// what then became of each.
fn in_order(
    order: [usize; 3],
    fragments: &[Packet; 3],
    tap: &Tap,
    mut run: impl FnMut(&Packet) -> Step,
    check: impl Fn(&Step),
) {
    let mut held = Some(Vec::new());
    for index in order {
        let step = run(&fragments[index]);
        if let Some(held) = held.as_mut().filter(|_| index != 0) {
            step.dropped(Verdict::HeldFragment);
            held.push(step.packet);
            continue;
        }
        check(&step);
        for packet in held.take().into_iter().flatten() {
            let bytes = packet.bytes();
            assert!(tap.next(&bytes[..12]) == bytes, "sent as it came: {packet:?}");
            check(&run(&packet));
        }
    }
}

#[test]
fn fragments_arrive_in_any_order_both_ways() {
    let Some(mut rig) = Rig::take() else { return };
    let tap = Tap::open(POD_2);
    for (case, id) in cut_cases().zip(1000..) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        for (order, n) in ORDERS.into_iter().zip(0..) {
            install(&mut rig, case, backend);
            let sent = cut(&case.open(client, vip), id + 100 * n);
            let run = |packet: &Packet| case.enter(&mut rig, POD_2, packet);
            in_order(order, &sent, &tap, run, |step| step.forwarded_to(backend));
            let sent = cut(&case.accept(backend, client), id + 100 * n);
            let run = |packet: &Packet| case.leave(&mut rig, POD_2, packet);
            in_order(order, &sent, &tap, run, |step| step.returned_from(vip));
            assert_eq!(rig.waiting(), 0);
        }
    }
}

#[test]
fn fragments_pass_source_translation_in_any_order() {
    let Some(mut rig) = Rig::take() else { return };
    let (near, far) = (Tap::open(UPLINK), Tap::open(UPLINK_2));
    for (case, id) in cut_cases().zip(2000..) {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        for (order, n) in ORDERS.into_iter().zip(0..) {
            install(&mut rig, case, backend);
            let sent = cut(&case.open(client, front), id + 100 * n);
            let run = |packet: &Packet| case.enter(&mut rig, UPLINK, packet);
            in_order(order, &sent, &near, run, |step| step.forwarded_to(backend));
            let whole = case.leave(&mut rig, UPLINK_2, &case.open(client, backend));
            let (source, _) = whole.ends();
            let sent = cut(&case.open(client, backend), id + 100 * n);
            let run = |packet: &Packet| case.leave(&mut rig, UPLINK_2, packet);
            let verdict = Verdict::SourceTranslated;
            in_order(order, &sent, &far, run, |step| step.became(verdict, source, backend));
            let sent = cut(&case.accept(backend, source), id + 100 * n);
            let run = |packet: &Packet| case.enter(&mut rig, UPLINK_2, packet);
            let verdict = Verdict::SourceRestored;
            in_order(order, &sent, &far, run, |step| step.became(verdict, backend, client));
            let sent = cut(&case.accept(backend, client), id + 100 * n);
            let run = |packet: &Packet| case.leave(&mut rig, UPLINK, packet);
            in_order(order, &sent, &near, run, |step| step.returned_from(front));
        }
    }
}

/// The node's own, and what leaves to or from a backend past its Service.
#[test]
fn fragments_that_are_nobodys_arrive_in_any_order() {
    let Some(mut rig) = Rig::take() else { return };
    let tap = Tap::open(POD_2);
    for (case, id) in cut_cases().zip(3000..) {
        let (other, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        for (order, n) in ORDERS.into_iter().zip(0..) {
            install(&mut rig, case, backend);
            let sent = cut(&case.open(other, case.node(UPLINK, 9)), id + 100 * n);
            let run = |packet: &Packet| case.enter(&mut rig, POD_2, packet);
            in_order(order, &sent, &tap, run, Step::passed);
            for (src, dst) in [(other, case.pod(1, 10, 9)), (case.pod(1, 10, 9), other)] {
                let sent = cut(&case.open(src, dst), id + 100 * n);
                let run = |packet: &Packet| case.leave(&mut rig, POD_2, packet);
                in_order(order, &sent, &tap, run, Step::passed);
            }
        }
    }
}

#[test]
fn a_later_fragment_without_a_first_waits_at_a_service_and_passes_elsewhere() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(300..) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        let [_, second, third] = cut(&case.open(client, vip), id);
        for fragment in [&second, &third, &second] {
            case.enter(&mut rig, POD_2, fragment).dropped(Verdict::HeldFragment);
        }
        assert_eq!(rig.waiting(), 3);
        let stranger = case.outside(7, 9);
        for fragment in &cut(&case.open(client, stranger), id)[1..] {
            case.enter(&mut rig, POD_2, fragment).passed();
            case.leave(&mut rig, POD_2, fragment).passed();
        }
        for fragment in &cut(&case.open(client, backend), id)[1..] {
            case.enter(&mut rig, POD_2, fragment).passed();
        }
        // Another datagram's first says nothing about this one.
        let [first, _, _] = cut(&case.open(client, vip), id + 1000);
        case.enter(&mut rig, POD_2, &first).forwarded_to(backend);
        assert_eq!(rig.waiting(), 3);
        case.enter(&mut rig, POD_2, &second).dropped(Verdict::HeldFragment);
    }
}

/// An identification is used again after a while.
#[test]
fn fragments_of_an_earlier_datagram_are_not_those_of_this_one() {
    let Some(mut rig) = Rig::take() else { return };
    let tap = Tap::open(POD_2);
    for (case, id) in cut_cases().zip(500..) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        let earlier = cut(&case.open(client, vip), id).map(|packet| Packet { ttl: 9, ..packet });
        let [first, second, third] = cut(&case.open(client, vip), id);
        case.enter(&mut rig, POD_2, &earlier[1]).dropped(Verdict::HeldFragment);
        case.enter(&mut rig, POD_2, &earlier[2]).dropped(Verdict::HeldFragment);
        rig.age_datagrams();
        let step = case.enter(&mut rig, POD_2, &third);
        step.dropped(Verdict::HeldFragment);
        case.enter(&mut rig, POD_2, &first).forwarded_to(backend);
        let bytes = step.packet.bytes();
        assert!(tap.next(&bytes[..12]) == bytes, "this one's comes first");
        assert_eq!(rig.waiting(), 0);
        case.enter(&mut rig, POD_2, &second).forwarded_to(backend);
        // Nor does it go where that one went.
        rig.age_datagrams();
        case.enter(&mut rig, POD_2, &second).dropped(Verdict::HeldFragment);
    }
}

#[test]
fn fragments_of_a_datagram_that_is_not_let_in_are_dropped() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(600..) {
        rig.reset();
        rig.install(&case.web(&[]));
        let client = case.outside(7, 4000);
        for front in [case.vip(1, 80), case.node(UPLINK, 30_080)] {
            let [first, second, third] = cut(&case.open(client, front), id);
            case.enter(&mut rig, UPLINK, &third).dropped(Verdict::HeldFragment);
            rig.keep_waiting();
            let step = case.enter(&mut rig, UPLINK, &first);
            assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
            assert_eq!((rig.waiting(), rig.lost()), (0, 0), "its first has come");
            rig.keep_waiting();
            case.enter(&mut rig, UPLINK, &second).dropped(Verdict::DroppedFragment);
        }
    }
}

/// Fragments enter by two ways; each goes on by its own.
#[test]
fn a_fragment_goes_on_where_it_was_met() {
    let Some(mut rig) = Rig::take() else { return };
    let tap = Tap::open(UPLINK_2);
    for (case, id) in cut_cases().zip(700..) {
        let backend = case.pod(1, 10, 8080);
        install(&mut rig, case, backend);
        let [first, second, _] = cut(&case.open(case.outside(7, 4000), case.vip(1, 80)), id);
        let step = case.enter(&mut rig, UPLINK_2, &second);
        step.dropped(Verdict::HeldFragment);
        case.enter(&mut rig, UPLINK, &first).forwarded_to(backend);
        let bytes = step.packet.bytes();
        assert!(tap.next(&bytes[..12]) == bytes, "{}", step.describe());
    }
}

#[test]
fn sixty_four_of_a_datagram_wait() {
    let Some(mut rig) = Rig::take() else { return };
    let case = Case { v6: false, protocol: Protocol::Udp, l3: false };
    let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
    install(&mut rig, case, case.pod(1, 10, 8080));
    let [_, stray, _] = cut(&case.open(client, vip), 1);
    for _ in 0..64 {
        case.enter(&mut rig, POD_2, &stray).dropped(Verdict::HeldFragment);
        rig.keep_waiting();
    }
    case.enter(&mut rig, POD_2, &stray).dropped(Verdict::DroppedFragment);
    assert_eq!((rig.waiting(), rig.lost()), (64, 0));
}

/// Nobody gives way to another before its time.
#[test]
fn a_full_table_evicts_nobody() {
    let Some(mut rig) = Rig::take() else { return };
    let tap = Tap::open(POD_2);
    for case in cut_cases() {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        let [first, second, third] = cut(&case.open(client, vip), 1);
        let mut held = Vec::new();
        for fragment in [&third, &second] {
            let step = case.enter(&mut rig, POD_2, fragment);
            step.dropped(Verdict::HeldFragment);
            held.push(step.packet.bytes());
        }
        rig.fill_waiting();
        assert_eq!(rig.waiting(), 512);
        for id in 2..20 {
            let [_, stray, _] = cut(&case.open(client, vip), id);
            case.enter(&mut rig, POD_2, &stray).dropped(Verdict::DroppedFragment);
        }
        // What is not a Service's goes the way of any fragment.
        let [_, other, _] = cut(&case.open(client, case.node(UPLINK, 9)), 20);
        case.enter(&mut rig, POD_2, &other).passed();
        case.enter(&mut rig, POD_2, &first).forwarded_to(backend);
        assert_eq!((rig.waiting(), rig.lost()), (510, 0));
        for frame in held {
            assert!(tap.next(&frame[..12]) == frame, "sent as it came");
        }
        rig.fill_waiting();
        // Those that waited in vain give way, and are counted.
        rig.age_datagrams();
        let [_, stray, _] = cut(&case.open(client, vip), 21);
        case.enter(&mut rig, POD_2, &stray).dropped(Verdict::HeldFragment);
        assert_eq!((rig.waiting(), rig.lost()), (512, 1));
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
