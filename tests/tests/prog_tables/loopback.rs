//! Node ports on loopback addresses are for sockets of the node alone.

use lb_common::Frontend;
use lb_common::value::frontend_kind;
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Rig, ServiceSpec};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

#[test]
fn a_packet_from_outside_to_a_loopback_node_port_is_not_ours() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let own = case.node(UPLINK, 30_080);
        let loopback: SocketAddr = if own.is_ipv4() {
            (Ipv4Addr::LOCALHOST, 30_080).into()
        } else {
            (Ipv6Addr::LOCALHOST, 30_080).into()
        };
        let service = rig.install(&ServiceSpec {
            proto: case.proto(),
            backends: vec![case.pod(1, 30, 8080)],
            ..ServiceSpec::default()
        });
        let kind = frontend_kind::NODE_PORT;
        let row = Frontend { service: service.id, kind, ..Frontend::default() };
        // Whatever the address: it is the place of the row that counts.
        for to in [loopback, own] {
            rig.add_loopback(to, case.proto(), row);
            for (from, by) in
                [(case.outside(7, 4000), UPLINK), (case.pod(1, 20, 4000), POD_2), (own, UPLINK)]
            {
                let packet = case.open(from, to);
                case.enter(&mut rig, by, &packet).passed();
                case.leave(&mut rig, by, &packet).passed();
                if !case.l3 {
                    let step = case.xdp(&mut rig, by, &packet);
                    assert!(step.outcome.passes(step.prog), "{}", step.describe());
                    assert!(step.outcome.frame == step.packet.bytes(), "{}", step.describe());
                }
            }
        }
    }
}
