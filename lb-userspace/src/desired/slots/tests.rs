use super::*;
use clap::ValueEnum as _;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

const IN_TURN: [Policy; 3] = [Policy::RoundRobin, Policy::Random, Policy::LeastConnections];
const BY_HASH: [Policy; 2] = [Policy::SourceHash, Policy::Maglev];

fn share(n: u32, weight: u16) -> Share {
    Share { addr: Ipv4Addr::from(0x0af4_0000 + n).into(), port: 8080, weight }
}

fn shares(weights: impl IntoIterator<Item = u16>) -> Vec<Share> {
    (1..).zip(weights).map(|(n, weight)| share(n, weight)).collect()
}

fn counts(table: &[usize], of: usize) -> Vec<usize> {
    let mut counts = vec![0; of];
    for &index in table {
        counts[index] += 1;
    }
    counts
}

/// Sets as Services have them: some of one weight, some of small ones, some of
/// any, in one or both families.
fn sets(most: usize) -> impl Strategy<Value = Vec<Share>> {
    let weights = prop_oneof![Just(1_u16..2), Just(1_u16..6), Just(1_u16..300)];
    (weights, 2..=most, any::<bool>()).prop_flat_map(|(weights, number, v6)| {
        prop::collection::btree_map(any::<u32>(), weights, number).prop_map(move |set| {
            let share = |(n, weight): (u32, u16)| Share {
                addr: if v6 {
                    Ipv6Addr::from(u128::from(n) << 64).into()
                } else {
                    share(n, 1).addr
                },
                port: 8080,
                weight,
            };
            set.into_iter()
                .map(|(n, weight)| (n & 0xffff, weight))
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .map(share)
                .collect()
        })
    })
}

/// How much of a table names others than before, beside what named the one
/// that left.
fn moved_needlessly(shares: &[Share], leaves: usize) -> f64 {
    let before = compile(Policy::Maglev, shares, 0);
    let mut rest = shares.to_vec();
    rest.remove(leaves);
    let after = compile(Policy::Maglev, &rest, before.len());
    assert_eq!(before.len(), after.len(), "another size moves nearly all");
    let moved = before
        .iter()
        .zip(&after)
        .filter(|(before, after)| **before != leaves && shares[**before] != rest[**after])
        .count();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let fraction = moved as f64 / before.len() as f64;
    fraction
}

#[test]
fn equal_weights_give_each_backend_one_turn() {
    for policy in IN_TURN {
        assert_eq!(compile(policy, &shares([7, 7, 7]), 0), [0, 1, 2]);
        assert_eq!(compile(policy, &[], 0), [0; 0]);
        assert_eq!(compile(policy, &shares([0, 0]), 0), [0; 0]);
    }
}

#[test]
fn turns_of_a_heavy_backend_lie_between_those_of_light_ones() {
    assert_eq!(compile(Policy::RoundRobin, &shares([1, 3, 1, 1]), 0), [1, 0, 1, 2, 1, 3]);
    assert_eq!(compile(Policy::RoundRobin, &shares([2, 0, 4]), 0), [2, 0, 2]);
}

#[test]
fn weights_that_need_too_many_turns_are_rounded() {
    let table = compile(Policy::RoundRobin, &shares([65_535, 65_534, 1]), 0);
    assert_eq!(table.len(), 4_096);
    assert_eq!(counts(&table, 3), [2_048, 2_047, 1]);
    let many = shares((1..=10_000).map(|n| if n == 1 { 65_535 } else { 1 + n % 7 }));
    let table = compile(Policy::Random, &many, 0);
    assert!(table.len() <= 262_144 && counts(&table, many.len()).iter().all(|&n| n > 0));
}

#[test]
fn a_hash_policy_starts_every_table_at_a_size_that_fits_and_keeps_it() {
    for policy in BY_HASH {
        let len = |number, previous| {
            compile(policy, &shares(std::iter::repeat_n(1, number)), previous).len()
        };
        assert_eq!(len(0, 8_171), 0);
        assert_eq!(len(3, 0), 2_039);
        assert_eq!(len(4, 2_039), 8_171);
        assert_eq!(len(3, 8_171), 8_171);
        assert_eq!(len(41, 8_171), 32_717);
        // A segment that another policy left behind is no table.
        assert_eq!(len(3, 5_000), 2_039);
    }
}

#[test]
fn the_greatest_services_take_no_time() {
    let equal = shares(std::iter::repeat_n(1, 10_000));
    let weighted = shares((0..10_000).map(|n| 1 + n % 5));
    for policy in [Policy::RoundRobin, Policy::Maglev] {
        for set in [&equal, &weighted] {
            let begin = Instant::now();
            let table = compile(policy, set, 0);
            // Without optimisation, on a busy machine; otherwise a tenth.
            let took = begin.elapsed();
            println!("{policy}: {} slots in {took:?}", table.len());
            assert!(took < Duration::from_secs(10), "{policy}: {took:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Each backend, at any time, is less than one slot off its share.
    #[test]
    fn turns_are_evenly_spread(weights in prop::collection::vec(1_u16..40, 1..40)) {
        let table = compile(Policy::RoundRobin, &shares(weights.iter().copied()), 0);
        let total: i64 = weights.iter().copied().map(i64::from).sum();
        let mut got = vec![0_i64; weights.len()];
        for (slots, &index) in (1_i64..).zip(&table) {
            got[index] += 1;
            for (got, weight) in got.iter().zip(&weights) {
                let off = got * total - i64::from(*weight) * slots;
                prop_assert!(off.abs() < total, "{off} of {total} after {slots} slots");
            }
        }
        let slots: i64 = got.iter().sum();
        for (got, weight) in got.iter().zip(&weights) {
            prop_assert_eq!(got * total, i64::from(*weight) * slots);
        }
    }

    #[test]
    fn every_backend_has_its_share_to_a_slot(set in sets(100)) {
        let total: usize = set.iter().map(|share| usize::from(share.weight)).sum();
        for policy in [Policy::RoundRobin, Policy::Maglev] {
            let table = compile(policy, &set, 0);
            for (got, share) in counts(&table, set.len()).into_iter().zip(&set) {
                let promised = table.len() * usize::from(share.weight) / total;
                prop_assert!(got.abs_diff(promised) <= 1, "{policy}: {got}, not {promised}");
            }
        }
    }

    /// Nodes must agree, whatever order their sources have.
    #[test]
    fn the_order_of_backends_does_not_matter(set in sets(30), by in any::<prop::sample::Index>()) {
        for policy in Policy::value_variants() {
            let mut turned = set.clone();
            turned.rotate_left(by.index(set.len()));
            let name = |set: &[Share]| -> Vec<Share> {
                compile(*policy, set, 0).into_iter().map(|index| set[index]).collect()
            };
            prop_assert_eq!(name(&set), name(&turned), "{}", policy);
        }
    }

    #[test]
    fn who_leaves_takes_hardly_anybody_along(set in sets(60)) {
        for leaves in 0..set.len().min(8) {
            let moved = moved_needlessly(&set, leaves);
            prop_assert!(moved <= 0.015, "{moved} when {leaves} of {} leaves", set.len());
        }
    }
}
