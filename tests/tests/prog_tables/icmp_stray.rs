//! ICMP errors that are about no flow, or can't be read: they pass, unless they
//! are addressed to a ClusterIP, and are never answered.

use lb_common::Verdict;
use lb_tests::packet::{Extension, Fragment, Packet};
use lb_tests::prog::net::{POD, POD_2, UPLINK};
use lb_tests::prog::{Case, Rig};
use std::net::SocketAddr;

use crate::icmp_error::{Path, WHOLE, kinds, open_between_pods, rows};

#[test]
fn errors_about_no_flow_pass_unless_they_are_addressed_to_a_cluster_ip() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, backend, .. } = open_between_pods(&mut rig, case);
        let before = rows(&rig);
        let other_port = SocketAddr::new(client.ip(), 4001);
        let stranger = case.outside(5, 9);
        for (kind, code, rest) in kinds(case) {
            let error = |to: SocketAddr, about: Packet, most| {
                Packet::icmp(client.ip(), to.ip(), *kind, *code, *rest).quoting(&about, most)
            };
            // To the ClusterIP: another flow, nonsense, no flow at all.
            for about in [case.data(vip, other_port), case.data(stranger, client)] {
                let step = case.enter(&mut rig, POD_2, &error(vip, about, WHOLE));
                step.dropped(Verdict::DroppedNoFlow);
            }
            let header = if case.v6 { 40 } else { 20 };
            for most in [0, 1, header - 1, header, header + 3] {
                let step = case.enter(&mut rig, POD_2, &error(vip, case.data(vip, client), most));
                step.dropped(Verdict::DroppedNoFlow);
            }
            // To others: a flow whose packet they did not send, and no flow.
            for to in [stranger, backend, case.node(UPLINK, 0)] {
                for about in [case.data(vip, client), case.data(to, client)] {
                    let packet = error(to, about, WHOLE);
                    case.enter(&mut rig, POD_2, &packet).passed();
                    case.leave(&mut rig, POD, &packet).passed();
                }
            }
        }
        assert!(rows(&rig) == before, "{case:?}: an error changed a flow");
    }
}

/// Like an error not to be answered, but nothing that we could translate.
#[test]
fn redirects_and_reserved_errors_to_a_cluster_ip_end_here() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, .. } = open_between_pods(&mut rig, case);
        for kind in if case.v6 { [0, 5, 100, 127, 137] } else { [5; 5] } {
            let packet = Packet::icmp(client.ip(), vip.ip(), kind, 0, [0; 4]);
            let packet = packet.quoting(&case.data(vip, client), WHOLE);
            case.enter(&mut rig, POD_2, &packet).dropped(Verdict::DroppedNoFlow);
        }
    }
}

/// What only looks like a quote of TCP or UDP.
#[test]
fn quotes_that_have_no_ports() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, .. } = open_between_pods(&mut rig, case);
        let plain = case.data(vip, client);
        let mut quotes = vec![Packet::ping(vip.ip(), client.ip())];
        quotes.push(Packet {
            fragment: Some(Fragment { offset: 8, len: 24, id: 7 }),
            ..plain.clone()
        });
        if case.v6 {
            let extension = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
            quotes.push(Packet { extensions: vec![extension; 5], ..plain });
        }
        let (kind, code, rest) = kinds(case)[0];
        for about in quotes {
            let packet = Packet::icmp(client.ip(), vip.ip(), kind, code, rest);
            let packet = packet.quoting(&about, WHOLE);
            case.enter(&mut rig, POD_2, &packet).dropped(Verdict::DroppedNoFlow);
        }
        // A fragment of an error.
        let error = Packet::icmp(client.ip(), vip.ip(), kind, code, rest);
        let error = error.quoting(&case.data(vip, client), WHOLE);
        let fragment = Some(Fragment { offset: 0, len: 48, id: 7 });
        let packet = Packet { fragment, ..error };
        case.enter(&mut rig, POD_2, &packet).dropped(Verdict::DroppedFragment);
    }
}
