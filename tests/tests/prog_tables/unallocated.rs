//! Addresses of a ServiceCIDR that no Service has: whatever is sent to them ends
//! here, and nothing else changes.

use ipnet::IpNet;
use lb_common::Verdict;
use lb_common::tcp::flag;
use lb_tests::packet::{Fragment, Packet};
use lb_tests::prog::net::{POD, POD_2, PORTS, UPLINK};
use lb_tests::prog::{Case, Installed, Prog, Rig, ServiceSpec};
use std::net::{IpAddr, SocketAddr};

use crate::refuse::refused;

const UNALLOCATED: Verdict = Verdict::DroppedUnallocated;

/// Services in the range of [`Case::vip`], which is in force.
fn install(rig: &mut Rig, case: Case) -> Installed {
    rig.reset();
    rig.set_service_cidrs(&[case.service_cidr()]);
    rig.install(&case.web(&[case.pod(1, 10, 8080)]))
}

fn range(text: &str) -> IpNet {
    text.parse().expect("a range")
}

/// An address by its text, with a port.
fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().expect("an address"), port)
}

#[test]
fn an_address_that_no_service_has_is_dropped_where_packets_enter() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let client = case.pod(1, 20, 4000);
        // 40500: the ports of source translation are looked at more closely.
        for port in [1, 80, 30_080, 40_500] {
            let nobody = case.vip(99, port);
            for by in PORTS {
                case.enter(&mut rig, by, &case.open(client, nobody)).dropped(UNALLOCATED);
                case.enter(&mut rig, by, &case.data(client, nobody)).dropped(UNALLOCATED);
                // The node's own.
                case.leave(&mut rig, by, &case.open(client, nobody)).dropped(UNALLOCATED);
            }
            if !case.l3 {
                case.xdp(&mut rig, UPLINK, &case.open(client, nobody)).dropped(UNALLOCATED);
            }
        }
        // What has the address as its source is none of this.
        case.enter(&mut rig, POD_2, &case.open(case.vip(99, 80), client)).passed();
    }
}

/// Services of another proxy have addresses in the range, too.
#[test]
fn a_spared_address_is_left_to_whoever_has_it() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (spared, nobody) = (case.vip(98, 80), case.vip(99, 80));
        rig.set_service_cidrs(&[case.service_cidr(), spared.ip().into()]);
        let client = case.pod(1, 20, 4000);
        case.enter(&mut rig, POD_2, &case.open(client, spared)).passed();
        case.leave(&mut rig, UPLINK, &case.open(client, spared)).passed();
        let ping = Packet::ping(client.ip(), spared.ip());
        case.enter(&mut rig, POD_2, &ping).passed();
        case.enter(&mut rig, POD_2, &case.open(client, nobody)).dropped(UNALLOCATED);
        if !case.l3 {
            case.xdp(&mut rig, UPLINK, &case.open(client, spared)).passed();
        }
    }
}

#[test]
fn every_protocol_is_dropped_and_fragments_too() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let (client, nobody) = (case.pod(1, 20, 4000), case.vip(99, 80));
        let plain = case.data(client, nobody);
        let fragment = |offset| Packet {
            fragment: Some(Fragment { offset, len: 24, id: 7 }),
            ..plain.clone()
        };
        for packet in [
            Packet::ping(client.ip(), nobody.ip()),
            Packet::other(client.ip(), nobody.ip(), 47),
            Packet::other(client.ip(), nobody.ip(), 132),
            fragment(0),
            fragment(16),
        ] {
            case.enter(&mut rig, POD_2, &packet).dropped(UNALLOCATED);
            case.leave(&mut rig, UPLINK, &packet).dropped(UNALLOCATED);
        }
    }
}

#[test]
fn services_in_the_range_are_served_as_ever() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        let step = case.enter(&mut rig, POD_2, &case.open(client, case.vip(1, 81)));
        refused(&step, Verdict::RefusedUnknownPort);
        let ping = Packet::ping(client.ip(), vip.ip());
        let step = case.enter(&mut rig, POD_2, &ping);
        assert_eq!(step.outcome.verdict, Verdict::EchoAnswered, "{}", step.describe());
        // Of a load balancer's address, the other ports are somebody else's.
        rig.install(&ServiceSpec {
            proto: case.proto(),
            load_balancer: vec![case.vip(50, 443)],
            ..ServiceSpec::default()
        });
        case.enter(&mut rig, POD_2, &case.open(client, case.vip(50, 22))).passed();
        case.enter(&mut rig, POD_2, &Packet::other(client.ip(), case.vip(50, 0).ip(), 47)).passed();
    }
}

