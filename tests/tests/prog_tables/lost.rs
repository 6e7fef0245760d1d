//! What a flow survives: rows that the kernel evicted, frontends that moved,
//! an uplink that got its address late, an old run's late packets.

use lb_common::flow::flag as flow_flag;
use lb_common::tcp::flag;
use lb_common::value::{backend_state, frontend_kind};
use lb_common::{Flow, FlowKey, Frontend, Interface, V4, V6, Verdict};
use lb_tests::prog::net::{POD_2, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Family, Installed, Rig, ServiceSpec};
use std::net::SocketAddr;

/// The three rows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Row {
    Forward,
    Reverse,
    Restore,
}

impl Row {
    fn is<A: Family>(self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        match self {
            Self::Forward => *key == flow.forward_key(),
            Self::Reverse => *key == flow.reverse_key(),
            Self::Restore => flow.flags & flow_flag::RESTORE != 0,
        }
    }
}

fn lose(rig: &mut Rig, case: Case, row: Row) {
    let rows = |rig: &Rig| rig.flows::<V4>().len() + rig.flows::<V6>().len();
    let before = rows(rig);
    if case.v6 {
        rig.lose_flows::<V6>(|key, flow| row.is(key, flow));
    } else {
        rig.lose_flows::<V4>(|key, flow| row.is(key, flow));
    }
    assert_eq!(rows(rig), before - 1, "{case:?}: {row:?}");
    // Rows are mended when they are brought up to date: once a second.
    rig.age_flows();
}

fn install(rig: &mut Rig, case: Case, backends: &[SocketAddr]) -> Installed {
    rig.reset();
    rig.install(&case.web(backends))
}

#[test]
fn a_lost_reverse_row_is_made_again_by_the_clients_next_packet() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let backend = case.pod(1, 10, 8080);
        install(&mut rig, case, &[backend]);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        lose(&mut rig, case, Row::Reverse);
        case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
        case.leave(&mut rig, POD_2, &case.data(backend, client)).returned_from(vip);
    }
}

#[test]
fn a_lost_forward_row_is_made_again_by_the_backends_next_packet() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let backends = [30, 31, 32].map(|n| case.pod(1, n, 8080));
        install(&mut rig, case, &backends);
        let step = case.enter(&mut rig, POD_2, &case.open(client, vip));
        let (_, backend) = step.tuple(Verdict::Forwarded);
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        lose(&mut rig, case, Row::Forward);
        case.leave(&mut rig, POD_2, &case.data(backend, client)).returned_from(vip);
        case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
    }
}

#[test]
fn a_lost_restore_row_is_made_again_by_the_clients_next_packet() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        install(&mut rig, case, &[backend]);
        let mut source = None;
        for lost in [false, true] {
            if lost {
                lose(&mut rig, case, Row::Restore);
            }
            case.enter(&mut rig, UPLINK, &case.segment(client, front, flag::SYN))
                .forwarded_to(backend);
            let packet = case.segment(client, backend, flag::SYN);
            let (given, _) =
                case.leave(&mut rig, UPLINK_2, &packet).tuple(Verdict::SourceTranslated);
            assert_eq!(*source.get_or_insert(given), given, "{case:?}: a flow keeps its port");
            case.enter(&mut rig, UPLINK_2, &case.accept(backend, given)).became(
                Verdict::SourceRestored,
                backend,
                client,
            );
            case.leave(&mut rig, UPLINK, &case.accept(backend, client)).returned_from(front);
        }
    }
}

#[test]
fn a_closed_flow_is_not_mended() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        let backend = case.pod(1, 10, 8080);
        install(&mut rig, case, &[backend]);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        case.enter(&mut rig, POD_2, &case.segment(client, vip, flag::RST)).forwarded_to(backend);
        lose(&mut rig, case, Row::Reverse);
        case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
        assert_eq!(rig.flows::<V4>().len() + rig.flows::<V6>().len(), 1, "{case:?}");
    }
}

#[test]
fn datagrams_and_new_connections_follow_a_frontend_that_moves() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, front) = (case.pod(1, 20, 4000), case.node(UPLINK, 30_080));
        let (old, new) = (case.pod(1, 10, 8080), case.pod(1, 11, 8080));
        install(&mut rig, case, &[old]);
        let other = rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(2, 80)],
            backends: vec![new],
            ..ServiceSpec::default()
        });
        case.enter(&mut rig, POD_2, &case.open(client, front)).forwarded_to(old);
        rig.remove_frontend(front, case.proto());
        // Not a Service's any more: the node itself may have the port.
        case.enter(&mut rig, POD_2, &case.open(client, front)).passed();
        let kind = frontend_kind::NODE_PORT;
        let row = Frontend { service: other.id, kind, ..Frontend::default() };
        rig.add_frontend(front, case.proto(), row);
        case.enter(&mut rig, POD_2, &case.open(client, front)).forwarded_to(new);
        case.leave(&mut rig, POD_2, &case.accept(new, client)).returned_from(front);
    }
}

#[test]
fn a_flow_that_began_before_the_uplink_had_an_address_is_translated_once_it_has() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(2, 10, 8080);
        install(&mut rig, case, &[backend]);
        let bare = Interface { snat_v4: 0, snat_v6: [0; 4], ..UPLINK_2.row() };
        rig.set_interface(UPLINK_2.index, bare);
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        case.leave(&mut rig, UPLINK_2, &case.open(client, backend)).passed();
        rig.set_interface(UPLINK_2.index, UPLINK_2.row());
        case.leave(&mut rig, UPLINK_2, &case.open(client, backend))
            .tuple(Verdict::SourceTranslated);
    }
}

/// The port that the old backend is addressed from is reserved towards the old
/// backend only.
#[test]
fn an_old_runs_late_packet_gives_the_new_run_no_port() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backends = [case.pod(2, 10, 8080), case.pod(2, 11, 8080)];
        let rows = install(&mut rig, case, &backends);
        let open = case.open(client, front);
        let (_, old) = case.enter(&mut rig, UPLINK, &open).tuple(Verdict::Forwarded);
        let at = backends.iter().position(|backend| *backend == old).expect("a backend");
        let new = backends[1 - at];
        rig.set_backend_state(rows.backends[at], backend_state::REMOVED);
        case.enter(&mut rig, UPLINK, &open).forwarded_to(new);
        // The first packet was still on its way through the node.
        case.leave(&mut rig, UPLINK, &case.open(client, old)).tuple(Verdict::SourceTranslated);
        let step = case.xdp(&mut rig, UPLINK, &case.data(client, front));
        let (source, to) = step.ends();
        assert_eq!((step.outcome.verdict, to), (Verdict::Forwarded, new), "{}", step.describe());
        let step = case.xdp(&mut rig, UPLINK, &case.accept(new, source));
        assert_eq!(step.outcome.verdict, Verdict::Returned, "{}", step.describe());
        assert_eq!(step.ends(), (front, client), "{}", step.describe());
    }
}
