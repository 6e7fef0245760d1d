//! Least-connections: what counts as open, and who gets the next.

use lb_common::tcp::flag;
use lb_common::value::backend_state;
use lb_common::{Hook, Verdict};
use lb_tests::balance::{Scene, WEIGHTS};
use lb_tests::prog::net::POD_2;
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use lb_userspace::desired::Policy;
use std::net::SocketAddr;

fn install(rig: &mut Rig, case: Case, policy: Policy, weights: &[u16]) -> Installed {
    let backends = (30_u8..).zip(weights).map(|(host, _)| case.pod(1, host, 8080));
    let installed = rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        backends: backends.collect(),
        ..ServiceSpec::default()
    });
    rig.weigh(&installed, policy, weights, 0);
    installed
}

fn open(rig: &mut Rig, case: Case, client: SocketAddr) -> SocketAddr {
    let step = case.enter(rig, POD_2, &case.open(client, case.vip(1, 80)));
    step.tuple(Verdict::Forwarded).1
}

fn counts(rig: &Rig, installed: &Installed) -> Vec<u64> {
    installed.backends.iter().map(|id| rig.open_connections(*id)).collect()
}

fn send(rig: &mut Rig, case: Case, client: SocketAddr, flags: u8) {
    case.enter(rig, POD_2, &case.segment(client, case.vip(1, 80), flags));
}

fn answer(rig: &mut Rig, case: Case, backend: SocketAddr, client: SocketAddr, flags: u8) {
    case.leave(rig, POD_2, &case.segment(backend, client, flags));
}

#[test]
fn a_connection_counts_until_both_sides_have_closed_it_and_no_end_counts_twice() {
    const FIN: u8 = flag::FIN | flag::ACK;
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        rig.reset();
        let installed = install(&mut rig, case, Policy::LeastConnections, &[1]);
        let clients: Vec<_> = (0..4).map(|n| case.pod(1, 20, 4_000 + n)).collect();
        for &client in &clients {
            let backend = open(&mut rig, case, client);
            answer(&mut rig, case, backend, client, flag::SYN | flag::ACK);
            // Again, and data: nothing new.
            open(&mut rig, case, client);
            send(&mut rig, case, client, flag::ACK);
        }
        let backend = case.pod(1, 30, 8080);
        assert_eq!(counts(&rig, &installed), [4], "{case:?}");
        send(&mut rig, case, clients[0], FIN);
        assert_eq!(counts(&rig, &installed), [4], "{case:?}: half closed");
        answer(&mut rig, case, backend, clients[0], FIN);
        send(&mut rig, case, clients[0], flag::ACK);
        assert_eq!(counts(&rig, &installed), [3], "{case:?}");
        answer(&mut rig, case, backend, clients[1], FIN);
        send(&mut rig, case, clients[1], FIN);
        send(&mut rig, case, clients[1], flag::RST);
        answer(&mut rig, case, backend, clients[1], flag::RST);
        assert_eq!(counts(&rig, &installed), [2], "{case:?}");
        answer(&mut rig, case, backend, clients[2], flag::RST | flag::ACK);
        send(&mut rig, case, clients[2], flag::RST);
        assert_eq!(counts(&rig, &installed), [1], "{case:?}");
        // The same ports once more.
        for &client in &clients[..3] {
            open(&mut rig, case, client);
        }
        assert_eq!(counts(&rig, &installed), [4], "{case:?}");
        send(&mut rig, case, clients[0], flag::RST);
        assert_eq!(counts(&rig, &installed), [3], "{case:?}: another run counts anew");
    }
}

