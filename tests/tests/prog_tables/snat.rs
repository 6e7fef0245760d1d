//! Source translation: where a reply would not come back through this node,
//! and only there.

use lb_common::tcp::flag;
use lb_common::{Interface, V4, V6, Verdict};
use lb_tests::packet::{Packet, parse};
use lb_tests::prog::net::{POD, POD_2, Port, TUNNEL, UPLINK, UPLINK_2};
use lb_tests::prog::{
    Case, Family, Installed, Prog, Rig, SCARCE_PORTS, SNAT_PORTS, ServiceSpec, action,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

fn node_port(rig: &mut Rig, case: Case, backends: &[SocketAddr]) -> Installed {
    rig.clear_flows();
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, 30_080), case.node(UPLINK_2, 30_080)],
        backends: backends.to_vec(),
        ..ServiceSpec::default()
    })
}

/// Asserts that a packet to `backend` leaves by `by` with the address of `by`
/// as its source, and returns the source.
#[track_caller]
fn translated(rig: &mut Rig, case: Case, by: Port, packet: &Packet) -> SocketAddr {
    let step = case.leave(rig, by, packet);
    let (source, destination) = step.tuple(Verdict::SourceTranslated);
    assert_eq!(destination, packet.dst, "{}", step.describe());
    assert_eq!(source.ip(), case.node(by, 0).ip(), "{}", step.describe());
    assert!(SNAT_PORTS.contains(&source.port()), "{}", step.describe());
    source
}

#[test]
fn an_outside_client_reaches_a_remote_backend_and_the_reply_finds_the_way_back() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for by in [UPLINK, UPLINK_2, TUNNEL] {
            let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
            let backend = case.pod(2, 10, 8080);
            node_port(&mut rig, case, &[backend]);
            case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
            let source = translated(&mut rig, case, by, &case.open(client, backend));
            case.enter(&mut rig, by, &case.accept(backend, source)).became(
                Verdict::SourceRestored,
                backend,
                client,
            );
            case.leave(&mut rig, UPLINK, &case.accept(backend, client)).returned_from(front);
            for _ in 0..2 {
                case.enter(&mut rig, UPLINK, &case.data(client, front)).forwarded_to(backend);
                let again = translated(&mut rig, case, by, &case.data(client, backend));
                assert_eq!(again, source, "a flow keeps its port");
                case.enter(&mut rig, by, &case.data(backend, source)).became(
                    Verdict::SourceRestored,
                    backend,
                    client,
                );
                case.leave(&mut rig, UPLINK, &case.data(backend, client)).returned_from(front);
            }
        }
    }
}

#[test]
fn a_local_backend_sees_the_outside_clients_address() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(1, 10, 8080);
        node_port(&mut rig, case, &[backend]);
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        case.leave(&mut rig, POD, &case.open(client, backend)).passed();
        case.enter(&mut rig, POD, &case.accept(backend, client)).passed();
        case.leave(&mut rig, UPLINK, &case.accept(backend, client)).returned_from(front);
    }
}

#[test]
fn a_remote_backend_sees_the_address_of_a_pod_of_this_node() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for by in [UPLINK, UPLINK_2, TUNNEL] {
            for front in [case.vip(1, 80), case.node(UPLINK, 30_080)] {
                let (client, backend) = (case.pod(1, 20, 4000), case.pod(2, 10, 8080));
                node_port(&mut rig, case, &[backend]);
                case.enter(&mut rig, POD_2, &case.open(client, front)).forwarded_to(backend);
                case.leave(&mut rig, by, &case.open(client, backend)).passed();
                case.enter(&mut rig, by, &case.accept(backend, client)).passed();
                case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(front);
            }
        }
    }
}

