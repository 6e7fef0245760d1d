//! Floods: flows that have not proven themselves give way to each other, and
//! to nobody who has.

use lb_common::tcp::flag;
use lb_common::{V4, V6, Verdict};
use lb_tests::prog::net::{POD_2, Port, UPLINK, UPLINK_2};
use lb_tests::prog::{CROWD, Case, Family, Rig, ServiceSpec};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// Rows of the flow table with this client's address.
fn rows(rig: &Rig, case: Case, client: SocketAddr) -> usize {
    fn of<A: Family>(rig: &Rig, client: SocketAddr) -> usize {
        let flows = rig.flows::<A>();
        flows.iter().filter(|(_, flow)| flow.client.into() == client.ip()).count()
    }
    if case.v6 { of::<V6>(rig, client) } else { of::<V4>(rig, client) }
}

fn all_rows(rig: &Rig, case: Case) -> usize {
    if case.v6 { rig.flows::<V6>().len() } else { rig.flows::<V4>().len() }
}

/// A Service with one backend on this node or another; the backend.
fn install(rig: &mut Rig, case: Case, node: u8) -> SocketAddr {
    rig.reset();
    let backend = case.pod(node, 30, 8080);
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, 30_080)],
        backends: vec![backend],
        ..ServiceSpec::default()
    });
    backend
}

/// First packets from as many clients as may be young.
fn flood(rig: &mut Rig, case: Case, by: Port, to: SocketAddr) {
    begin(rig, case, by, to, 0..CROWD);
}

/// First packets from clients with these numbers.
fn begin(rig: &mut Rig, case: Case, by: Port, to: SocketAddr, numbers: Range<u16>) {
    for n in numbers {
        let client = case.outside(99, 10_000 + n);
        case.enter(rig, by, &case.open(client, to));
    }
}

#[test]
fn a_flood_takes_the_room_of_young_flows_and_of_no_other() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all() {
        for direct in [false, true] {
            let backend = install(&mut rig, case, 1);
            let (vip, before) = (case.vip(1, 80), rig.gave_way());
            let [proven, unanswered, silent] = [20, 21, 22].map(|n| case.pod(1, n, 4000));
            for client in [proven, unanswered, silent] {
                case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
            }
            for client in [proven, silent] {
                let accept = case.accept(backend, client);
                case.leave(&mut rig, POD_2, &accept).returned_from(vip);
            }
            let data = case.data(proven, vip);
            if !case.connects() {
                case.enter(&mut rig, POD_2, &data).forwarded_to(backend);
                rig.age_flows();
            }
            case.enter(&mut rig, POD_2, &data).forwarded_to(backend);
            flood(&mut rig, case, UPLINK, if direct { backend } else { vip });
            let left = [proven, unanswered, silent].map(|client| rows(&rig, case, client));
            assert_eq!(left, [2, 0, 0], "{case:?}, direct {direct}");
            assert_eq!(rig.gave_way() - before, 2, "{case:?}, direct {direct}");
            flood(&mut rig, case, UPLINK, case.vip(1, 80));
            assert_eq!(
                all_rows(&rig, case),
                2 + 2 * usize::from(CROWD),
                "{case:?}, direct {direct}"
            );
            case.enter(&mut rig, POD_2, &data).forwarded_to(backend);
            case.leave(&mut rig, POD_2, &case.data(backend, proven)).returned_from(vip);
        }
    }
}

#[test]
fn a_first_packet_that_comes_again_proves_nothing() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let backend = install(&mut rig, case, 1);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        for _ in 0..2 {
            case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
            case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        }
        flood(&mut rig, case, UPLINK, vip);
        assert_eq!(rows(&rig, case, client), 0, "{case:?}");
    }
}

/// Ends what a client has begun, so that its next first packet begins anew.
fn end(rig: &mut Rig, case: Case, client: SocketAddr, vip: SocketAddr) {
    if case.connects() {
        case.enter(rig, POD_2, &case.segment(client, vip, flag::RST | flag::ACK));
    } else {
        rig.lose_flows::<V4>(|_, flow| IpAddr::from(flow.client) == client.ip());
        rig.lose_flows::<V6>(|_, flow| IpAddr::from(flow.client) == client.ip());
    }
}

