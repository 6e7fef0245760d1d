//! Pings, protocols that no Service has, and packets that would go round in
//! circles.

use lb_common::value::frontend_kind;
use lb_common::{Frontend, Verdict};
use lb_tests::packet::{Extension, Fragment, Packet};
use lb_tests::prog::net::{POD, POD_2, PORTS, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig, action};
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

use crate::refuse::refused;

/// Protocol numbers that are neither Services' nor ICMP: ESP, GRE, VRRP, IPIP,
/// UDP-Lite, no next header, reserved.
const OTHERS: [u8; 7] = [50, 47, 112, 4, 136, 59, 255];

/// A ClusterIP and an external address with one port each.
fn install(rig: &mut Rig, case: Case) {
    rig.reset();
    let row = rig.install(&case.web(&[case.pod(1, 10, 8080)]));
    let kind = frontend_kind::EXTERNAL_IP;
    let frontend = Frontend { service: row.id, kind, ..Frontend::default() };
    rig.add_frontend(external(case, 80), case.proto(), frontend);
}

fn external(case: Case, port: u16) -> SocketAddr {
    case.outside(80, port)
}

#[test]
fn a_ping_to_an_address_of_a_service_is_answered() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        for (client, by) in [(case.pod(1, 20, 0), POD_2), (case.outside(7, 0), UPLINK)] {
            for front in [case.vip(1, 0), external(case, 0)] {
                for len in [0, 1, 24, 1400] {
                    let ping = Packet::ping(client.ip(), front.ip()).payload(&vec![0xa5; len]);
                    // One that has come far, or was sent not to go far.
                    let ping = Packet { ttl: 1 + u8::try_from(len % 64).expect("small"), ..ping };
                    let step = case.enter(&mut rig, by, &ping);
                    assert_eq!(step.outcome.verdict, Verdict::EchoAnswered, "{}", step.describe());
                    assert_eq!(step.outcome.action, action::TC_REDIRECT, "{}", step.describe());
                    let same = step.outcome.frame == step.packet.pong().bytes();
                    assert!(same, "{}", step.describe());
                }
            }
        }
    }
}

#[test]
fn a_ping_to_anybody_else_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let client = case.pod(1, 20, 0).ip();
        for to in [case.vip(2, 0), case.node(UPLINK, 0), case.pod(1, 10, 0), case.outside(7, 0)] {
            for by in PORTS {
                let ping = Packet::ping(client, to.ip());
                case.enter(&mut rig, by, &ping).passed();
                case.leave(&mut rig, by, &ping).passed();
                if !case.l3 {
                    case.xdp(&mut rig, by, &ping).passed();
                }
            }
        }
    }
}

#[test]
fn xdp_leaves_what_has_no_ports_to_tc() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        install(&mut rig, case);
        let (client, vip) = (case.outside(7, 0).ip(), case.vip(1, 0).ip());
        case.xdp(&mut rig, UPLINK, &Packet::ping(client, vip)).passed();
        for number in OTHERS {
            case.xdp(&mut rig, UPLINK, &Packet::other(client, vip, number)).passed();
        }
    }
}

#[test]
fn a_flood_of_pings_is_not_answered_and_takes_no_refusals_away() {
    const FLOOD: usize = 3000;
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let ping = Packet::ping(case.pod(1, 20, 0).ip(), case.vip(1, 0).ip());
        let begin = std::time::Instant::now();
        let mut answered = 0;
        for _ in 0..FLOOD {
            let step = case.enter(&mut rig, POD_2, &ping);
            if step.outcome.verdict == Verdict::EchoAnswered {
                answered += 1;
            } else {
                step.dropped(Verdict::DroppedLimited);
            }
        }
        // A thousand at once, and one more each millisecond, by a clock whose
        // steps are as long as ten.
        let most = 1010 + usize::try_from(begin.elapsed().as_millis()).expect("not so long");
        assert!((1000..=most.min(FLOOD)).contains(&answered), "{case:?}: {answered} of {most}");
        let packet = case.open(case.pod(1, 20, 4000), case.vip(1, 81));
        let step = case.enter(&mut rig, POD_2, &packet);
        assert_eq!(step.outcome.action, action::TC_REDIRECT, "{}", step.describe());
    }
}

#[test]
fn a_ping_in_pieces_ends_here() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let ping = Packet::ping(case.pod(1, 20, 0).ip(), case.vip(1, 0).ip());
        let ping = ping.payload(&[0x5a; 100]);
        for offset in [0, 48, 96] {
            let fragment = Some(Fragment { offset, len: 48, id: 7 });
            let packet = Packet { fragment, ..ping.clone() };
            case.enter(&mut rig, POD_2, &packet).dropped(Verdict::DroppedFragment);
        }
    }
}

/// A ping that came by a route of its sender's choice is not answered, but not
/// sent on either.
#[test]
fn a_ping_with_options_is_refused() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let ping = Packet::ping(case.pod(1, 20, 0).ip(), case.vip(1, 0).ip());
        let packet = if case.v6 {
            let routing = Extension { number: 43, content: vec![4, 1, 0, 0, 0, 0] };
            Packet { extensions: vec![routing], ..ping }
        } else {
            Packet { ip_options: vec![1; 8], ..ping }
        };
        refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedUnknownPort);
    }
}

#[test]
fn a_ping_from_no_single_host_gets_no_answer() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        install(&mut rig, case);
        let sources: &[&str] =
            if case.v6 { &["::", "ff02::1"] } else { &["0.0.0.0", "224.0.0.1", "255.255.255.255"] };
        for source in sources {
            let source = source.parse().expect("an address");
            let step = case.enter(&mut rig, POD_2, &Packet::ping(source, case.vip(1, 0).ip()));
            assert!(step.outcome.is_drop(step.prog), "{}", step.describe());
        }
    }
}

