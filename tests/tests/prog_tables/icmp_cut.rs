//! ICMP errors whose quote ends anywhere, and errors about errors: a quote is
//! translated once its ports are there, and never what stands for something else.

use lb_common::Verdict;
use lb_tests::packet::Packet;
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Rig};
use lb_userspace::desired::Protocol;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::icmp_error::{Path, WHOLE, ip_headers, kinds, open_between_pods, rows, shapes};

/// Where the checksum is in a transport header.
const fn checksum(case: Case) -> Range<usize> {
    match case.protocol {
        Protocol::Tcp => 16..18,
        Protocol::Udp => 6..8,
        Protocol::Sctp => 8..12,
    }
}

/// An error about the packet that it may quote no more than `most` bytes of.
fn error(case: Case, from: IpAddr, about: &Packet, most: usize) -> Packet {
    let (kind, code, rest) = kinds(case)[0];
    Packet::icmp(from, about.src.ip(), kind, code, rest).quoting(about, most)
}

/// What an error with a quote that has its ports must become: from `from`, about
/// a packet from `src` to `dst`. A checksum of which a part is missing stays.
fn translated(
    case: Case,
    (from, src, dst): (IpAddr, SocketAddr, SocketAddr),
    about: &Packet,
    most: usize,
) -> Packet {
    let mut expected = error(case, from, &about.clone().from(src).to(dst), most);
    let at = ip_headers(case, about);
    let sum = at + checksum(case).start..at + checksum(case).end;
    if sum.contains(&most) {
        let original = error(case, from, about, most);
        expected.payload[sum.start..].copy_from_slice(&original.payload[sum.start..]);
    }
    expected
}

#[test]
fn a_quote_that_ends_anywhere_is_translated_as_far_as_it_goes_or_not_at_all() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, backend, .. } = open_between_pods(&mut rig, case);
        let before = rows(&rig);
        let reply = shapes(case, &case.data(vip, client));
        let request = shapes(case, &case.data(client, backend));
        for (reply, request) in reply.iter().zip(&request) {
            let ports = ip_headers(case, reply) + 4;
            for most in 0..=reply.bytes().len() {
                let entering = case.enter(&mut rig, POD_2, &error(case, client.ip(), reply, most));
                let leaving =
                    case.leave(&mut rig, POD_2, &error(case, backend.ip(), request, most));
                if !case.l3 {
                    // Whoever an error is for, it is TC's.
                    case.xdp(&mut rig, UPLINK, &entering.packet).passed();
                    case.xdp(&mut rig, UPLINK, &leaving.packet).passed();
                }
                if most < ports {
                    entering.dropped(Verdict::DroppedNoFlow);
                    leaving.passed();
                    continue;
                }
                let verdict = Verdict::ErrorTranslated;
                let to = (client.ip(), backend, client);
                entering.turned_into(verdict, &translated(case, to, reply, most));
                let to = (vip.ip(), client, vip);
                leaving.turned_into(verdict, &translated(case, to, request, most));
            }
        }
        assert!(rows(&rig) == before, "{case:?}: an error changed a flow");
    }
}

/// Nobody sends an error about an error (RFC 1122 section 3.2.2): the flow that
/// the inner one quotes is not what the outer one is about.
#[test]
fn an_error_about_an_error_is_about_no_flow() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, backend, .. } = open_between_pods(&mut rig, case);
        let before = rows(&rig);
        // Each inner error is one that would be translated by itself.
        let to_client = error(case, vip.ip(), &case.data(client, vip), WHOLE);
        let to_vip = error(case, client.ip(), &case.data(vip, client), WHOLE);
        let to_backend = error(case, client.ip(), &case.data(backend, client), WHOLE);
        for inner in [&to_client, &to_vip, &to_backend] {
            let length = inner.bytes().len();
            for most in [ip_headers(case, inner), length - 1, length] {
                let outer = |from: SocketAddr, to: SocketAddr| {
                    error(case, from.ip(), inner, most).to(SocketAddr::new(to.ip(), 0))
                };
                let step = case.enter(&mut rig, POD_2, &outer(client, vip));
                step.dropped(Verdict::DroppedNoFlow);
                case.enter(&mut rig, POD_2, &outer(client, backend)).passed();
                case.leave(&mut rig, POD_2, &outer(backend, client)).passed();
            }
        }
        assert!(rows(&rig) == before, "{case:?}: an error changed a flow");
    }
}
