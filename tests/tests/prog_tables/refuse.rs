//! Packets that are refused, and the answers that say so.

use lb_common::limits::{QUOTE_MAX_V4, QUOTE_MAX_V6};
use lb_common::tcp::flag;
use lb_common::value::backend_state;
use lb_common::{Traffic, Verdict};
use lb_tests::packet::{Layer4, Macs, Packet, Parsed, Transport, checksum_fault, parse};
use lb_tests::prog::net::{POD_2, Port, UPLINK};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec, Step, action};

fn without_backends(rig: &mut Rig, case: Case) -> Installed {
    rig.reset();
    rig.install(&case.web(&[]))
}

/// Asserts that the packet became an answer that goes back where the packet
/// came from, and returns it.
#[track_caller]
fn answer(step: &Step, verdict: Verdict) -> Parsed {
    assert_eq!(step.outcome.verdict, verdict, "{}", step.describe());
    assert_eq!(step.outcome.action, action::TC_REDIRECT, "{}", step.describe());
    let ethernet = step.prog.is_ethernet();
    assert_eq!(checksum_fault(&step.outcome.frame, ethernet), None, "{}", step.describe());
    let Some(answer) = parse(&step.outcome.frame, ethernet) else {
        panic!("unreadable: {}", step.describe());
    };
    assert_eq!(answer.macs, step.packet.macs.map(Macs::reversed), "{}", step.describe());
    assert!(answer.ttl >= 32, "{}", step.describe());
    assert_eq!(answer.dst.ip(), step.packet.src.ip(), "{}", step.describe());
    assert_eq!(answer.src.ip(), step.packet.dst.ip(), "{}", step.describe());
    answer
}

/// A TCP reset with these fields, or a port unreachable that quotes the packet.
#[track_caller]
pub(crate) fn refused(step: &Step, verdict: Verdict) {
    let answer = answer(step, verdict);
    let packet = &step.packet;
    let link = if step.prog.is_ethernet() { 14 } else { 0 };
    let ip_header = if packet.src.is_ipv4() { 20 } else { 40 };
    match &packet.transport {
        Transport::Tcp { flags, seq, ack, .. } => {
            // RFC 9293 section 3.10.7.1.
            let len = u32::try_from(packet.payload.len()).expect("a packet")
                + u32::from(flags & flag::SYN != 0)
                + u32::from(flags & flag::FIN != 0);
            let expected = if flags & flag::ACK == 0 {
                Layer4::Tcp { flags: flag::RST | flag::ACK, seq: 0, ack: seq.wrapping_add(len) }
            } else {
                Layer4::Tcp { flags: flag::RST, seq: *ack, ack: 0 }
            };
            assert_eq!(answer.layer4, expected, "{}", step.describe());
            assert_eq!(answer.src, packet.dst, "{}", step.describe());
            assert_eq!(answer.dst, packet.src, "{}", step.describe());
            let total = link + ip_header + 20;
            assert_eq!(step.outcome.frame.len(), total, "{}", step.describe());
        }
        Transport::Udp { .. }
        | Transport::Sctp { .. }
        | Transport::Icmp { .. }
        | Transport::Other { .. } => {
            let (kind, code, most) =
                if packet.src.is_ipv4() { (3, 3, QUOTE_MAX_V4) } else { (1, 4, QUOTE_MAX_V6) };
            let bytes = packet.bytes();
            let original = &bytes[link..bytes.len() - packet.padding];
            let quote = original[..original.len().min(most as usize)].to_vec();
            let total = link + ip_header + 8 + quote.len();
            assert_eq!(answer.layer4, Layer4::Icmp { kind, code, quote }, "{}", step.describe());
            assert_eq!(step.outcome.frame.len(), total, "{}", step.describe());
        }
    }
}

#[test]
fn a_service_without_backends_refuses() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let rows = without_backends(&mut rig, case);
        let from_pod = (case.pod(1, 20, 4000), case.vip(1, 80), POD_2);
        let from_outside = (case.outside(7, 4000), case.node(UPLINK, 30_080), UPLINK);
        for (client, front, by) in [from_pod, from_outside] {
            let step = case.enter(&mut rig, by, &case.open(client, front));
            refused(&step, Verdict::RefusedNoBackend);
            let step = case.enter(&mut rig, by, &case.data(client, front));
            refused(&step, Verdict::RefusedNoBackend);
        }
        let counted = Traffic { refused: 4, ..Traffic::default() };
        assert_eq!(rig.service_traffic(rows.id), counted, "{case:?}");
    }
}

#[test]
fn a_backend_that_may_not_take_anything_new_is_none() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for state in [backend_state::TERMINATING, backend_state::REMOVED, backend_state::FREE] {
            let rows = rig.install(&ServiceSpec {
                proto: case.proto(),
                cluster: vec![case.vip(1, 80)],
                backends: vec![case.pod(1, 10, 8080)],
                ..ServiceSpec::default()
            });
            rig.set_backend_state(rows.backends[0], state);
            let packet = case.open(case.pod(1, 20, 4000), case.vip(1, 80));
            refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedNoBackend);
        }
    }
}

