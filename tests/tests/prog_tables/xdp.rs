//! XDP on uplinks: flows that enter and leave by uplinks are finished at once,
//! all else goes to the stack as it came, where TC finishes it.

use lb_common::flow::flag::RESTORE;
use lb_common::tcp::flag;
use lb_common::tcp::state::ASSURED;
use lb_common::value::backend_state;
use lb_common::{BePort, Flow, Interface, Traffic, V4, V6, Verdict};
use lb_tests::packet::{Extension, Fragment, Packet, Transport, parse};
use lb_tests::prog::net::{NODE_2_MAC, NODE_3_MAC, POD, TUNNEL, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Family, Installed, Prog, Rig, SNAT_PORTS, ServiceSpec, Step, action};
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

fn node_port(rig: &mut Rig, case: Case, backends: &[SocketAddr]) -> Installed {
    rig.reset();
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, 30_080), case.node(UPLINK_2, 30_080)],
        backends: backends.to_vec(),
        ..ServiceSpec::default()
    })
}

fn client(case: Case) -> SocketAddr {
    case.outside(7, 4000)
}

fn front(case: Case) -> SocketAddr {
    case.node(UPLINK, 30_080)
}

/// Beyond the uplink that clients come in by.
fn same_way(case: Case) -> SocketAddr {
    case.pod(2, 10, 8080)
}

/// Beyond the other uplink.
fn other_way(case: Case) -> SocketAddr {
    case.pod(3, 10, 8080)
}

/// Asserts that the packet went to `backend` beyond the uplink that clients
/// come in by, and returns the source it was given.
#[track_caller]
fn turned(step: &Step, case: Case, backend: SocketAddr) -> SocketAddr {
    let Some(out) = parse(&step.outcome.frame, true) else {
        panic!("unreadable: {}", step.describe())
    };
    assert_eq!(out.src.ip(), case.node(UPLINK, 0).ip(), "{}", step.describe());
    assert!(SNAT_PORTS.contains(&out.src.port()), "{}", step.describe());
    let macs = UPLINK.leaving_to(NODE_2_MAC);
    step.sent(Verdict::Forwarded, action::XDP_TX, macs, out.src, backend);
    out.src
}

#[track_caller]
fn turned_back(step: &Step, case: Case) {
    let (verdict, macs) = (Verdict::Returned, UPLINK.leaving());
    step.sent(verdict, action::XDP_TX, macs, front(case), client(case));
}

#[test]
fn a_flow_in_and_out_by_the_same_uplink_is_turned_around() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = same_way(case);
        let rows = node_port(&mut rig, case, &[backend]);
        let mut expected = Traffic { connections: 1, ..Traffic::default() };
        let mut source = None;
        for n in 0..4 {
            let packet = if n == 0 {
                case.open(client(case), front(case))
            } else {
                case.data(client(case), front(case))
            };
            let given = turned(&case.xdp(&mut rig, UPLINK, &packet), case, backend);
            assert_eq!(*source.get_or_insert(given), given, "a flow keeps its port");
            expected.packets_in += 1;
            expected.bytes_in += packet.bytes().len() as u64;
            let reply = case.data(backend, given);
            turned_back(&case.xdp(&mut rig, UPLINK, &reply), case);
            expected.packets_out += 1;
            expected.bytes_out += reply.bytes().len() as u64;
        }
        assert_eq!(rig.service_traffic(rows.id), expected, "{case:?}");
        assert_eq!(rig.backend_traffic(rows.backends[0]), expected, "{case:?}");
    }
}

#[test]
fn a_flow_that_goes_on_by_another_uplink_is_redirected_both_ways() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = other_way(case);
        node_port(&mut rig, case, &[backend]);
        for packet in [case.open(client(case), front(case)), case.data(client(case), front(case))] {
            let step = case.xdp(&mut rig, UPLINK, &packet);
            let source = parse(&step.outcome.frame, true).expect("readable").src;
            assert_eq!(source.ip(), case.node(UPLINK_2, 0).ip(), "{}", step.describe());
            let macs = UPLINK_2.leaving_to(NODE_3_MAC);
            step.sent(Verdict::Forwarded, action::XDP_REDIRECT, macs, source, backend);
            let step = case.xdp(&mut rig, UPLINK_2, &case.accept(backend, source));
            let macs = UPLINK.leaving();
            let (verdict, redirect) = (Verdict::Returned, action::XDP_REDIRECT);
            step.sent(verdict, redirect, macs, front(case), client(case));
        }
    }
}

#[test]
fn an_uplink_without_the_program_takes_no_redirected_frames() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        node_port(&mut rig, case, &[other_way(case)]);
        rig.set_interface(UPLINK_2.index, Interface { xdp: 0, ..UPLINK_2.row() });
        let packet = case.open(client(case), front(case));
        finished_by_tc(&mut rig, case, &packet, other_way(case));
    }
}

