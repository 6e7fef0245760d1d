//! Frames that a device keeps in several buffers, of which XDP programs see the first.

use lb_common::Verdict;
use lb_tests::packet::{Packet, parse};
use lb_tests::prog::net::{NODE_2_MAC, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig, SNAT_PORTS, ServiceSpec, action};
use std::net::SocketAddr;

/// More than a page, which is what a device puts into a buffer at most.
const BODY: [u8; 8_900] = [0x5a; 8_900];

fn large(packet: &Packet) -> Packet {
    packet.clone().payload(&BODY)
}

fn node_port(rig: &mut Rig, case: Case, backend: SocketAddr) -> SocketAddr {
    rig.reset();
    let front = case.node(UPLINK, 30_080);
    rig.install(&ServiceSpec {
        proto: case.proto(),
        node: vec![front],
        backends: vec![backend],
        ..ServiceSpec::default()
    });
    front
}

#[test]
fn a_large_frame_is_turned_both_ways() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let (client, backend) = (case.outside(7, 4000), case.pod(2, 10, 8080));
        let front = node_port(&mut rig, case, backend);
        let first = case.xdp(&mut rig, UPLINK, &case.open(client, front));
        let source = parse(&first.outcome.frame, true).expect("readable").src;
        assert!(SNAT_PORTS.contains(&source.port()), "{}", first.describe());
        for _ in 0..2 {
            let step = case.xdp(&mut rig, UPLINK, &large(&case.data(client, front)));
            let macs = UPLINK.leaving_to(NODE_2_MAC);
            step.sent(Verdict::Forwarded, action::XDP_TX, macs, source, backend);
            let step = case.xdp(&mut rig, UPLINK, &large(&case.data(backend, source)));
            step.sent(Verdict::Returned, action::XDP_TX, UPLINK.leaving(), front, client);
        }
    }
}

/// Whether the other device takes such a frame is not known here.
#[test]
fn a_large_frame_for_another_interface_is_the_stacks() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let (client, backend) = (case.outside(7, 4000), case.pod(3, 10, 8080));
        let front = node_port(&mut rig, case, backend);
        let step = case.xdp(&mut rig, UPLINK, &case.open(client, front));
        assert_eq!(step.outcome.action, action::XDP_REDIRECT, "{}", step.describe());
        let step = case.xdp(&mut rig, UPLINK, &large(&case.data(client, front)));
        step.unchanged(Verdict::HandedOver);
        let source = parse(&rig_source(&mut rig, case, front), true).expect("readable").src;
        let step = case.xdp(&mut rig, UPLINK_2, &large(&case.data(backend, source)));
        step.unchanged(Verdict::HandedOver);
    }
}

/// The frame that a small packet of the flow becomes.
fn rig_source(rig: &mut Rig, case: Case, front: SocketAddr) -> Vec<u8> {
    case.xdp(rig, UPLINK, &case.data(case.outside(7, 4000), front)).outcome.frame
}

/// A length that no buffer has the bytes for.
#[test]
fn a_frame_that_lacks_what_its_header_says_is_the_stacks() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let (client, backend) = (case.outside(7, 4000), case.pod(2, 10, 8080));
        let front = node_port(&mut rig, case, backend);
        case.xdp(&mut rig, UPLINK, &case.open(client, front));
        let mut frame = large(&case.data(client, front)).macs(UPLINK.entering()).bytes();
        frame.truncate(frame.len() - 1);
        let outcome = rig.run(lb_tests::prog::Prog::Xdp, UPLINK.index, &frame);
        assert_eq!((outcome.verdict, outcome.action), (Verdict::HandedOver, action::XDP_PASS));
        assert!(outcome.frame == frame, "{case:?}: changed");
    }
}
