//! Fragments that overlap, as nobody sends them but to get past somebody: each is
//! translated by what it says itself, or as the first that came before it, and no
//! byte behind its IP header is taken for a port or a checksum.

use lb_common::Verdict;
use lb_tests::packet::{Fragment, Packet, Transport};
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Rig, ServiceSpec};
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

use crate::icmp_error::ip_headers;

/// SCTP can't be translated in fragments.
fn cut_cases() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.protocol != Protocol::Sctp)
}

/// The bytes `offset..offset + len` of the packet, as a first fragment.
fn first(packet: &Packet, len: usize, id: u16) -> Packet {
    Packet { fragment: Some(Fragment { offset: 0, len, id }), ..packet.clone() }
}

/// Likewise as a later fragment: its bytes are nothing but bytes, even where the
/// transport header would be.
fn later(case: Case, packet: &Packet, offset: usize, len: usize, id: u16) -> Packet {
    let segment = packet.bytes().split_off(ip_headers(case, packet));
    let bare = |addr: SocketAddr| SocketAddr::new(addr.ip(), 0);
    Packet {
        fragment: Some(Fragment { offset, len, id }),
        transport: Transport::Other { number: case.proto() },
        payload: segment,
        ..packet.clone().from(bare(packet.src)).to(bare(packet.dst))
    }
}

/// Places of later fragments that overlap each other and a first of 24 bytes, a
/// TCP header's checksum and options included.
const OVERLAPPING: [(usize, usize); 6] = [(8, 16), (16, 8), (8, 40), (16, 200), (24, 24), (8, 8)];

fn web_and_other(rig: &mut Rig, case: Case) -> (SocketAddr, SocketAddr) {
    let (backend, other) = (case.pod(1, 10, 8080), case.pod(2, 10, 9090));
    rig.reset();
    rig.install(&case.web(&[backend]));
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 81)],
        backends: vec![other],
        ..ServiceSpec::default()
    });
    (backend, other)
}

fn bare(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip(), 0)
}

#[test]
fn later_fragments_that_overlap_the_first_get_its_addresses_and_keep_their_bytes() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(100..) {
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let (backend, _) = web_and_other(&mut rig, case);
        let sent = case.open(client, vip).payload(&[0x5a; 200]);
        case.enter(&mut rig, POD_2, &first(&sent, 24, id)).forwarded_to(backend);
        for (offset, len) in OVERLAPPING {
            let step = case.enter(&mut rig, POD_2, &later(case, &sent, offset, len, id));
            step.became(Verdict::Forwarded, bare(client), bare(backend));
        }
        let sent = case.accept(backend, client).payload(&[0x5a; 200]);
        case.leave(&mut rig, POD_2, &first(&sent, 24, id)).returned_from(vip);
        for (offset, len) in OVERLAPPING {
            let step = case.leave(&mut rig, POD_2, &later(case, &sent, offset, len, id));
            step.became(Verdict::Returned, bare(vip), bare(client));
        }
    }
}

/// XDP has no part in fragments, however they lie.
#[test]
fn fragments_that_overlap_pass_xdp_as_they_are() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(400..).filter(|(case, _)| !case.l3) {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        rig.reset();
        rig.install(&case.web(&[backend]));
        // A flow that XDP itself serves.
        let step = case.xdp(&mut rig, UPLINK, &case.open(client, front));
        assert_eq!(step.outcome.verdict, Verdict::Forwarded, "{}", step.describe());
        let (seen, _) = step.ends();
        for sent in [case.data(client, front), case.data(backend, seen)] {
            let sent = sent.payload(&[0x5a; 200]);
            for len in [8, 16, 24] {
                let step = case.xdp(&mut rig, UPLINK, &first(&sent, len, id));
                // Without the whole header nobody knows that it is the flow's.
                let cut = case.is_tcp() && len < 20;
                step.unchanged(if cut { Verdict::Passed } else { Verdict::HandedOver });
            }
            for (offset, len) in OVERLAPPING {
                case.xdp(&mut rig, UPLINK, &later(case, &sent, offset, len, id)).passed();
            }
        }
    }
}

/// The same datagram twice, for two Services: the ports of each first fragment
/// count for itself, and the last of them for what comes later.
#[test]
fn a_first_fragment_that_overlaps_another_goes_by_its_own_ports() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(200..) {
        let client = case.pod(1, 20, 4000);
        let (backend, other) = web_and_other(&mut rig, case);
        let [web, more, nobodys] =
            [80, 81, 82].map(|port| case.open(client, case.vip(1, port)).payload(&[0x5a; 200]));
        for (sent, to) in [(&web, backend), (&more, other), (&web, backend)] {
            case.enter(&mut rig, POD_2, &first(sent, 24, id)).forwarded_to(to);
            let step = case.enter(&mut rig, POD_2, &later(case, sent, 8, 40, id));
            step.became(Verdict::Forwarded, bare(client), bare(to));
        }
        let step = case.enter(&mut rig, POD_2, &first(&nobodys, 24, id));
        assert_eq!(step.outcome.verdict, Verdict::RefusedUnknownPort, "{}", step.describe());
        let step = case.enter(&mut rig, POD_2, &later(case, &web, 24, 40, id));
        step.dropped(Verdict::DroppedFragment);
    }
}

/// RFC 1858: the flags of a TCP segment may be in its second fragment, where
/// nobody sees them. So the first has the whole header, or is nothing to us.
#[test]
fn a_first_fragment_too_short_for_its_header_ends_at_a_service() {
    let Some(mut rig) = Rig::take() else { return };
    for (case, id) in cut_cases().zip(300..).filter(|(case, _)| case.is_tcp()) {
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let (backend, _) = web_and_other(&mut rig, case);
        let sent = case.open(client, vip).payload(&[0x5a; 200]);
        for len in [8, 16] {
            let step = case.enter(&mut rig, POD_2, &first(&sent, len, id));
            step.dropped(Verdict::DroppedFragment);
        }
        let step = case.enter(&mut rig, POD_2, &later(case, &sent, 8, 40, id));
        step.dropped(Verdict::HeldFragment);
        // Nor does a backend's leave as if it were the Service's.
        let sent = case.accept(backend, client).payload(&[0x5a; 200]);
        for len in [8, 16] {
            case.leave(&mut rig, POD_2, &first(&sent, len, id)).passed();
        }
        assert!(rig.flows::<lb_common::V4>().is_empty() && rig.flows::<lb_common::V6>().is_empty());
    }
}