/// XDP hands the packet over, and TC forwards it.
#[track_caller]
fn finished_by_tc(rig: &mut Rig, case: Case, packet: &Packet, backend: SocketAddr) {
    case.xdp(rig, UPLINK, packet).unchanged(Verdict::HandedOver);
    case.enter(rig, UPLINK, packet).forwarded_to(backend);
}

#[test]
fn what_xdp_cannot_finish_tc_finishes_and_counts_once() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let local = case.pod(1, 10, 8080);
        let no_neighbour = case.pod(4, 10, 8080);
        let tunnel = case.pod(5, 10, 8080);
        for (backend, by) in [(local, POD), (no_neighbour, UPLINK), (tunnel, TUNNEL)] {
            let rows = node_port(&mut rig, case, &[backend]);
            let mut expected = Traffic { connections: 1, ..Traffic::default() };
            for packet in
                [case.open(client(case), front(case)), case.data(client(case), front(case))]
            {
                finished_by_tc(&mut rig, case, &packet, backend);
                expected.packets_in += 1;
                expected.bytes_in += packet.bytes().len() as u64;
                let onward = packet.to(backend);
                let step = case.leave(&mut rig, by, &onward);
                if by == POD {
                    step.passed();
                    continue;
                }
                let (source, _) = step.tuple(Verdict::SourceTranslated);
                assert_eq!(source.ip(), case.node(by, 0).ip(), "{}", step.describe());
            }
            assert_eq!(rig.service_traffic(rows.id), expected, "{case:?}");
        }
    }
}

#[test]
fn refusals_are_left_to_tc() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let rows = node_port(&mut rig, case, &[]);
        for to in [front(case), case.vip(1, 80), case.vip(1, 81)] {
            let packet = case.open(client(case), to);
            case.xdp(&mut rig, UPLINK, &packet).unchanged(Verdict::HandedOver);
        }
        assert_eq!(rig.service_traffic(rows.id), Traffic::default(), "{case:?}");
    }
}

#[test]
fn a_reset_without_a_flow_ends_here() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet().filter(|case| case.connects()) {
        node_port(&mut rig, case, &[same_way(case)]);
        let packet = case.segment(client(case), front(case), flag::RST);
        let step = case.xdp(&mut rig, UPLINK, &packet);
        let handed_over = step.outcome.verdict == Verdict::HandedOver;
        assert!(handed_over || step.outcome.is_drop(Prog::Xdp), "{}", step.describe());
    }
}

#[test]
fn packets_that_the_stack_must_see_to_are_handed_over() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = same_way(case);
        node_port(&mut rig, case, &[backend]);
        turned(&case.xdp(&mut rig, UPLINK, &case.open(client(case), front(case))), case, backend);
        let plain = || case.data(client(case), front(case));
        let fragment = |offset| Fragment { offset, len: 24, id: 3 };
        let mut packets = vec![
            // The hop limit ends here: the stack says so to the sender.
            Packet { ttl: 1, ..plain() },
            Packet { ttl: 0, ..plain() },
            // Bigger than the next link takes.
            plain().payload(&[1; 1500]),
            Packet { fragment: Some(fragment(0)), ..plain() },
        ];
        if case.v6 {
            let options = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
            packets.push(Packet { extensions: vec![options], ..plain() });
        }
        for packet in packets {
            case.xdp(&mut rig, UPLINK, &packet).unchanged(Verdict::HandedOver);
        }
        // A later fragment has no ports: to XDP it is nobody's.
        let later = Packet { fragment: Some(fragment(24)), ..plain() };
        case.xdp(&mut rig, UPLINK, &later).passed();
    }
}

#[test]
fn what_surrounds_addresses_and_ports_stays_as_it_is() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = same_way(case);
        node_port(&mut rig, case, &[backend]);
        let open = case.open(client(case), front(case));
        turned(&case.xdp(&mut rig, UPLINK, &open), case, backend);
        let plain = || case.data(client(case), front(case));
        let mut packets = vec![
            plain().payload(b""),
            plain().payload(b"x"),
            plain().payload(&[0xff; 1400]),
            Packet { ttl: 2, ..plain() },
            Packet { ttl: 255, ..plain() },
            Packet { traffic_class: 0xb9, ..plain() },
            Packet { padding: 11, ..plain() },
        ];
        if !case.v6 {
            packets.push(Packet { ip_options: vec![1; 40], ..plain() });
        }
        if let Transport::Tcp { flags, seq, ack, .. } = plain().transport {
            let options = vec![1; 40];
            packets
                .push(Packet { transport: Transport::Tcp { flags, seq, ack, options }, ..plain() });
        } else if case.protocol == Protocol::Udp && !case.v6 {
            packets.push(Packet { transport: Transport::Udp { checksum: false }, ..plain() });
        }
        for packet in packets {
            let source = turned(&case.xdp(&mut rig, UPLINK, &packet), case, backend);
            let reply = packet.from(backend).to(source);
            turned_back(&case.xdp(&mut rig, UPLINK, &reply), case);
        }
    }
}