/// A client of another node, or one that routes ClusterIPs here.
#[test]
fn whoever_comes_in_by_an_uplink_or_tunnel_is_translated_for_cluster_ips_too() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for edge in [UPLINK, TUNNEL] {
            let (client, vip) = (case.outside(7, 4000), case.vip(1, 80));
            let backend = case.pod(2, 10, 8080);
            node_port(&mut rig, case, &[backend]);
            case.enter(&mut rig, edge, &case.open(client, vip)).forwarded_to(backend);
            let source = translated(&mut rig, case, UPLINK_2, &case.open(client, backend));
            case.enter(&mut rig, UPLINK_2, &case.accept(backend, source)).became(
                Verdict::SourceRestored,
                backend,
                client,
            );
            case.leave(&mut rig, edge, &case.accept(backend, client)).returned_from(vip);
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip, backend) =
            (case.pod(1, 10, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        node_port(&mut rig, case, &[backend]);
        case.enter(&mut rig, POD, &case.open(client, vip)).forwarded_to(backend);
        let source = translated(&mut rig, case, POD, &case.open(client, backend));
        case.enter(&mut rig, POD, &case.accept(backend, source)).became(
            Verdict::SourceRestored,
            backend,
            client,
        );
        case.leave(&mut rig, POD, &case.accept(backend, client)).returned_from(vip);
        case.enter(&mut rig, POD, &case.data(client, vip)).forwarded_to(backend);
        let again = translated(&mut rig, case, POD, &case.data(client, backend));
        assert_eq!(again, source, "a flow keeps its port");
    }
}

#[test]
fn an_interface_without_an_address_leaves_the_source_alone() {
    let Some(mut rig) = Rig::take() else { return };
    rig.set_interface(TUNNEL.index, Interface { snat_v4: 0, snat_v6: [0; 4], ..TUNNEL.row() });
    for case in Case::all() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        node_port(&mut rig, case, &[backend]);
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        case.leave(&mut rig, TUNNEL, &case.open(client, backend)).passed();
    }
}

#[test]
fn no_two_flows_to_a_backend_share_a_port() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        node_port(&mut rig, case, &[backend]);
        let mut clients = Vec::new();
        for n in 0..200 {
            // The same port from several clients, and several from the same.
            let client = case.outside(1 + n % 8, 4000 + u16::from(n / 8));
            case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
            clients.push((client, translated(&mut rig, case, UPLINK, &case.open(client, backend))));
        }
        let sources: BTreeSet<SocketAddr> = clients.iter().map(|(_, source)| *source).collect();
        assert_eq!(sources.len(), clients.len(), "{case:?}");
        for (client, source) in clients {
            case.enter(&mut rig, UPLINK, &case.accept(backend, source)).became(
                Verdict::SourceRestored,
                backend,
                client,
            );
            case.leave(&mut rig, UPLINK, &case.accept(backend, client)).returned_from(front);
        }
    }
}

#[test]
fn what_answers_to_a_port_that_was_not_reserved_passes() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let backend = case.pod(2, 10, 8080);
        node_port(&mut rig, case, &[backend]);
        for port in [*SNAT_PORTS.start(), *SNAT_PORTS.end(), SNAT_PORTS.end() + 1, 22] {
            let packet = case.accept(backend, case.node(UPLINK, port));
            case.enter(&mut rig, UPLINK, &packet).passed();
        }
    }
}

