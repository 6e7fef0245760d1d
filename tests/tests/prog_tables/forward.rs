//! A pod's packets to a Service and the replies to them.

use lb_common::{Traffic, Verdict};
use lb_tests::packet::{Extension, Packet, Transport};
use lb_tests::prog::context::{Context, Gso};
use lb_tests::prog::net::{POD, POD_2};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

fn install(rig: &mut Rig, case: Case, backends: &[SocketAddr]) -> Installed {
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        backends: backends.to_vec(),
        ..ServiceSpec::default()
    })
}

#[test]
fn a_pod_reaches_a_pod_through_a_service_and_the_replies_come_from_the_service() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, &[backend]);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        // At the backend's edge the client's address stays, both ways.
        case.leave(&mut rig, POD, &case.open(client, backend)).passed();
        case.enter(&mut rig, POD, &case.accept(backend, client)).passed();
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        for _ in 0..3 {
            case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
            case.leave(&mut rig, POD, &case.data(client, backend)).passed();
            case.enter(&mut rig, POD, &case.data(backend, client)).passed();
            case.leave(&mut rig, POD_2, &case.data(backend, client)).returned_from(vip);
        }
    }
}

/// Everything that a packet may carry around the addresses and ports.
fn shapes(case: Case, packet: &Packet) -> Vec<Packet> {
    let plain = || packet.clone();
    let mut shapes = vec![
        plain(),
        plain().payload(b""),
        plain().payload(b"x"),
        plain().payload(&[0xff; 1400]),
        Packet { ttl: 1, ..plain() },
        Packet { traffic_class: 0xb9, ..plain() },
        Packet { padding: 7, ..plain() },
    ];
    if case.v6 {
        let hop_by_hop = Extension { number: 0, content: vec![1, 4, 0, 0, 0, 0] };
        let options = Extension { number: 60, content: [&[1, 12][..], &[0; 12]].concat() };
        let routing = Extension { number: 43, content: vec![0, 0, 0, 0, 0, 0] };
        shapes.push(Packet { extensions: vec![options.clone()], ..plain() });
        let all = vec![hop_by_hop, options.clone(), routing, options];
        shapes.push(Packet { extensions: all, ..plain() });
    } else {
        for words in [1, 4, 10] {
            shapes.push(Packet { ip_options: [1, 1, 1, 0].repeat(words), ..plain() });
        }
    }
    if case.is_tcp() {
        if let Transport::Tcp { flags, seq, ack, .. } = packet.transport {
            for words in [1, 5, 10] {
                let options = [1, 1, 1, 0].repeat(words);
                shapes.push(Packet {
                    transport: Transport::Tcp { flags, seq, ack, options },
                    ..plain()
                });
            }
        }
    } else if case.protocol == Protocol::Udp && !case.v6 {
        shapes.push(Packet { transport: Transport::Udp { checksum: false }, ..plain() });
    }
    shapes
}

#[test]
fn what_surrounds_addresses_and_ports_stays_as_it_is() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, &[backend]);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        for packet in shapes(case, &case.data(client, vip)) {
            case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
        }
        for packet in shapes(case, &case.data(backend, client)) {
            case.leave(&mut rig, POD_2, &packet).returned_from(vip);
        }
    }
}

#[test]
fn every_shape_can_open_a_flow() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, &[backend]);
        for packet in shapes(case, &case.open(client, vip)) {
            rig.clear_flows();
            case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
            case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        }
    }
}

/// RFC 768: a sum that comes out as zero is sent as all ones, since zero means
/// that there is none.
#[test]
fn a_datagram_whose_sum_becomes_zero_carries_all_ones() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| !case.connects()) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        install(&mut rig, case, &[backend]);
        let field = |packet: &Packet| {
            let bytes = packet.bytes();
            let at = if case.v6 { 46 } else { 26 };
            u16::from_be_bytes([bytes[at], bytes[at + 1]])
        };
        // One more in the payload is one less in the sum: reach it in a step.
        let sum = field(&Packet::udp(client, backend).payload(&[0, 0]));
        let zero = Packet::udp(client, vip).payload(&sum.to_be_bytes());
        assert_eq!(field(&zero.clone().to(backend)), 0xffff, "{case:?}");
        case.enter(&mut rig, POD_2, &zero).forwarded_to(backend);
        // And back: the field that comes in is all ones.
        let sum = field(&Packet::udp(backend, client).payload(&[0, 0]));
        let zero = Packet::udp(backend, client).payload(&sum.to_be_bytes());
        assert_eq!(field(&zero), 0xffff, "{case:?}");
        case.leave(&mut rig, POD_2, &zero).returned_from(vip);
    }
}

