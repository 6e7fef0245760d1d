//! Past the stack: which packets go into a pod's namespace or out by an uplink at
//! once, as what, and which go the usual way.

use lb_common::flow::flag::MASQUERADE;
use lb_common::tcp::flag;
use lb_common::{Flow, Interface, V4, V6, Verdict};
use lb_tests::packet::{Fragment, Packet};
use lb_tests::prog::net::{POD, POD_2, Port, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Family, Installed, Rig, ServiceSpec, Step, action};
use std::net::SocketAddr;

fn client(case: Case) -> SocketAddr {
    case.pod(1, 10, 4000)
}

fn vip(case: Case) -> SocketAddr {
    case.vip(1, 80)
}

fn backend(case: Case) -> SocketAddr {
    case.pod(1, 20, 8080)
}

/// A Service whose backend is a pod of this node, and what comes first of a flow:
/// a packet and its answer, the usual way.
fn begin(rig: &mut Rig, case: Case) -> Installed {
    rig.reset();
    let installed = rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![vip(case)],
        backends: vec![backend(case)],
        ..ServiceSpec::default()
    });
    case.enter(rig, POD, &case.open(client(case), vip(case))).forwarded_to(backend(case));
    let answer = case.accept(backend(case), client(case));
    case.enter(rig, POD_2, &answer).passed();
    case.leave(rig, POD, &answer).returned_from(vip(case));
    installed
}

fn question(case: Case) -> Packet {
    case.data(client(case), vip(case))
}

fn answer(case: Case) -> Packet {
    case.segment(backend(case), client(case), flag::ACK)
}

/// Lets every flow ask for this node's address.
fn masquerade(rig: &mut Rig) {
    fn of<A: Family>(rig: &mut Rig) {
        for (key, flow) in rig.flows::<A>() {
            rig.put_flow(key, Flow { flags: flow.flags | MASQUERADE, ..flow });
        }
    }
    of::<V4>(rig);
    of::<V6>(rig);
}

#[test]
fn an_answered_flow_goes_into_the_pods_at_once() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        let installed = begin(&mut rig, case);
        for _ in 0..2 {
            let step = case.enter(&mut rig, POD, &question(case));
            let macs = POD_2.leaving();
            let (from, to) = (client(case), backend(case));
            step.sent(Verdict::Forwarded, action::TC_REDIRECT, macs, from, to);
            let step = case.enter(&mut rig, POD_2, &answer(case));
            let (macs, to) = (POD.leaving(), client(case));
            step.sent(Verdict::Returned, action::TC_REDIRECT, macs, vip(case), to);
        }
        let counted = rig.service_traffic(installed.id);
        assert_eq!((counted.connections, counted.packets_in, counted.packets_out), (1, 3, 3));
    }
}

/// Both sides' last segments go that way too, and end the flow.
#[test]
fn a_connection_ends_past_the_stack() {
    fn closed<A: Family>(rig: &Rig) -> bool {
        rig.flows::<A>().iter().all(|(_, flow)| lb_common::tcp::is_closed(flow.tcp))
    }
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet().filter(|case| case.connects()) {
        begin(&mut rig, case);
        let last = flag::FIN | flag::ACK;
        let packet = case.segment(client(case), vip(case), last);
        let step = case.enter(&mut rig, POD, &packet);
        let (from, to) = (client(case), backend(case));
        step.sent(Verdict::Forwarded, action::TC_REDIRECT, POD_2.leaving(), from, to);
        let packet = case.segment(backend(case), client(case), last);
        let step = case.enter(&mut rig, POD_2, &packet);
        let to = client(case);
        step.sent(Verdict::Returned, action::TC_REDIRECT, POD.leaving(), vip(case), to);
        assert!(if case.v6 { closed::<V6>(&rig) } else { closed::<V4>(&rig) }, "{case:?}");
    }
}

#[test]
fn what_was_never_answered_goes_through_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        rig.reset();
        rig.install(&case.web(&[backend(case)]));
        case.enter(&mut rig, POD, &case.open(client(case), vip(case))).forwarded_to(backend(case));
        case.enter(&mut rig, POD, &question(case)).forwarded_to(backend(case));
    }
}