/// A virtual link leaves the checksum to a device that is not there: only the
/// stack knows.
#[test]
fn a_partial_checksum_is_handed_over() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet().filter(|case| case.protocol != Protocol::Sctp) {
        node_port(&mut rig, case, &[same_way(case)]);
        let packet = case.open(client(case), front(case)).macs(UPLINK.entering());
        let mut frame = packet.bytes();
        let transport = if case.v6 { 54 } else { 34 };
        let at = transport + if case.is_tcp() { 16 } else { 6 };
        frame[at..at + 2].copy_from_slice(&[0, 0]);
        let src_dst = if case.v6 { &frame[22..54] } else { &frame[26..34] };
        let len = u16::try_from(frame.len() - transport).expect("a packet").to_be_bytes();
        let sum = !lb_tests::packet::rfc1071(&[src_dst, &[0, case.proto()], &len]);
        frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        let outcome = rig.run(Prog::Xdp, UPLINK.index, &frame);
        assert_eq!(outcome.verdict, Verdict::HandedOver, "{case:?}");
        assert_eq!((outcome.action, outcome.frame), (action::XDP_PASS, frame), "{case:?}");
    }
}

/// What the IP header announces and the frame does not hold, no router sends on.
#[test]
fn a_truncated_packet_is_not_sent_on() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        node_port(&mut rig, case, &[same_way(case)]);
        let packet = case.data(client(case), front(case)).macs(UPLINK.entering());
        let frame = packet.bytes();
        let outcome = rig.run(Prog::Xdp, UPLINK.index, &frame[..frame.len() - 1]);
        assert_eq!(outcome.action, action::XDP_PASS, "{case:?}");
        assert_eq!(outcome.frame, &frame[..frame.len() - 1], "{case:?}");
    }
}

#[test]
fn a_flow_that_tc_began_is_finished_by_xdp_with_the_same_port_and_the_other_way_round() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = same_way(case);
        let (open, data) =
            (case.open(client(case), front(case)), case.data(client(case), front(case)));
        node_port(&mut rig, case, &[backend]);
        case.enter(&mut rig, UPLINK, &open).forwarded_to(backend);
        let (source, _) = case
            .leave(&mut rig, UPLINK, &open.clone().to(backend))
            .tuple(Verdict::SourceTranslated);
        assert_eq!(turned(&case.xdp(&mut rig, UPLINK, &data), case, backend), source);
        turned_back(&case.xdp(&mut rig, UPLINK, &case.data(backend, source)), case);

        node_port(&mut rig, case, &[backend]);
        let source = turned(&case.xdp(&mut rig, UPLINK, &open), case, backend);
        case.enter(&mut rig, UPLINK, &data).forwarded_to(backend);
        case.leave(&mut rig, UPLINK, &data.clone().to(backend)).became(
            Verdict::SourceTranslated,
            source,
            backend,
        );
        case.enter(&mut rig, UPLINK, &case.data(backend, source)).became(
            Verdict::SourceRestored,
            backend,
            client(case),
        );
        case.leave(&mut rig, UPLINK, &case.data(backend, client(case))).returned_from(front(case));
    }
}

#[test]
fn connections_stay_with_a_backend_that_leaves_and_datagrams_go() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backends = [same_way(case), case.pod(2, 11, 8080)];
        let rows = node_port(&mut rig, case, &backends);
        let open = case.open(client(case), front(case));
        let step = case.xdp(&mut rig, UPLINK, &open);
        let first = parse(&step.outcome.frame, true).expect("readable").dst;
        turned(&step, case, first);
        let at = backends.iter().position(|b| *b == first).expect("a backend");
        rig.set_endpoints(rows.id, &[rows.backends[1 - at]]);
        rig.set_backend_state(rows.backends[at], backend_state::TERMINATING);
        let data = case.data(client(case), front(case));
        turned(&case.xdp(&mut rig, UPLINK, &data), case, first);
        rig.set_backend_state(rows.backends[at], backend_state::REMOVED);
        let stays = if case.connects() { first } else { backends[1 - at] };
        turned(&case.xdp(&mut rig, UPLINK, &data), case, stays);
    }
}