/// The place of an earlier flow from the same port is not the new one's.
#[test]
fn a_client_that_begins_again_has_a_place_of_its_own() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all() {
        let backend = install(&mut rig, case, 1);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        end(&mut rig, case, client, vip);
        begin(&mut rig, case, UPLINK, vip, 0..CROWD / 2);
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        // Past the place that the client had first, and not to its second.
        begin(&mut rig, case, UPLINK, vip, CROWD / 2..CROWD);
        case.leave(&mut rig, POD_2, &case.accept(backend, client)).returned_from(vip);
        assert_eq!(rows(&rig, case, client), 2, "{case:?}");
        flood(&mut rig, case, UPLINK, vip);
        assert_eq!(rows(&rig, case, client), 0, "{case:?}");
    }
}

/// Answers that go another way are never seen here.
#[test]
fn who_still_sends_after_a_second_is_there() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all() {
        let backend = install(&mut rig, case, 1);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
        rig.age_flows();
        case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
        flood(&mut rig, case, UPLINK, vip);
        assert_eq!(rows(&rig, case, client), 2, "{case:?}");
    }
}

/// As name servers are asked for both kinds of addresses.
#[test]
fn two_datagrams_at_once_prove_nothing() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all().filter(|case| !case.connects()) {
        let backend = install(&mut rig, case, 1);
        let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
        for _ in 0..2 {
            case.enter(&mut rig, POD_2, &case.data(client, vip)).forwarded_to(backend);
            case.leave(&mut rig, POD_2, &case.data(backend, client)).returned_from(vip);
        }
        flood(&mut rig, case, UPLINK, vip);
        assert_eq!(rows(&rig, case, client), 0, "{case:?}");
    }
}

#[test]
fn a_closed_connection_gives_way_unless_a_port_of_this_node_rests() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        for (remote, proven) in [(false, true), (true, true), (true, false)] {
            let backend = install(&mut rig, case, if remote { 2 } else { 1 });
            let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
            case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
            let open = case.open(client, backend);
            if remote {
                case.leave(&mut rig, UPLINK_2, &open).tuple(Verdict::SourceTranslated);
            }
            for (from_client, flags) in
                [(false, flag::SYN | flag::ACK), (true, flag::ACK), (false, flag::RST | flag::ACK)]
            {
                if from_client && proven {
                    let segment = case.segment(client, front, flags);
                    case.enter(&mut rig, UPLINK, &segment).forwarded_to(backend);
                } else if !from_client {
                    let segment = case.segment(backend, client, flags);
                    case.leave(&mut rig, UPLINK, &segment).returned_from(front);
                }
            }
            flood(&mut rig, case, POD_2, case.vip(1, 80));
            let expected = if remote && proven { 3 } else { 0 };
            let what = format!("{case:?}, remote {remote}, proven {proven}");
            assert_eq!(rows(&rig, case, client), expected, "{what}");
        }
    }
}

#[test]
fn all_rows_of_a_masqueraded_flow_give_way_together() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::all() {
        let backend = install(&mut rig, case, 2);
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        case.enter(&mut rig, UPLINK, &case.open(client, front)).forwarded_to(backend);
        let leaving = case.open(client, backend);
        case.leave(&mut rig, UPLINK_2, &leaving).tuple(Verdict::SourceTranslated);
        assert_eq!(rows(&rig, case, client), 3, "{case:?}");
        flood(&mut rig, case, POD_2, case.vip(1, 80));
        assert_eq!(rows(&rig, case, client), 0, "{case:?}");
    }
}

#[test]
fn a_flood_through_xdp_is_held_as_well() {
    let Some(mut rig) = Rig::take_crowded() else { return };
    for case in Case::ethernet() {
        let backend = install(&mut rig, case, 2);
        let front = case.node(UPLINK, 30_080);
        for n in 0..3 * CROWD {
            case.xdp(&mut rig, UPLINK, &case.open(case.outside(99, 10_000 + n), front));
        }
        let most = 3 * usize::from(CROWD);
        let rows = all_rows(&rig, case);
        assert!((usize::from(CROWD)..=most).contains(&rows), "{case:?}: {rows} rows to {backend}");
    }
}