/// A client outside with this number begins a flow through a node port; the
/// source that its backend sees.
#[track_caller]
fn begin(rig: &mut Rig, case: Case, n: u8, backend: SocketAddr) -> SocketAddr {
    let (client, front) = (case.outside(n, 4000), case.node(UPLINK, 30_080));
    case.enter(rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
    let step = case.leave(rig, UPLINK, &case.open(client, backend));
    step.tuple(Verdict::SourceTranslated).0
}

/// That client goes on from its backend's answer; its source.
#[track_caller]
fn prove(rig: &mut Rig, case: Case, n: u8, backend: SocketAddr) -> SocketAddr {
    let (client, front) = (case.outside(n, 4000), case.node(UPLINK, 30_080));
    let source = begin(rig, case, n, backend);
    let answer = case.accept(backend, source);
    case.enter(rig, UPLINK, &answer).became(Verdict::SourceRestored, backend, client);
    case.leave(rig, UPLINK, &case.accept(backend, client)).returned_from(front);
    rig.silence(client.ip(), 2);
    case.enter(rig, UPLINK, &case.data(client, front)).forwarded_to(backend);
    source
}

#[test]
fn when_every_port_is_taken_the_packet_is_dropped_and_counted() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::all() {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        let service = node_port(&mut rig, case, &[backend]).id;
        let sources: BTreeSet<SocketAddr> =
            [1, 2, 3, 4].map(|n| prove(&mut rig, case, n, backend)).into();
        assert_eq!(sources.len(), 4, "{case:?}");
        assert!(sources.iter().all(|source| SCARCE_PORTS.contains(&source.port())), "{sources:?}");
        for n in 5..=40 {
            let client = case.outside(n, 4000);
            case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
            let step = case.leave(&mut rig, UPLINK, &case.open(client, backend));
            step.dropped(Verdict::DroppedNoPort);
        }
        assert_eq!(rig.no_port(service), 36, "{case:?}");
        // Another backend has all ports still.
        let other = case.pod(2, 11, 8080);
        node_port(&mut rig, case, &[other]);
        begin(&mut rig, case, 1, other);
    }
}

/// A flood of made-up clients takes every port, and keeps none.
#[test]
fn ports_of_flows_that_nobody_went_on_with_serve_the_next() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::all() {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        let service = node_port(&mut rig, case, &[backend]).id;
        let before = rig.ports_gave_way();
        let proven = prove(&mut rig, case, 1, backend);
        for n in 2..=40 {
            begin(&mut rig, case, n, backend);
        }
        assert_eq!(rig.no_port(service), 0, "{case:?}");
        // Of a few ports a draw may miss the free ones.
        assert!((36..39).contains(&(rig.ports_gave_way() - before)), "{case:?}");
        // Who has proven itself has kept its own, who has not gets another.
        let client = case.outside(1, 4000);
        case.enter(&mut rig, UPLINK, &case.data(client, front)).forwarded_to(backend);
        let step = case.leave(&mut rig, UPLINK, &case.data(client, backend));
        let (kept, _) = step.tuple(Verdict::SourceTranslated);
        assert_eq!(kept, proven, "{case:?}");
        let again = begin(&mut rig, case, 2, backend);
        assert_ne!(again, kept, "{case:?}");
        let answer = case.accept(backend, again);
        case.enter(&mut rig, UPLINK, &answer).became(
            Verdict::SourceRestored,
            backend,
            case.outside(2, 4000),
        );
    }
}

/// It has had the longest time to go on.
#[test]
fn the_port_of_the_flow_that_is_silent_for_longest_serves_first() {
    const ROUNDS: usize = 40;
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::all() {
        let backend = case.pod(2, 10, 8080);
        node_port(&mut rig, case, &[backend]);
        let mut first = 0;
        for _ in 0..ROUNDS {
            rig.clear_flows();
            for n in 1..=4 {
                begin(&mut rig, case, n, backend);
            }
            let oldest = begin(&mut rig, case, 1, backend);
            rig.silence(case.outside(1, 0).ip(), 10);
            first += usize::from(begin(&mut rig, case, 5, backend) == oldest);
        }
        // Eight draws of four miss it once in ten rounds.
        assert!(first > ROUNDS / 2, "{case:?}: {first}");
    }
}