#[test]
fn other_protocols_and_messages_to_a_cluster_ip_are_refused() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let (client, vip) = (case.pod(1, 20, 0).ip(), case.vip(1, 0).ip());
        for number in OTHERS {
            for payload in [&b""[..], b"x", &[0; 200]] {
                let packet = Packet::other(client, vip, number).payload(payload);
                refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedUnknownPort);
            }
            let fragment = Some(Fragment { offset: 8, len: 16, id: 7 });
            let packet = Packet { fragment, ..Packet::other(client, vip, number) };
            case.enter(&mut rig, POD_2, &packet).dropped(Verdict::DroppedFragment);
        }
        // Timestamp and node information requests, answers to pings.
        for kind in if case.v6 { [139, 129] } else { [13, 0] } {
            let packet = Packet::icmp(client, vip, kind, 0, [0; 4]).payload(&[0; 12]);
            refused(&case.enter(&mut rig, POD_2, &packet), Verdict::RefusedUnknownPort);
        }
    }
}

/// Headers that are cut off, or longer than we walk: nobody else can have a
/// ClusterIP, so they go no further.
#[test]
fn nothing_to_a_cluster_ip_goes_on_for_being_unreadable() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        install(&mut rig, case);
        let packet = case.data(case.pod(1, 20, 4000), case.vip(1, 80));
        let frame = packet.clone().macs(POD_2.entering()).bytes();
        let headers = 14 + if case.v6 { 40 } else { 20 };
        // A test run takes no less than an IP header.
        let least = match case.protocol {
            Protocol::Tcp => 20,
            Protocol::Udp => 8,
            // With the header of a chunk.
            Protocol::Sctp => 16,
        };
        for len in headers..headers + least {
            let outcome = rig.run(case.ingress(), POD_2.index, &frame[..len]);
            assert_eq!(outcome.verdict, Verdict::RefusedUnknownPort, "{case:?}, {len} bytes");
            let outcome = rig.run(case.egress(), UPLINK.index, &frame[..len]);
            assert_eq!(outcome.verdict, Verdict::DroppedLoop, "{case:?}, {len} bytes");
        }
        if case.v6 {
            let extension = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
            let packet = Packet { extensions: vec![extension; 7], ..packet };
            let step = case.enter(&mut rig, POD_2, &packet);
            assert_eq!(step.outcome.verdict, Verdict::RefusedUnknownPort, "{}", step.describe());
            assert_eq!(step.outcome.action, action::TC_REDIRECT, "{}", step.describe());
            case.leave(&mut rig, UPLINK, &packet).dropped(Verdict::DroppedLoop);
        }
    }
}

/// An external address may have another owner, with other ports.
#[test]
fn the_rest_of_an_external_address_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let client = case.pod(1, 20, 4000);
        case.enter(&mut rig, POD_2, &case.open(client, external(case, 80)))
            .forwarded_to(case.pod(1, 10, 8080));
        let to = external(case, 0).ip();
        let mut packets: Vec<Packet> =
            OTHERS.iter().map(|number| Packet::other(client.ip(), to, *number)).collect();
        packets.push(case.open(client, external(case, 81)));
        packets.push(case.data(client, external(case, 81)));
        let about = case.data(external(case, 81), client);
        let kind = if case.v6 { 2 } else { 3 };
        packets.push(Packet::icmp(client.ip(), to, kind, 0, [0; 4]).quoting(&about, 1000));
        for offset in [0, 24] {
            let fragment = Some(Fragment { offset, len: 24, id: 7 });
            packets.push(Packet { fragment, ..case.data(client, external(case, 81)) });
        }
        let fragment = Some(Fragment { offset: 8, len: 16, id: 7 });
        packets.push(Packet { fragment, ..Packet::ping(client.ip(), to) });
        for packet in packets {
            case.enter(&mut rig, POD_2, &packet).passed();
            case.leave(&mut rig, UPLINK, &packet).passed();
            // Unless it would leave the way it came.
            case.turn_back(&mut rig, UPLINK, &packet).dropped(Verdict::DroppedLoop);
        }
    }
}

/// From a process of this node, from an interface without programs, or
/// whatever else may have brought it here.
#[test]
fn nothing_leaves_for_a_cluster_ip() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let fragment = Some(Fragment { offset: 8, len: 16, id: 7 });
        for packet in [
            case.open(client, vip),
            case.data(client, vip),
            case.open(client, case.vip(1, 81)),
            Packet { fragment, ..case.data(client, vip) },
            Packet::ping(client.ip(), vip.ip()),
            Packet::other(client.ip(), vip.ip(), 132),
        ] {
            for by in [POD, UPLINK, UPLINK_2] {
                case.leave(&mut rig, by, &packet).dropped(Verdict::DroppedLoop);
                case.turn_back(&mut rig, by, &packet).dropped(Verdict::DroppedLoop);
            }
        }
    }
}

#[test]
fn what_turns_back_to_a_backend_a_node_or_a_stranger_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let client = case.outside(7, 4000);
        for to in [case.pod(1, 10, 8080), case.node(UPLINK, 80), case.vip(2, 80)] {
            case.turn_back(&mut rig, UPLINK, &case.open(client, to)).passed();
            let packet = Packet::other(client.ip(), to.ip(), 132);
            case.turn_back(&mut rig, UPLINK, &packet).passed();
        }
    }
}