#[test]
fn an_unknown_port_of_a_cluster_ip_refuses_and_one_of_a_node_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let other = case.other_protocol();
        without_backends(&mut rig, case);
        let client = case.pod(1, 20, 4000);
        for port in [1, 79, 81, 30_080, 40_500, 65_535] {
            let step = case.enter(&mut rig, POD_2, &case.open(client, case.vip(1, port)));
            refused(&step, Verdict::RefusedUnknownPort);
            let step = case.enter(&mut rig, POD_2, &case.data(client, case.vip(1, port)));
            refused(&step, Verdict::RefusedUnknownPort);
        }
        let step = other.enter(&mut rig, POD_2, &other.open(client, case.vip(1, 80)));
        refused(&step, Verdict::RefusedUnknownPort);
        for port in [1, 80, 30_079, 30_081, 40_500, 65_535] {
            let packet = case.open(client, case.node(UPLINK, port));
            case.enter(&mut rig, POD_2, &packet).passed();
        }
        other.enter(&mut rig, POD_2, &other.open(client, case.node(UPLINK, 30_080))).passed();
    }
}

#[test]
fn segments_of_every_kind_are_answered_as_the_standard_says() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.is_tcp()) {
        without_backends(&mut rig, case);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        for flags in [
            flag::SYN,
            flag::SYN | 0xc0,
            flag::SYN | flag::ACK,
            flag::ACK,
            flag::FIN | flag::ACK,
            flag::FIN,
            0,
        ] {
            for payload in [&b""[..], b"x", b"a request"] {
                for (seq, ack) in [(0, 0), (1, u32::MAX), (u32::MAX, 7), (0x8000_0000, 1)] {
                    let packet = Packet::tcp(client, vip, flags).payload(payload).numbers(seq, ack);
                    let packet = Packet { ttl: 1, ..packet };
                    refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedNoBackend);
                }
            }
        }
    }
}

#[test]
fn options_and_long_packets_are_answered_too() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        without_backends(&mut rig, case);
        let plain = case.open(case.pod(1, 20, 4000), case.vip(1, 80));
        let mut packets: Vec<Packet> = [0, 1, 500, 520, 521, 540, 1183, 1184, 1185, 1400]
            .into_iter()
            .map(|len| plain.clone().payload(&vec![0xa5; len]))
            .collect();
        packets.push(Packet { padding: 20, ..plain.clone() });
        if case.v6 {
            let extensions =
                vec![lb_tests::packet::Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] }];
            packets.push(Packet { extensions, ..plain.clone() });
        } else {
            packets.push(Packet { ip_options: vec![1; 40], ..plain.clone() });
        }
        if let Transport::Tcp { flags, seq, ack, .. } = plain.transport {
            let options = vec![1; 40];
            packets
                .push(Packet { transport: Transport::Tcp { flags, seq, ack, options }, ..plain });
        }
        for packet in packets {
            refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedNoBackend);
        }
    }
}

#[test]
fn a_reset_is_never_answered() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.is_tcp()) {
        without_backends(&mut rig, case);
        let client = case.pod(1, 20, 4000);
        for port in [80, 81] {
            for flags in [flag::RST, flag::RST | flag::ACK, flag::RST | flag::SYN] {
                let packet = Packet::tcp(client, case.vip(1, port), flags);
                let step = case.enter(&mut rig, POD_2, &packet);
                assert!(step.outcome.is_drop(step.prog), "{}", step.describe());
            }
        }
        // Nor does one make a flow where there are backends.
        rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(1, 80)],
            backends: vec![case.pod(1, 10, 8080)],
            ..ServiceSpec::default()
        });
        let packet = Packet::tcp(client, case.vip(1, 80), flag::RST);
        let step = case.enter(&mut rig, POD_2, &packet);
        assert!(step.outcome.is_drop(step.prog), "{}", step.describe());
    }
}

#[test]
fn a_source_that_is_no_single_host_gets_no_answer() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        without_backends(&mut rig, case);
        let sources: &[&str] =
            if case.v6 { &["::", "ff02::1"] } else { &["0.0.0.0", "224.0.0.1", "255.255.255.255"] };
        for source in sources {
            let source = std::net::SocketAddr::new(source.parse().expect("an address"), 4000);
            let step = case.enter(&mut rig, POD_2, &case.open(source, case.vip(1, 80)));
            assert!(step.outcome.is_drop(step.prog), "{}", step.describe());
        }
    }
}

#[test]
fn a_flood_is_not_answered_with_a_flood() {
    const FLOOD: usize = 3000;
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        without_backends(&mut rig, case);
        let begin = std::time::Instant::now();
        let mut answered = 0;
        for _ in 0..FLOOD {
            let packet = case.open(case.pod(1, 20, 4000), case.vip(1, 80));
            let step = case.enter(&mut rig, POD_2, &packet);
            assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
            if step.outcome.action == action::TC_REDIRECT {
                answered += 1;
            } else {
                assert!(step.outcome.is_drop(step.prog), "{}", step.describe());
            }
        }
        // A thousand at once, and one more each millisecond, by a clock whose
        // steps are as long as ten.
        let most = 1010 + usize::try_from(begin.elapsed().as_millis()).expect("not so long");
        assert!((1000..=most.min(FLOOD)).contains(&answered), "{case:?}: {answered} of {most}");
    }
}

/// The answer goes out by the interface that the packet came in on, whatever
/// that is for.
#[test]
fn every_kind_of_interface_answers() {
    let Some(mut rig) = Rig::take() else { return };
    let ports: [Port; 5] = lb_tests::prog::net::PORTS;
    for case in Case::all() {
        without_backends(&mut rig, case);
        for by in ports {
            let packet = case.open(case.outside(7, 4000), case.vip(1, 80));
            refused(&case.enter(&mut rig, by, &packet), Verdict::RefusedNoBackend);
        }
    }
}