#[test]
fn packets_without_a_link_layer_go_through_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::all().filter(|case| case.l3) {
        begin(&mut rig, case);
        case.enter(&mut rig, POD, &question(case)).forwarded_to(backend(case));
        case.enter(&mut rig, POD_2, &answer(case)).passed();
        case.leave(&mut rig, POD, &answer(case)).returned_from(vip(case));
    }
}

#[test]
fn hops_that_end_here_end_in_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        begin(&mut rig, case);
        let last = Packet { ttl: 1, ..question(case) };
        case.enter(&mut rig, POD, &last).forwarded_to(backend(case));
        let last = Packet { ttl: 1, ..answer(case) };
        case.enter(&mut rig, POD_2, &last).passed();
        case.leave(&mut rig, POD, &last).returned_from(vip(case));
    }
}

#[test]
fn an_interface_that_leads_to_no_namespace_is_the_stacks() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        begin(&mut rig, case);
        for port in [POD, POD_2] {
            rig.set_interface(port.index, Interface { peer: 0, ..port.row() });
        }
        case.enter(&mut rig, POD, &question(case)).forwarded_to(backend(case));
        case.enter(&mut rig, POD_2, &answer(case)).passed();
        case.leave(&mut rig, POD, &answer(case)).returned_from(vip(case));
        for port in [POD, POD_2] {
            rig.set_interface(port.index, port.row());
        }
    }
}

/// The backend's edge has something to do for these.
#[test]
fn a_flow_that_needs_this_nodes_address_goes_through_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        begin(&mut rig, case);
        masquerade(&mut rig);
        case.enter(&mut rig, POD, &question(case)).forwarded_to(backend(case));

        // Its own backend.
        rig.reset();
        rig.install(&case.web(&[case.pod(1, 10, 8080)]));
        let to = case.pod(1, 10, 8080);
        case.enter(&mut rig, POD, &case.open(client(case), vip(case))).forwarded_to(to);
        let routed = case.open(client(case), to);
        let (source, _) = case.leave(&mut rig, POD, &routed).tuple(Verdict::SourceTranslated);
        let answer = case.accept(to, source);
        let (from, back) = case.enter(&mut rig, POD, &answer).tuple(Verdict::SourceRestored);
        case.leave(&mut rig, POD, &case.accept(from, back)).returned_from(vip(case));
        case.enter(&mut rig, POD, &question(case)).forwarded_to(to);
    }
}

#[test]
fn fragments_and_strangers_go_through_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        begin(&mut rig, case);
        let other = case.segment(backend(case), case.pod(1, 10, 4001), flag::ACK);
        case.enter(&mut rig, POD_2, &other).passed();
        let outside = case.segment(backend(case), case.outside(1, 4000), flag::ACK);
        case.enter(&mut rig, POD_2, &outside).passed();
        if !case.connects() {
            let fragment = Some(Fragment { offset: 0, len: 800, id: 7 });
            let first = Packet { fragment, ..question(case).payload(&[0x5a; 2000]) };
            case.enter(&mut rig, POD, &first).forwarded_to(backend(case));
        }
    }
}

/// From outside, by an uplink. The answers leave by it, whose edge translates them.
#[test]
fn a_client_outside_reaches_a_pod_past_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        rig.reset();
        rig.install(&case.web(&[backend(case)]));
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let open = case.open(client, front);
        case.enter(&mut rig, UPLINK, &open).forwarded_to(backend(case));
        let accept = case.accept(backend(case), client);
        case.enter(&mut rig, POD_2, &accept).passed();
        case.leave(&mut rig, UPLINK, &accept).returned_from(front);
        let step = case.enter(&mut rig, UPLINK, &case.data(client, front));
        let macs = POD_2.leaving();
        step.sent(Verdict::Forwarded, action::TC_REDIRECT, macs, client, backend(case));
        let answer = case.segment(backend(case), client, flag::ACK);
        let step = case.enter(&mut rig, POD_2, &answer);
        to_neighbour(&step, POD_2, Verdict::Passed, backend(case), client);
        case.leave(&mut rig, UPLINK, &answer).returned_from(front);
    }
}

