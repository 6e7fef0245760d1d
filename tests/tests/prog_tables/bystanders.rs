//! What is no Service's, from and to ports of the node that are: connections of
//! its own processes, and what others on the node translated. (Test runs without
//! a MAC header can't have the node's address as the source.)

use lb_common::tcp::flag;
use lb_common::value::{frontend_kind, policy};
use lb_common::{Frontend, Verdict};
use lb_tests::prog::net::{POD_2, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use std::net::SocketAddr;

fn install(rig: &mut Rig, case: Case) -> Installed {
    rig.reset();
    rig.install(&case.web(&[backend(case)]))
}

fn backend(case: Case) -> SocketAddr {
    case.pod(1, 10, 8080)
}

/// Whom the node talks to.
fn peer(case: Case, port: u16) -> SocketAddr {
    case.outside(7, port)
}

fn node_port(case: Case) -> SocketAddr {
    case.node(UPLINK, 30_080)
}

#[test]
fn answers_to_what_the_node_sends_from_a_node_port_are_not_for_the_service() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        install(&mut rig, case);
        let (node, peer) = (node_port(case), peer(case, 443));
        // By whichever interface each way goes.
        case.leave(&mut rig, UPLINK, &case.open(node, peer)).passed();
        case.enter(&mut rig, UPLINK_2, &case.accept(peer, node)).passed();
        for _ in 0..3 {
            case.leave(&mut rig, UPLINK, &case.data(node, peer)).passed();
            case.enter(&mut rig, UPLINK, &case.data(peer, node)).passed();
        }
        case.xdp(&mut rig, UPLINK, &case.data(peer, node)).unchanged(Verdict::HandedOver);
        // Others from there are the Service's clients.
        let client = self::peer(case, 444);
        case.enter(&mut rig, UPLINK, &case.open(client, node)).forwarded_to(backend(case));
    }
}

#[test]
fn when_the_nodes_connection_is_over_the_port_is_the_services_again() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        install(&mut rig, case);
        let (node, peer) = (node_port(case), peer(case, 443));
        case.leave(&mut rig, UPLINK, &case.open(node, peer)).passed();
        case.enter(&mut rig, UPLINK, &case.accept(peer, node)).passed();
        case.enter(&mut rig, UPLINK, &case.open(peer, node)).passed();
        if case.connects() {
            let fin = flag::FIN | flag::ACK;
            case.leave(&mut rig, UPLINK, &case.segment(node, peer, fin)).passed();
            case.enter(&mut rig, UPLINK, &case.segment(peer, node, fin)).passed();
        } else {
            rig.clear_flows();
        }
        case.enter(&mut rig, UPLINK, &case.open(peer, node)).forwarded_to(backend(case));
        // And a client's connection is not taken from it.
        case.leave(&mut rig, UPLINK, &case.data(node, peer)).passed();
        case.enter(&mut rig, UPLINK, &case.data(peer, node)).forwarded_to(backend(case));
    }
}

/// The node refuses what comes to a closed port, and that is no connection.
#[test]
fn a_reset_from_the_node_opens_nothing() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet().filter(|case| case.connects()) {
        install(&mut rig, case);
        let (node, peer) = (node_port(case), peer(case, 4000));
        let reset = case.segment(node, peer, flag::RST | flag::ACK);
        case.leave(&mut rig, UPLINK, &reset).passed();
        case.enter(&mut rig, UPLINK, &case.open(peer, node)).forwarded_to(backend(case));
    }
}

#[test]
fn what_answers_something_begins_no_flow_where_others_have_ports() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let rows = install(&mut rig, case);
        let kind = frontend_kind::EXTERNAL_IP;
        let external = case.outside(80, 80);
        let frontend = Frontend { service: rows.id, kind, ..Frontend::default() };
        rig.add_frontend(external, case.proto(), frontend);
        for front in [node_port(case), external] {
            for flags in [flag::SYN | flag::ACK, flag::RST, flag::RST | flag::ACK] {
                let packet = case.segment(peer(case, 443), front, flags);
                case.enter(&mut rig, UPLINK, &packet).passed();
                case.enter(&mut rig, POD_2, &packet).passed();
            }
        }
        assert_eq!(rig.service_traffic(rows.id).connections, 0, "{case:?}");
    }
}

/// A client of a host has a connection with it, and then a Service gets the
/// host's address. Only policies by which each node picks the same backend may
/// have to go on with a flow of another node.
#[test]
fn what_was_there_before_an_external_address_goes_on() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        for (policy, goes_on) in [
            (policy::ROUND_ROBIN, true),
            (policy::LEAST_CONNECTIONS, true),
            (policy::MAGLEV, false),
            (policy::SOURCE_HASH, false),
        ] {
            rig.reset();
            let rows = rig.install(&ServiceSpec { policy, ..case.web(&[backend(case)]) });
            let kind = frontend_kind::EXTERNAL_IP;
            let external = case.outside(80, 80);
            let frontend = Frontend { service: rows.id, kind, ..Frontend::default() };
            rig.add_frontend(external, case.proto(), frontend);
            let client = case.pod(1, 20, 4000);
            let step = case.enter(&mut rig, POD_2, &case.data(client, external));
            if goes_on {
                step.passed();
            } else {
                step.forwarded_to(backend(case));
            }
            let open = case.open(case.pod(1, 20, 4001), external);
            case.enter(&mut rig, POD_2, &open).forwarded_to(backend(case));
        }
    }
}

/// Where no socket of the node has it, it is a flow that was forgotten.
#[test]
fn a_flow_of_a_node_port_that_was_forgotten_begins_anew() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, case);
        let packet = case.data(peer(case, 4000), node_port(case));
        case.enter(&mut rig, UPLINK, &packet).forwarded_to(backend(case));
    }
}