/// One busy backend sees far more connections than there are ports.
#[test]
fn the_port_of_a_flow_that_is_over_serves_the_next() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::all() {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        node_port(&mut rig, case, &[backend]);
        for port in 4000..4100 {
            let client = case.outside(7, port);
            case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
            let step = case.leave(&mut rig, UPLINK, &case.open(client, backend));
            let (source, _) = step.tuple(Verdict::SourceTranslated);
            let answer = case.accept(backend, source);
            case.enter(&mut rig, UPLINK, &answer).became(Verdict::SourceRestored, backend, client);
            case.leave(&mut rig, UPLINK, &case.accept(backend, client)).returned_from(front);
            if case.connects() {
                let fin = case.segment(client, front, flag::FIN | flag::ACK);
                case.enter(&mut rig, UPLINK, &fin).forwarded_to(backend);
                let fin = case.segment(backend, client, flag::FIN | flag::ACK);
                case.leave(&mut rig, UPLINK, &fin).returned_from(front);
            } else {
                rig.age_flows();
            }
        }
    }
}

/// A backend that closed first keeps the tuple for a minute, and would take a
/// stranger's first segment for a late one of the old connection.
#[test]
fn the_port_of_a_flow_that_has_just_closed_rests_while_others_are_free() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        for _ in 0..4 {
            node_port(&mut rig, case, &[backend]);
            let ports = [7, 8].map(|n| {
                let source = prove(&mut rig, case, n, backend);
                let reset = case.segment(case.outside(n, 4000), front, flag::RST);
                case.enter(&mut rig, UPLINK, &reset).forwarded_to(backend);
                source
            });
            // Eight draws of four meet the resting one alone once in 65,536 times.
            assert_ne!(ports[0], ports[1], "{case:?}");
        }
    }
}

#[test]
fn a_port_that_a_socket_of_the_node_uses_is_left_to_it() {
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::ethernet().filter(|case| !case.connects()) {
        let (front, backend) = (case.node(UPLINK, 30_080), case.pod(2, 10, 8080));
        node_port(&mut rig, case, &[backend]);
        let taken: Vec<UdpSocket> = SCARCE_PORTS
            .take(2)
            .map(|port| UdpSocket::bind(case.node(UPLINK, port)).expect("a port of the node"))
            .collect();
        let client = case.outside(7, 4000);
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        let step = case.leave(&mut rig, UPLINK, &case.open(client, backend));
        let (source, _) = step.tuple(Verdict::SourceTranslated);
        let free = taken.iter().all(|socket| socket.local_addr().ok() != Some(source));
        assert!(free, "{}", step.describe());
    }
}

/// Two processors want the port that is silent for longest at the same moment: one
/// of them has it, and the other's flow does not believe that it has.
#[test]
fn a_port_that_two_processors_want_is_one_flows() {
    /// The clients among these whose flows send from this port.
    fn users<A: Family>(rig: &Rig, clients: [IpAddr; 2], port: u16) -> BTreeSet<IpAddr> {
        let flows = rig.flows::<A>().into_iter().map(|(_, flow)| flow);
        flows
            .filter(|flow| flow.snat_port.get() == port)
            .map(|flow| flow.client.into())
            .filter(|client| clients.contains(client))
            .collect()
    }
    let Some(mut rig) = Rig::take_scarce() else { return };
    for case in Case::ethernet() {
        node_port(&mut rig, case, &[case.pod(2, 10, 8080)]);
        let front = case.node(UPLINK, 30_080);
        for round in 0..200_u16 {
            let clients = [1, 2].map(|n| case.outside(n, 2000 + round));
            let frames =
                clients.map(|client| case.open(client, front).macs(UPLINK.entering()).bytes());
            let ran = rig.at_once(Prog::Xdp, UPLINK.index, frames.each_ref().map(Vec::as_slice));
            let ports = ran.map(|(action, frame)| {
                assert_eq!(action, action::XDP_TX, "{case:?}");
                parse(&frame, true).expect("readable").src.port()
            });
            if ports[0] != ports[1] {
                continue;
            }
            let clients = clients.map(|client| client.ip());
            let users = if case.v6 {
                users::<V6>(&rig, clients, ports[0])
            } else {
                users::<V4>(&rig, clients, ports[0])
            };
            // The later one may have it from the earlier, who knows that then.
            assert!(users.len() <= 1, "{case:?}: {users:?} send from port {}", ports[0]);
        }
    }
}