#[test]
fn both_directions_are_counted_for_service_and_backend() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        let rows = install(&mut rig, case, &[backend]);
        rig.clear_flows();
        let mut expected = Traffic { connections: 1, ..Traffic::default() };
        let length = |packet: &Packet| packet.bytes().len() as u64;
        for packet in [case.open(client, vip), case.data(client, vip), case.data(client, vip)] {
            case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
            expected.packets_in += 1;
            expected.bytes_in += length(&packet);
        }
        for packet in [case.accept(backend, client), case.data(backend, client)] {
            case.leave(&mut rig, POD_2, &packet).returned_from(vip);
            expected.packets_out += 1;
            expected.bytes_out += length(&packet);
        }
        // What the link adds behind the packet is not the packet's.
        let padded = Packet { padding: 9, ..case.data(client, vip) };
        case.enter(&mut rig, POD_2, &padded).forwarded_to(backend);
        expected.packets_in += 1;
        expected.bytes_in += length(&padded) - 9;
        assert_eq!(rig.service_traffic(rows.id), expected, "{case:?}");
        assert_eq!(rig.backend_traffic(rows.backends[0]), expected, "{case:?}");
        // What only goes by is not counted.
        case.leave(&mut rig, POD, &case.data(client, backend)).passed();
        case.enter(&mut rig, POD, &case.data(backend, client)).passed();
        assert_eq!(rig.service_traffic(rows.id), expected, "{case:?}");
    }
}

#[test]
fn a_packet_that_the_device_will_cut_counts_as_its_segments() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.is_tcp()) {
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        let rows = install(&mut rig, case, &[backend]);
        rig.clear_flows();
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        let before = rig.service_traffic(rows.id);
        let mut packet = case.data(client, vip).payload(&[7; 3000]);
        if !case.l3 {
            packet = packet.macs(POD_2.entering());
        }
        let frame = packet.bytes();
        let headers = frame.len() - 3000;
        let link = if case.l3 { 0 } else { 14 };
        let wire = u32::try_from(3 * headers + 3000).expect("a packet");
        let gso = Gso { segments: 3, size: 1000, wire_len: wire };
        let context = Context { gso, ..Context::default() };
        let outcome = rig.run_in(case.ingress(), POD_2.index, &frame, context);
        assert_eq!(outcome.verdict, Verdict::Forwarded, "{case:?}");
        assert_eq!(outcome.frame, packet.to(backend).bytes(), "{case:?}");
        let after = rig.service_traffic(rows.id);
        assert_eq!(after.packets_in - before.packets_in, 3, "{case:?}");
        let bytes = (frame.len() - link) as u64;
        assert_eq!(after.bytes_in - before.bytes_in, bytes, "{case:?}");
    }
}

#[test]
fn a_dual_stack_service_keeps_the_families_apart() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let other = Case { v6: !case.v6, ..case };
        let backends = [other.pod(1, 10, 8080), case.pod(1, 10, 8080), other.pod(1, 11, 8080)];
        rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(1, 80), other.vip(1, 80)],
            backends: backends.to_vec(),
            ..ServiceSpec::default()
        });
        for port in 4000..4006 {
            let client = case.pod(1, 20, port);
            case.enter(&mut rig, POD_2, &case.open(client, case.vip(1, 80)))
                .forwarded_to(backends[1]);
        }
        rig.clear_flows();
    }
}

#[test]
fn tcp_and_udp_on_the_same_port_are_two_services() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let other = case.other_protocol();
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 53));
        for (proto, backend) in [(case, case.pod(1, 10, 53)), (other, case.pod(1, 11, 5353))] {
            rig.install(&ServiceSpec {
                proto: proto.proto(),
                cluster: vec![vip],
                backends: vec![backend],
                ..ServiceSpec::default()
            });
        }
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(case.pod(1, 10, 53));
        other.enter(&mut rig, POD_2, &other.open(client, vip)).forwarded_to(case.pod(1, 11, 5353));
        let reply = other.accept(case.pod(1, 11, 5353), client);
        other.leave(&mut rig, POD_2, &reply).returned_from(vip);
        rig.clear_flows();
    }
}

#[test]
fn a_backend_on_the_dialled_port_and_one_at_the_edge_of_numbers_work() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for (client_port, backend_port) in [(1, 80), (65_535, 65_535), (80, 1), (8080, 8080)] {
            rig.clear_flows();
            let (client, vip) = (case.pod(1, 20, client_port), case.vip(1, 80));
            let backend = case.pod(1, 10, backend_port);
            install(&mut rig, case, &[backend]);
            case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
            case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        }
    }
}