#[test]
fn a_flow_goes_on_when_its_service_is_gone_and_new_ones_end() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let rows = install(&mut rig, case);
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        rig.remove_frontend(vip, case.proto());
        rig.set_endpoints(rows.id, &[]);
        case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &case.data(backend, client)).returned_from(vip);
        let other = case.pod(1, 20, 4001);
        case.enter(&mut rig, POD_2, &case.open(other, vip)).dropped(UNALLOCATED);
        // No flow, and so no answer that would tell of one.
        let stray = case.segment(other, vip, flag::ACK);
        case.enter(&mut rig, POD_2, &stray).dropped(UNALLOCATED);
    }
}

#[test]
fn what_is_outside_the_ranges_passes_and_without_any_all_does() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let client = case.pod(1, 20, 4000);
        let outside: &[&str] = if case.v6 {
            // The first is in the same 64 bits.
            &["fd00:10:96::1:1", "fd00:10:96:1::1", "fd00:10:95:ffff:ffff:ffff:ffff:ffff"]
        } else {
            &["10.95.255.255", "10.97.0.0", "96.10.0.99"]
        };
        for addr in outside {
            let packet = case.open(client, at(addr, 80));
            case.enter(&mut rig, POD_2, &packet).passed();
            case.leave(&mut rig, UPLINK, &packet).passed();
            if !case.l3 {
                case.xdp(&mut rig, UPLINK, &packet).passed();
            }
        }
        rig.reset();
        let packet = case.open(client, case.vip(99, 80));
        case.enter(&mut rig, POD_2, &packet).passed();
        case.leave(&mut rig, UPLINK, &packet).passed();
        // The other family's ranges are not this one's.
        let other = Case { v6: !case.v6, ..case };
        rig.set_service_cidrs(&[other.service_cidr()]);
        case.enter(&mut rig, POD_2, &packet).passed();
    }
}

#[test]
fn many_ranges_short_ones_and_overlapping_ones_all_count() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let client = case.pod(1, 20, 4000);
        let (ranges, inside, outside): (&[&str], &[&str], &[&str]) = if case.v6 {
            (
                &["fd00:1::/32", "fd00:1:2::/48", "fd00:3::/112", "fd00:4::1/127", "fd80::/9"],
                &["fd00:1:9::9", "fd00:1:2::9", "fd00:3::9", "fd00:4::1", "fdff::1"],
                &["fd00:2::1", "fd00:3::1:0", "fd00:4::2", "fd7f::1"],
            )
        } else {
            (
                &["10.1.0.0/16", "10.1.2.0/24", "10.3.0.0/28", "10.4.0.1/31", "172.16.0.0/12"],
                &["10.1.9.9", "10.1.2.9", "10.3.0.9", "10.4.0.1", "172.31.9.9"],
                &["10.2.0.1", "10.3.0.16", "10.4.0.2", "172.32.0.1"],
            )
        };
        let ranges: Vec<IpNet> = ranges.iter().map(|text| range(text)).collect();
        // Up to four are told by comparing, more by the prefix map alone.
        for count in 1..=ranges.len() {
            rig.reset();
            rig.set_service_cidrs(&ranges[..count]);
            for addr in inside.iter().chain(outside) {
                let dst = at(addr, 80);
                let step = case.enter(&mut rig, POD_2, &case.open(client, dst));
                if ranges[..count].iter().any(|range| range.contains(&dst.ip())) {
                    step.dropped(UNALLOCATED);
                } else {
                    step.passed();
                }
            }
        }
    }
}

#[test]
fn addresses_of_the_node_and_frames_of_other_hosts_pass() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let own = case.node(POD, 80);
        rig.set_service_cidrs(&[IpNet::new(own.ip(), 24).expect("a range").trunc()]);
        let client = case.outside(7, 4000);
        case.enter(&mut rig, UPLINK, &case.open(client, own)).passed();
        let neighbour = case.node(POD, 0).ip();
        let neighbour = match neighbour {
            IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) ^ 2).into()),
            IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) ^ 2).into()),
        };
        let packet = case.open(client, SocketAddr::new(neighbour, 80));
        case.enter(&mut rig, UPLINK, &packet).dropped(UNALLOCATED);
        if case.l3 {
            continue;
        }
        // The driver passes all frames up while somebody listens to them.
        let mut macs = UPLINK.entering();
        macs.dst[5] ^= 1;
        for packet in [packet, Packet::ping(client.ip(), neighbour)] {
            let frame = packet.macs(macs).bytes();
            for prog in [Prog::Ingress, Prog::Xdp] {
                let outcome = rig.run(prog, UPLINK.index, &frame);
                assert_eq!(outcome.verdict, Verdict::Passed, "{case:?} {prog:?}");
                assert!(outcome.passes(prog) && outcome.frame == frame, "{case:?} {prog:?}");
            }
        }
    }
}
