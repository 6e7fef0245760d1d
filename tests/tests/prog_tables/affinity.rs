//! Session affinity (rows 62 to 66 of the behaviour table): a client keeps its
//! backend, for every port of its own and every frontend of the Service port.

use lb_common::Verdict;
use lb_common::value::{policy, scope};
use lb_tests::prog::net::{POD_2, Port, UPLINK};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const TIMEOUT: u32 = 100;

fn backends(case: Case) -> Vec<SocketAddr> {
    (0..4).map(|n| case.pod(1, 30 + n, 8080)).collect()
}

fn sticky(rig: &mut Rig, case: Case) -> Installed {
    rig.reset();
    rig.install(&ServiceSpec {
        proto: case.proto(),
        policy: policy::ROUND_ROBIN,
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, 30_080)],
        load_balancer: vec![case.vip(9, 80)],
        external_scope: scope::LOCAL,
        backends: backends(case),
        local: vec![0, 1],
        affinity: TIMEOUT,
        ..ServiceSpec::default()
    })
}

#[track_caller]
fn ask(rig: &mut Rig, case: Case, by: Port, client: SocketAddr, front: SocketAddr) -> SocketAddr {
    case.enter(rig, by, &case.open(client, front)).tuple(Verdict::Forwarded).1
}

#[test]
fn a_client_stays_whatever_its_port_and_whichever_the_frontend() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        sticky(&mut rig, case);
        let client = |port| case.pod(1, 20, port);
        let first = ask(&mut rig, case, POD_2, client(4000), case.vip(1, 80));
        for port in 4001..4016 {
            assert_eq!(ask(&mut rig, case, POD_2, client(port), case.vip(1, 80)), first);
        }
        for front in [case.node(UPLINK, 30_080), case.vip(9, 80)] {
            assert_eq!(ask(&mut rig, case, POD_2, client(5000), front), first, "{case:?}");
        }
        // Others are not drawn along.
        let others: BTreeSet<SocketAddr> = (0..8)
            .map(|n| ask(&mut rig, case, POD_2, case.pod(1, 40 + n, 4000), case.vip(1, 80)))
            .collect();
        assert_eq!(others.len(), 4, "{case:?}");
    }
}

#[test]
fn the_timeout_slides_with_each_connection_and_ends_with_silence() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        sticky(&mut rig, case);
        let mut port = 4000;
        let mut next = |rig: &mut Rig| {
            port += 1;
            ask(rig, case, POD_2, case.pod(1, 20, port), case.vip(1, 80))
        };
        let first = next(&mut rig);
        for _ in 0..3 {
            rig.age_affinity(u64::from(TIMEOUT) - 10);
            assert_eq!(next(&mut rig), first, "{case:?}: each connection begins the time anew");
        }
        rig.age_affinity(u64::from(TIMEOUT) + 1);
        assert_ne!(next(&mut rig), first, "{case:?}: round robin goes on");
    }
}

#[test]
fn a_backend_that_takes_nothing_new_loses_its_clients_at_once() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let rows = sticky(&mut rig, case);
        let client = |port| case.pod(1, 20, port);
        let first = ask(&mut rig, case, POD_2, client(4000), case.vip(1, 80));
        let place = backends(case).iter().position(|addr| *addr == first).expect("one of them");
        rig.set_backend_scopes(rows.backends[place], 0);
        let second = ask(&mut rig, case, POD_2, client(4001), case.vip(1, 80));
        assert_ne!(second, first, "{case:?}");
        // Also when its row is given to another endpoint.
        let place = backends(case).iter().position(|addr| *addr == second).expect("one of them");
        let (id, stranger) = (rows.backends[place], case.pod(1, 99, 8080));
        rig.give_backend(id, rows.id + 1, case.proto(), stranger);
        let third = ask(&mut rig, case, POD_2, client(4002), case.vip(1, 80));
        assert!(third != second && third != stranger, "{case:?}");
    }
}

/// In the scope of this node only its own endpoints count, in both directions.
#[test]
fn a_client_from_outside_never_sticks_to_an_endpoint_of_another_node() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let rows = sticky(&mut rig, case);
        let client = |port| case.outside(7, port);
        // Through the ClusterIP, which has no scope, to one that is not local.
        rig.set_endpoints(rows.id, &rows.backends[2..]);
        let far = ask(&mut rig, case, UPLINK, client(4000), case.vip(1, 80));
        assert!(backends(case)[2..].contains(&far), "{case:?}");
        let near = ask(&mut rig, case, UPLINK, client(4001), case.node(UPLINK, 30_080));
        assert!(backends(case)[..2].contains(&near), "{case:?}");
        // It is good for the other scope, too.
        rig.set_endpoints(rows.id, &rows.backends);
        assert_eq!(ask(&mut rig, case, UPLINK, client(4002), case.vip(1, 80)), near, "{case:?}");
    }
}
