//! Which backend a new flow gets.

use lb_common::Verdict;
use lb_common::value::{backend_state, policy};
use lb_tests::prog::net::POD_2;
use lb_tests::prog::{Case, Rig, ServiceSpec};
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn backends(case: Case, number: u8) -> Vec<SocketAddr> {
    (0..number).map(|n| case.pod(1, 30 + n, 8080)).collect()
}

/// Opens flows from successive ports, and says where each went.
fn open(rig: &mut Rig, case: Case, ports: std::ops::Range<u16>) -> Vec<SocketAddr> {
    ports
        .map(|port| {
            let packet = case.open(case.pod(1, 20, port), case.vip(1, 80));
            let step = case.enter(rig, POD_2, &packet);
            let (source, backend) = step.tuple(Verdict::Forwarded);
            assert_eq!(source, packet.src, "{}", step.describe());
            backend
        })
        .collect()
}

#[test]
fn round_robin_takes_the_slots_in_turn() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for number in [1, 2, 3, 7] {
            let slots = backends(case, number);
            rig.install(&ServiceSpec {
                proto: case.proto(),
                policy: policy::ROUND_ROBIN,
                cluster: vec![case.vip(1, 80)],
                backends: slots.clone(),
                ..ServiceSpec::default()
            });
            rig.clear_flows();
            let picked = open(&mut rig, case, 4000..4000 + 3 * u16::from(number));
            let start = slots.iter().position(|slot| *slot == picked[0]).expect("a backend");
            for (n, backend) in picked.iter().enumerate() {
                assert_eq!(*backend, slots[(start + n) % slots.len()], "{case:?}, flow {n}");
            }
        }
    }
}

#[test]
fn a_packet_of_a_flow_takes_no_turn() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let slots = backends(case, 2);
        rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(1, 80)],
            backends: slots,
            ..ServiceSpec::default()
        });
        rig.clear_flows();
        let first = open(&mut rig, case, 4000..4001)[0];
        for _ in 0..3 {
            assert_eq!(open(&mut rig, case, 4000..4001)[0], first, "{case:?}");
        }
        assert_ne!(open(&mut rig, case, 4001..4002)[0], first, "{case:?}");
    }
}

#[test]
fn random_reaches_every_backend_about_as_often() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let slots = backends(case, 4);
        rig.install(&ServiceSpec {
            proto: case.proto(),
            policy: policy::RANDOM,
            cluster: vec![case.vip(1, 80)],
            backends: slots.clone(),
            ..ServiceSpec::default()
        });
        rig.clear_flows();
        let picked = open(&mut rig, case, 4000..4400);
        let mut counts = BTreeMap::new();
        for backend in &picked {
            *counts.entry(*backend).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), slots.len(), "{case:?}: {counts:?}");
        // 100 expected, standard deviation 8.7: six of them off is one run in
        // five hundred million.
        assert!(counts.values().all(|n| (48..=152).contains(n)), "{case:?}: {counts:?}");
        let in_turn = picked.windows(2).filter(|pair| pair[0] == pair[1]).count();
        assert!(in_turn > 40, "{case:?}: {in_turn} of 399 repeats: that is no random order");
    }
}

/// The agent switches the segment a moment after it changes the backend's row.
#[test]
fn a_slot_whose_backend_has_just_left_is_skipped() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for policy in [policy::ROUND_ROBIN, policy::RANDOM] {
            let slots = backends(case, 3);
            let rows = rig.install(&ServiceSpec {
                proto: case.proto(),
                policy,
                cluster: vec![case.vip(1, 80)],
                backends: slots.clone(),
                ..ServiceSpec::default()
            });
            rig.clear_flows();
            rig.set_backend_state(rows.backends[0], backend_state::REMOVED);
            rig.set_backend_state(rows.backends[1], backend_state::TERMINATING);
            for backend in open(&mut rig, case, 4000..4010) {
                assert_eq!(backend, slots[2], "{case:?}");
            }
        }
    }
}

#[test]
fn a_new_segment_is_in_force_at_once() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let slots = backends(case, 4);
        let rows = rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(1, 80)],
            backends: slots.clone(),
            ..ServiceSpec::default()
        });
        rig.clear_flows();
        open(&mut rig, case, 4000..4004);
        rig.set_endpoints(rows.id, &rows.backends[2..3]);
        for backend in open(&mut rig, case, 4010..4014) {
            assert_eq!(backend, slots[2], "{case:?}");
        }
        rig.set_endpoints(rows.id, &[]);
        let packet = case.open(case.pod(1, 20, 4020), case.vip(1, 80));
        let step = case.enter(&mut rig, POD_2, &packet);
        assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
    }
}
