//! What only SCTP has: a checksum over all of the packet, and chunks. All else
//! is in the tables of the other modules, which run for it too.

use lb_common::Verdict;
use lb_common::sctp::chunk;
use lb_tests::packet::{Fragment, Packet, Transport};
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Rig};
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

/// Every case of SCTP.
fn cases() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.protocol == Protocol::Sctp)
}

fn install(rig: &mut Rig, case: Case, backend_port: u16) -> [SocketAddr; 3] {
    rig.reset();
    let backend = case.pod(1, 10, backend_port);
    rig.install(&case.web(&[backend]));
    [case.pod(1, 20, 4000), case.vip(1, 80), backend]
}

#[test]
fn packets_of_any_length_keep_a_right_checksum() {
    let Some(mut rig) = Rig::take() else { return };
    for case in cases() {
        let [client, vip, backend] = install(&mut rig, case, 8080);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        let lengths = (0..40).chain([239, 240, 241, 255, 256, 1000, 1440]);
        for len in lengths {
            let data: Vec<u8> = (0..251).cycle().take(len).collect();
            let packet = case.data(client, vip).payload(&data);
            case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
            let packet = case.data(backend, client).payload(&data);
            case.leave(&mut rig, POD_2, &packet).returned_from(vip);
        }
    }
}

/// A pod's link leaves the sum to a device: the field is zero, and what is not
/// there can't be brought up to date.
#[test]
fn a_checksum_that_is_left_to_a_device_stays_zero() {
    let Some(mut rig) = Rig::take() else { return };
    for case in cases() {
        let [client, vip, backend] = install(&mut rig, case, 8080);
        let open = |src, dst| {
            let transport = Transport::Sctp { chunk: chunk::INIT, checksum: false };
            Packet { transport, ..case.open(src, dst) }
        };
        case.enter(&mut rig, POD_2, &open(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &open(backend, client)).returned_from(vip);
        if !case.l3 {
            // XDP can't tell whether a device is to come.
            let packet = open(case.outside(7, 4000), case.node(UPLINK, 30_080));
            case.xdp(&mut rig, UPLINK, &packet).unchanged(Verdict::HandedOver);
        }
    }
}

/// A checksum over the whole packet can't be followed from a part of it; where
/// the ports stay it needs not.
#[test]
fn a_packet_in_fragments_goes_on_only_if_its_ports_stay() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cases().zip(500..) {
        for (backend_port, goes_on) in [(80, true), (8080, false)] {
            let [client, vip, backend] = install(&mut rig, case, backend_port);
            let id = id + backend_port;
            let whole = case.open(client, vip).payload(&[7; 1000]);
            let part = |offset| Packet {
                fragment: Some(Fragment { offset, len: 800, id }),
                ..whole.clone()
            };
            for offset in [0, 800] {
                let step = case.enter(&mut rig, POD_2, &part(offset));
                if goes_on {
                    step.forwarded_to(backend);
                } else {
                    let (first, later) = (Verdict::DroppedRewrite, Verdict::DroppedFragment);
                    step.dropped(if offset == 0 { first } else { later });
                }
            }
        }
    }
}

/// RFC 9260 section 8.4: neither is ever answered.
#[test]
fn chunks_that_end_an_association_are_not_answered() {
    let Some(mut rig) = Rig::take() else { return };
    for case in cases() {
        let [client, vip, _] = install(&mut rig, case, 8080);
        for kind in [chunk::ABORT, chunk::SHUTDOWN_COMPLETE] {
            let to_service = Packet::sctp(client, vip, kind);
            case.enter(&mut rig, POD_2, &to_service).dropped(Verdict::DroppedNoFlow);
            let nowhere = Packet::sctp(client, case.vip(1, 81), kind);
            case.enter(&mut rig, POD_2, &nowhere).dropped(Verdict::RefusedUnknownPort);
        }
    }
}

#[test]
fn an_association_that_was_shut_down_is_over_and_its_last_chunk_still_arrives() {
    let Some(mut rig) = Rig::take() else { return };
    for case in cases() {
        let [client, vip, backend] = install(&mut rig, case, 8080);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        for (from_client, kind) in [
            (false, chunk::INIT_ACK),
            (true, chunk::SHUTDOWN),
            (false, chunk::SHUTDOWN_ACK),
            (true, chunk::SHUTDOWN_COMPLETE),
        ] {
            if from_client {
                let packet = Packet::sctp(client, vip, kind);
                case.enter(&mut rig, POD_2, &packet).forwarded_to(backend);
            } else {
                let packet = Packet::sctp(backend, client, kind);
                case.leave(&mut rig, POD_2, &packet).returned_from(vip);
            }
        }
        let over = if case.v6 {
            rig.flows::<lb_common::V6>().iter().all(|(_, flow)| lb_common::tcp::is_closed(flow.tcp))
        } else {
            rig.flows::<lb_common::V4>().iter().all(|(_, flow)| lb_common::tcp::is_closed(flow.tcp))
        };
        assert!(over, "{case:?}");
    }
}
