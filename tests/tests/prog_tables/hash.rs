//! Policies by hash: whichever node, Service address and run of the agent, a
//! client gets the same backend.

use lb_common::Verdict;
use lb_common::value::backend_state;
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use lb_userspace::desired::Policy;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

const POLICIES: [Policy; 2] = [Policy::SourceHash, Policy::Maglev];

/// A Service with a ClusterIP and a node port and backends of these hosts.
fn install(rig: &mut Rig, case: Case, policy: Policy, hosts: &[u8]) -> Installed {
    let installed = rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, 30_080)],
        backends: hosts.iter().map(|host| case.pod(1, *host, 8080)).collect(),
        ..ServiceSpec::default()
    });
    rig.weigh(&installed, policy, &vec![1; hosts.len()], 0);
    installed
}

fn pick(rig: &mut Rig, case: Case, client: SocketAddr, dialled: SocketAddr) -> SocketAddr {
    let step = case.enter(rig, POD_2, &case.open(client, dialled));
    step.tuple(Verdict::Forwarded).1
}

/// Where clients go: some of one address, some of others.
fn picks(rig: &mut Rig, case: Case, dialled: SocketAddr) -> BTreeMap<SocketAddr, SocketAddr> {
    rig.clear_flows();
    let clients = (0..12).map(|n| case.pod(1, 40 + n % 6, 4_000 + u16::from(n)));
    clients.map(|client| (client, pick(rig, case, client, dialled))).collect()
}

#[test]
fn every_node_picks_the_same_backend_for_a_client_on_every_address() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for policy in POLICIES {
            rig.reset();
            install(&mut rig, case, policy, &[30, 31, 32, 33, 34]);
            let here = picks(&mut rig, case, case.vip(1, 80));
            assert_eq!(picks(&mut rig, case, case.node(UPLINK, 30_080)), here, "{case:?} {policy}");
            // Another node: it met other Services before, and these backends
            // in another order.
            rig.reset();
            install(&mut rig, case, Policy::Random, &[50, 51]);
            rig.reset();
            let other =
                ServiceSpec { proto: 6, cluster: vec![case.vip(7, 1)], ..ServiceSpec::default() };
            rig.install(&other);
            install(&mut rig, case, policy, &[33, 30, 34, 32, 31]);
            assert_eq!(picks(&mut rig, case, case.vip(1, 80)), here, "{case:?} {policy}");
        }
    }
}

#[test]
fn source_hash_looks_at_the_address_alone_and_maglev_at_the_port_too() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for policy in POLICIES {
            rig.reset();
            install(&mut rig, case, policy, &[30, 31, 32, 33, 34]);
            let mut of_one = BTreeSet::new();
            let mut of_many = BTreeSet::new();
            for n in 0..30 {
                let one = case.pod(1, 40, 4_000 + u16::from(n));
                of_one.insert(pick(&mut rig, case, one, case.vip(1, 80)));
                let many = case.pod(1, 50 + n, 5_000);
                of_many.insert(pick(&mut rig, case, many, case.vip(1, 80)));
            }
            assert_eq!(of_one.len() == 1, policy == Policy::SourceHash, "{case:?} {policy}");
            assert_eq!(of_many.len(), 5, "{case:?} {policy}");
        }
    }
}

#[test]
fn only_the_clients_of_a_backend_that_has_just_left_go_elsewhere_and_not_all_to_one() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        rig.reset();
        let installed = install(&mut rig, case, Policy::Maglev, &[30, 31, 32, 33, 34]);
        let clients: Vec<_> = (0..200).map(|n| case.pod(1, 40, 4_000 + n)).collect();
        let before: Vec<_> =
            clients.iter().map(|client| pick(&mut rig, case, *client, case.vip(1, 80))).collect();
        rig.clear_flows();
        rig.set_backend_state(installed.backends[0], backend_state::REMOVED);
        let left = case.pod(1, 30, 8080);
        let mut heirs = BTreeSet::new();
        for (client, before) in clients.iter().zip(before) {
            let now = pick(&mut rig, case, *client, case.vip(1, 80));
            if before == left {
                heirs.insert(now);
            } else {
                assert_eq!(now, before, "{case:?}");
            }
        }
        assert!(heirs.len() > 2 && !heirs.contains(&left), "{case:?}: {heirs:?}");
    }
}