#[test]
fn only_services_with_the_policy_count_and_only_their_flows() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let installed = install(&mut rig, case, Policy::RoundRobin, &[1]);
        open(&mut rig, case, case.pod(1, 20, 4_000));
        assert_eq!(counts(&rig, &installed), [0], "{case:?}");
        rig.weigh(&installed, Policy::LeastConnections, &[1], 0);
        open(&mut rig, case, case.pod(1, 20, 4_001));
        assert_eq!(counts(&rig, &installed), [1], "{case:?}");
        // Straight to the backend is none of the Service's.
        let direct = case.open(case.pod(1, 20, 4_002), case.pod(1, 30, 8080));
        case.enter(&mut rig, POD_2, &direct);
        assert_eq!(counts(&rig, &installed), [1], "{case:?}");
        if case.connects() {
            send(&mut rig, case, case.pod(1, 20, 4_002), flag::RST);
            // From the time before: the agent has counted it meanwhile, or not.
            send(&mut rig, case, case.pod(1, 20, 4_000), flag::RST);
            send(&mut rig, case, case.pod(1, 20, 4_001), flag::RST);
            assert_eq!(counts(&rig, &installed), [0], "{case:?}: never below 0");
        }
    }
}

#[test]
fn a_connection_to_whom_had_the_row_before_takes_nothing_from_its_new_owner() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        rig.reset();
        let installed = install(&mut rig, case, Policy::LeastConnections, &[1]);
        open(&mut rig, case, case.pod(1, 20, 4_000));
        rig.give_backend(installed.backends[0], installed.id, 6, case.pod(1, 31, 8080));
        rig.set_open_connections(installed.backends[0], 5);
        send(&mut rig, case, case.pod(1, 20, 4_000), flag::RST);
        assert_eq!(counts(&rig, &installed), [5], "{case:?}");
    }
}

#[test]
fn the_next_connection_goes_where_fewer_are_open_for_the_weight() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let installed = install(&mut rig, case, Policy::LeastConnections, &[1, 4]);
        let heavy = case.pod(1, 31, 8080);
        rig.set_open_connections(installed.backends[0], 100);
        // Of the turn and a random slot, one is the heavy one's in all but one
        // of 25 cases, and then it wins.
        let to_heavy =
            (0..100).filter(|n| open(&mut rig, case, case.pod(1, 20, 4_000 + n)) == heavy).count();
        assert!(to_heavy > 80, "{case:?}: {to_heavy}");
        // As many for its weight: the turns decide.
        rig.clear_flows();
        rig.set_open_connections(installed.backends[0], 1_000_000);
        rig.set_open_connections(installed.backends[1], 4_000_000 - 1);
        let to_heavy =
            (0..100).filter(|n| open(&mut rig, case, case.pod(1, 20, 5_000 + n)) == heavy).count();
        assert!((75..=100).contains(&to_heavy), "{case:?}: {to_heavy}");
        // One that has just left is nobody's choice.
        rig.set_open_connections(installed.backends[1], 0);
        rig.set_backend_state(installed.backends[1], backend_state::REMOVED);
        rig.clear_flows();
        for n in 0..10 {
            assert_ne!(open(&mut rig, case, case.pod(1, 20, 6_000 + n)), heavy, "{case:?}");
        }
    }
}

/// What `cargo xtask bench balance` measures, with fewer connections.
#[test]
fn every_policy_keeps_what_its_weights_promise() {
    let Some(mut rig) = Rig::take() else { return };
    for (policy, most_off) in [
        (Policy::RoundRobin, 1.0),
        (Policy::LeastConnections, 10.0),
        // 1,000 of 6,000 expected at most, standard deviation 29.
        (Policy::Random, 180.0),
        (Policy::SourceHash, 120.0),
        (Policy::Maglev, 120.0),
    ] {
        rig.reset();
        let mut scene = Scene::new(&mut rig, policy, &WEIGHTS);
        let picked = scene.open(0..6_000);
        let shares = scene.shares(&picked);
        assert!(shares.most_off() <= most_off, "{policy}: {shares:?}");
        if policy == Policy::Maglev {
            let disruption = scene.leave(4, &picked);
            assert!(disruption.needless <= 0.015, "{disruption:?}");
            assert!(disruption.unavoidable > 0.1, "{disruption:?}");
        }
        if policy == Policy::LeastConnections {
            assert_eq!(scene.open_shares(), shares);
        }
    }
    assert!(rig.take_verdicts(Hook::Ingress).keys().eq(&["forwarded"]));
}