#[test]
fn a_connection_that_xdp_saw_closing_is_closed() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet().filter(|case| case.connects()) {
        let backends = [same_way(case), case.pod(2, 11, 8080)];
        node_port(&mut rig, case, &backends);
        let open = case.open(client(case), front(case));
        let step = case.xdp(&mut rig, UPLINK, &open);
        let first = parse(&step.outcome.frame, true).expect("readable").dst;
        let source = turned(&step, case, first);
        let fin = flag::FIN | flag::ACK;
        let step = case.xdp(&mut rig, UPLINK, &case.segment(client(case), front(case), fin));
        turned(&step, case, first);
        turned(&case.xdp(&mut rig, UPLINK, &open), case, first);
        turned_back(&case.xdp(&mut rig, UPLINK, &case.segment(first, source, fin)), case);
        let step = case.xdp(&mut rig, UPLINK, &open);
        let second = parse(&step.outcome.frame, true).expect("readable").dst;
        turned(&step, case, second);
        assert_ne!(first, second, "{case:?}: a new decision");
    }
}

#[test]
fn when_every_port_is_taken_the_frame_is_dropped_and_ports_of_closed_flows_serve_again() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::ethernet() {
        let service = node_port(&mut rig, case, &[same_way(case)]).id;
        let before = rig.no_port(service);
        let open = |rig: &mut Rig, n| {
            case.xdp(rig, UPLINK, &case.open(case.outside(n, 4000), front(case)))
        };
        // A flood takes every port and keeps none; the last of it go on.
        for n in 1..=40 {
            assert_eq!(open(&mut rig, n).outcome.verdict, Verdict::Forwarded, "{case:?}");
        }
        let mut served = Vec::new();
        for n in 41..=48 {
            let step = open(&mut rig, n);
            if step.outcome.verdict != Verdict::Forwarded {
                step.dropped(Verdict::DroppedNoPort);
                continue;
            }
            served.push(n);
            let source = parse(&step.outcome.frame, true).expect("readable").src;
            let answer = case.accept(same_way(case), source);
            case.xdp(&mut rig, UPLINK, &answer);
            rig.silence(case.outside(n, 0).ip(), 2);
            let data = case.data(case.outside(n, 4000), front(case));
            assert_eq!(case.xdp(&mut rig, UPLINK, &data).outcome.verdict, Verdict::Forwarded);
        }
        assert_eq!(served, [41, 42, 43, 44], "{case:?}");
        assert_eq!(rig.no_port(service) - before, 4, "{case:?}");
        if case.connects() {
            for n in served {
                let reset = case.segment(case.outside(n, 4000), front(case), flag::RST);
                case.xdp(&mut rig, UPLINK, &reset);
            }
        } else {
            rig.age_flows();
        }
        for n in [49, 50, 51] {
            let step = open(&mut rig, n);
            assert_eq!(step.outcome.verdict, Verdict::Forwarded, "{}", step.describe());
        }
    }
}

/// Its next datagram gets another, and shows that the client is there.
#[test]
fn a_flow_that_lost_its_port_proves_itself_by_lasting() {
    fn lose_port<A: Family>(rig: &mut Rig) {
        rig.lose_flows::<A>(|_, flow| flow.flags & RESTORE != 0);
        for (key, flow) in rig.flows::<A>() {
            rig.put_flow(key, Flow { snat_port: BePort::NONE, ..flow });
        }
    }
    fn states<A: Family>(rig: &Rig) -> Vec<u8> {
        rig.flows::<A>().into_iter().map(|(_, flow)| flow.tcp & ASSURED).collect()
    }
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet().filter(|case| !case.connects()) {
        node_port(&mut rig, case, &[same_way(case)]);
        let data = case.data(client(case), front(case));
        turned(&case.xdp(&mut rig, UPLINK, &data), case, same_way(case));
        rig.silence(client(case).ip(), 2);
        lose_port::<V4>(&mut rig);
        lose_port::<V6>(&mut rig);
        turned(&case.xdp(&mut rig, UPLINK, &data), case, same_way(case));
        let found = if case.v6 { states::<V6>(&rig) } else { states::<V4>(&rig) };
        // The row under the restore key is of the flow as it was before.
        assert!(found.iter().filter(|state| **state != 0).count() >= 2, "{case:?}: {found:?}");
    }
}

/// A pod's own packets and replies to it come by here when pods are routed.
#[test]
fn what_pods_and_strangers_send_through_the_uplink_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let backend = same_way(case);
        node_port(&mut rig, case, &[backend]);
        // The reply to a pod of this node, from a remote backend.
        case.xdp(&mut rig, UPLINK, &case.accept(backend, case.pod(1, 20, 4000))).passed();
        // Nobody's port of the translation range.
        let packet = case.accept(backend, case.node(UPLINK, *SNAT_PORTS.start()));
        case.xdp(&mut rig, UPLINK, &packet).unchanged(Verdict::HandedOver);
        case.enter(&mut rig, UPLINK, &packet).passed();
    }
}
