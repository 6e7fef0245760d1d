//! What is not a Service's passes byte for byte, whatever it is.

use lb_common::limits::MAX_EXTENSION_HEADERS;
use lb_common::tcp::flag;
use lb_common::{Interface, Verdict};
use lb_tests::packet::{Extension, Macs, Packet};
use lb_tests::prog::net::{POD_2, PORTS, UPLINK};
use lb_tests::prog::{Case, Prog, Rig};
use std::net::SocketAddr;

/// Services on every family and protocol, so that there is something to hit.
fn install(rig: &mut Rig) {
    for case in Case::ethernet() {
        rig.install(&case.web(&[case.pod(1, 10, 8080), case.pod(2, 10, 8080)]));
    }
}

/// Asserts that a frame passes every program on every interface.
#[track_caller]
fn passes_everywhere(rig: &mut Rig, what: &str, frame: &[u8]) {
    for prog in Prog::ALL {
        if !prog.runs_on(frame) {
            continue;
        }
        for port in PORTS {
            let outcome = rig.run(prog, port.index, frame);
            assert_eq!(outcome.verdict, Verdict::Passed, "{what}, {prog:?}");
            assert!(outcome.passes(prog), "{what}, {prog:?}: action {}", outcome.action);
            assert!(outcome.frame == frame, "{what}, {prog:?}: changed");
        }
    }
}

const MACS: Macs = Macs { src: [2, 0, 0, 0, 9, 9], dst: [0xff; 6] };

fn ethernet(ether_type: u16, payload: &[u8]) -> Vec<u8> {
    [&MACS.dst[..], &MACS.src, &ether_type.to_be_bytes(), payload].concat()
}

#[test]
fn link_layer_protocols() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    // An ARP request for a ClusterIP (RFC 826).
    let arp =
        [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MACS.src, &[10, 244, 1, 20], &[0; 6], &[10, 96, 0, 1]];
    passes_everywhere(&mut rig, "ARP", &ethernet(0x0806, &arp.concat()));
    passes_everywhere(&mut rig, "LLDP", &ethernet(0x88cc, &[2, 7, 4, 2, 0, 0, 0, 9, 9, 0, 0]));
    passes_everywhere(&mut rig, "802.3 with a length", &ethernet(0x0026, &[0x42; 60]));
    passes_everywhere(&mut rig, "MPLS", &ethernet(0x8847, &[0; 60]));
    passes_everywhere(&mut rig, "PPPoE", &ethernet(0x8864, &[0; 60]));
    passes_everywhere(&mut rig, "type 0", &ethernet(0, &[]));
    passes_everywhere(&mut rig, "type ffff", &ethernet(0xffff, &[0xff; 100]));
}

#[test]
fn icmp_igmp_and_other_protocols() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    for case in Case::ethernet() {
        for to in [case.vip(2, 0), case.node(UPLINK, 0), case.pod(1, 10, 0), case.outside(7, 0)] {
            let ping = Packet::ping(case.pod(1, 20, 0).ip(), to.ip()).macs(MACS);
            passes_everywhere(&mut rig, "ping", &ping.bytes());
            // SCTP, IGMP, ESP, GRE, VRRP, OSPF, IPIP, UDP-Lite, reserved: the
            // rest of the packet is such that TCP or UDP would be a Service's.
            let service = SocketAddr::new(to.ip(), 80);
            let packet = case.open(case.pod(1, 20, 4000), service).macs(MACS);
            for number in [132, 2, 50, 47, 112, 89, 4, 41, 136, 59, 255] {
                let mut frame = packet.bytes();
                frame[if case.v6 { 20 } else { 23 }] = number;
                passes_everywhere(&mut rig, &format!("protocol {number}"), &frame);
            }
        }
    }
}