/// Asserts that the packet goes to the neighbour beyond an uplink, which the kernel
/// gives its link-layer addresses.
#[track_caller]
fn to_neighbour(step: &Step, by: Port, verdict: Verdict, from: SocketAddr, to: SocketAddr) {
    step.sent(verdict, action::TC_REDIRECT, by.entering(), from, to);
}

#[test]
fn a_pod_reaches_another_node_past_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        rig.reset();
        let backend = case.pod(2, 10, 8080);
        rig.install(&case.web(&[backend]));
        let (client, vip) = (client(case), vip(case));
        case.enter(&mut rig, POD, &case.open(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, UPLINK, &case.open(client, backend)).passed();
        let accept = case.accept(backend, client);
        case.enter(&mut rig, UPLINK, &accept).passed();
        case.leave(&mut rig, POD, &accept).returned_from(vip);
        let step = case.enter(&mut rig, POD, &question(case));
        to_neighbour(&step, POD, Verdict::Forwarded, client, backend);
        case.leave(&mut rig, UPLINK, &case.data(client, backend)).passed();
        let step = case.enter(&mut rig, UPLINK, &case.segment(backend, client, flag::ACK));
        step.sent(Verdict::Returned, action::TC_REDIRECT, POD.leaving(), vip, client);
    }
}

/// From one uplink to the other, with this node's address between them.
#[test]
fn a_client_outside_reaches_another_node_past_the_stack() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        rig.reset();
        let backend = case.pod(3, 10, 8080);
        rig.install(&case.web(&[backend]));
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        let routed = case.open(client, backend);
        let (source, _) = case.leave(&mut rig, UPLINK_2, &routed).tuple(Verdict::SourceTranslated);
        let accept = case.accept(backend, source);
        let (_, back) = case.enter(&mut rig, UPLINK_2, &accept).tuple(Verdict::SourceRestored);
        case.leave(&mut rig, UPLINK, &case.accept(backend, back)).returned_from(front);
        let step = case.enter(&mut rig, UPLINK, &case.data(client, front));
        to_neighbour(&step, UPLINK, Verdict::Forwarded, client, backend);
        let routed = case.data(client, backend);
        let left = case.leave(&mut rig, UPLINK_2, &routed);
        assert_eq!(left.tuple(Verdict::SourceTranslated), (source, backend));
        let step = case.enter(&mut rig, UPLINK_2, &case.segment(backend, source, flag::ACK));
        to_neighbour(&step, UPLINK_2, Verdict::SourceRestored, backend, client);
        let answer = case.segment(backend, client, flag::ACK);
        case.leave(&mut rig, UPLINK, &answer).returned_from(front);
    }
}

/// A pod whose packets get this node's address, and their answers straight back.
#[test]
fn an_answer_to_this_nodes_address_goes_into_the_pod_at_once() {
    let Some(mut rig) = Rig::take_skipping() else { return };
    for case in Case::ethernet() {
        rig.reset();
        let backend = case.pod(2, 10, 8080);
        rig.install(&case.web(&[backend]));
        let (client, vip) = (client(case), vip(case));
        case.enter(&mut rig, POD, &case.open(client, vip)).forwarded_to(backend);
        masquerade(&mut rig);
        let routed = case.open(client, backend);
        let (source, _) = case.leave(&mut rig, UPLINK, &routed).tuple(Verdict::SourceTranslated);
        let accept = case.accept(backend, source);
        let (_, back) = case.enter(&mut rig, UPLINK, &accept).tuple(Verdict::SourceRestored);
        case.leave(&mut rig, POD, &case.accept(backend, back)).returned_from(vip);
        let step = case.enter(&mut rig, UPLINK, &case.segment(backend, source, flag::ACK));
        step.sent(Verdict::Returned, action::TC_REDIRECT, POD.leaving(), vip, client);
    }
}