#[test]
fn connections_of_strangers() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    for case in Case::all() {
        let client = case.pod(1, 20, 4000);
        for to in [
            case.outside(7, 80),
            case.pod(1, 20, 80),
            case.pod(1, 10, 22),
            case.vip(2, 80),
            case.node(UPLINK, 80),
            case.node(UPLINK, 6443),
        ] {
            for flags in [flag::SYN, flag::ACK, flag::RST, flag::FIN | flag::ACK, 0, 0xff] {
                for packet in [case.segment(client, to, flags), case.segment(to, client, flags)] {
                    // A source that a case without MAC header can't have.
                    if case.l3 && packet.src == to && to != case.pod(1, 20, 80) {
                        continue;
                    }
                    for by in PORTS {
                        case.enter(&mut rig, by, &packet).passed();
                        case.leave(&mut rig, by, &packet).passed();
                        if !case.l3 {
                            case.xdp(&mut rig, by, &packet).passed();
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn packets_in_a_vlan_belong_to_the_vlans_interface() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    for case in Case::ethernet() {
        for vlans in [vec![5], vec![100, 5]] {
            let packet = case.open(case.pod(1, 20, 4000), case.vip(1, 80)).macs(MACS);
            let packet = Packet { vlans, ..packet };
            passes_everywhere(&mut rig, "VLAN", &packet.bytes());
        }
    }
}

/// Headers that are cut off anywhere. The last byte that must be there is the
/// transport header's last.
#[test]
fn truncated_headers() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    for case in Case::ethernet() {
        let plain = case.open(case.outside(7, 4000), case.node(UPLINK, 30_080)).macs(MACS);
        let mut packets = vec![plain.clone()];
        if case.v6 {
            let extension = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
            packets.push(Packet { extensions: vec![extension; 3], ..plain });
        } else {
            packets.push(Packet { ip_options: vec![1; 40], ..plain });
        }
        for packet in packets {
            let frame = packet.bytes();
            let headers = Packet { payload: Vec::new(), ..packet }.bytes().len();
            for len in 14..headers {
                passes_everywhere(&mut rig, &format!("{case:?}, {len} bytes"), &frame[..len]);
            }
        }
    }
}

#[test]
fn headers_that_contradict_themselves() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    for case in Case::ethernet() {
        let frame = case.open(case.pod(1, 20, 4000), case.vip(1, 80)).macs(MACS).bytes();
        // The EtherType says one thing and the version another.
        for version in (0..16).filter(|version| *version != if case.v6 { 6 } else { 4 }) {
            let mut wrong = frame.clone();
            wrong[14] = version << 4 | (wrong[14] & 0x0f);
            passes_everywhere(&mut rig, &format!("version {version}"), &wrong);
        }
        let mut wrong = frame.clone();
        wrong[12..14].copy_from_slice(if case.v6 { &[8, 0] } else { &[0x86, 0xdd] });
        passes_everywhere(&mut rig, "the other family's EtherType", &wrong);
        if !case.v6 {
            for words in 0..5 {
                let mut wrong = frame.clone();
                wrong[14] = 0x40 | words;
                passes_everywhere(&mut rig, &format!("{words} words of header"), &wrong);
            }
        }
    }
}

#[test]
fn a_longer_chain_of_extension_headers_than_we_walk() {
    let Some(mut rig) = Rig::take() else { return };
    install(&mut rig);
    let extension = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
    for case in Case::all().filter(|case| case.v6) {
        let plain = case.open(case.pod(1, 20, 4000), case.node(UPLINK, 30_080));
        let most = MAX_EXTENSION_HEADERS as usize;
        let packet = Packet { extensions: vec![extension.clone(); most + 1], ..plain.clone() };
        case.enter(&mut rig, POD_2, &packet).passed();
        // As many as we walk are translated.
        let packet = Packet { extensions: vec![extension.clone(); most], ..plain };
        case.enter(&mut rig, POD_2, &packet).tuple(Verdict::Forwarded);
        rig.clear_flows();
    }
}

/// A frame for another link-layer address is another host's, though the
/// interface was told to listen to all (or has devices on top): answering it,
/// or leading it elsewhere, would break the other's connections. A port of a
/// bridge is different: what enters there is for the bridge.
#[test]
fn frames_for_other_hosts_pass_except_on_ports_of_bridges() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        rig.reset();
        rig.install(&case.web(&[case.pod(1, 30, 8080)]));
        let elsewhere = Macs { dst: [2, 0, 0, 0, 9, 9], ..UPLINK.entering() };
        for front in [case.vip(1, 80), case.vip(1, 81), case.node(UPLINK, 30_080)] {
            let client = case.outside(7, 4000);
            let (from, to) = (client.ip(), front.ip());
            for packet in [
                case.open(client, front),
                Packet::ping(from, to),
                Packet::other(from, to, 132),
                Packet::icmp(from, to, 3, 0, [0; 4]).quoting(&case.data(front, client), 1000),
            ] {
                let frame = packet.macs(elsewhere).bytes();
                let outcome = rig.run(Prog::Ingress, UPLINK.index, &frame);
                assert_eq!(outcome.verdict, Verdict::Passed, "{case:?} {front}");
                assert_eq!(outcome.frame, frame, "{case:?} {front}");
                let outcome = rig.run(Prog::Xdp, UPLINK.index, &frame);
                assert!(outcome.passes(Prog::Xdp) && outcome.frame == frame, "{case:?} {front}");
            }
        }
        rig.set_interface(UPLINK.index, Interface { port: 1, ..UPLINK.row() });
        let frame = case.open(case.outside(7, 4000), case.vip(1, 80)).macs(elsewhere).bytes();
        let outcome = rig.run(Prog::Ingress, UPLINK.index, &frame);
        assert_eq!(outcome.verdict, Verdict::Forwarded, "{case:?}");
    }
}
