//! Which endpoints of a Service port get new flows: the rules of kube-proxy
//! (`CategorizeEndpoints` of pkg/proxy/topology.go, KEP-1669, KEP-2433), for each
//! family and scope by itself. Pure.

use std::net::IpAddr;

use super::{DesiredBackend, Scope, Takes};
use crate::model::Conditions;

/// An endpoint, of a slice or a Pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: u16,
    /// Its condition.
    pub conditions: Conditions,
    /// Whether it is on this node.
    pub local: bool,
    /// Whether its hints name this node; none without such hints.
    pub for_node: Option<bool>,
    /// Whether its hints name this node's zone; none without such hints.
    pub for_zone: Option<bool>,
    /// Its share of new flows, relative to the others'.
    pub weight: u16,
}

/// Chooses among candidates of both families; `local` says whether the Service
/// has clients that may get endpoints of this node only. Who serves but is not
/// chosen is there too: it keeps the datagram flows that it has.
pub(super) fn choose(mut candidates: Vec<Candidate>, local: bool) -> Vec<DesiredBackend> {
    // An address and port can be there twice: in two slices while an endpoint
    // moves, or when a new Pod has the address of one that is still ending. Then
    // the one that is not ending counts.
    candidates.sort_unstable_by_key(|one| {
        let Conditions { ready, serving, terminating } = one.conditions;
        let hints = (one.for_node, one.for_zone);
        (one.addr, one.port, terminating, !ready, !serving, !one.local, hints, one.weight)
    });
    candidates.dedup_by_key(|one| (one.addr, one.port));
    let (v4, v6): (Vec<_>, Vec<_>) = candidates.into_iter().partition(|one| one.addr.is_ipv4());
    [v4, v6].into_iter().flat_map(|family| of_family(&family, local)).collect()
}

fn of_family(candidates: &[Candidate], local: bool) -> Vec<DesiredBackend> {
    let closest = Closest::of(candidates);
    let anywhere = Rule::of(candidates.iter());
    let here = Rule::of(candidates.iter().filter(|one| one.local));
    let backend = |one: &Candidate| {
        let mut scopes = 0;
        if anywhere.admits(one) && closest.admits(one) {
            scopes |= 1 << Scope::Cluster.number();
        }
        if local && one.local && here.admits(one) {
            scopes |= 1 << Scope::Local.number();
        }
        let Conditions { ready, serving, terminating } = one.conditions;
        let takes = match (scopes != 0, ready, serving, terminating) {
            (true, ..) if one.weight == 0 => Takes::Draining,
            (true, ..) => Takes::New,
            (false, true, ..) => Takes::Farther,
            (false, false, true, true) => Takes::Terminating,
            (false, false, true, false) => Takes::NotReady,
            (false, false, false, _) => return None,
        };
        if takes == Takes::Draining {
            scopes = 0;
        }
        let Candidate { addr, port, local, weight, .. } = *one;
        Some(DesiredBackend { addr, port, takes, scopes, local, weight })
    };
    candidates.iter().filter_map(backend).collect()
}

/// Which condition a scope asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// Ready.
    Ready,
    /// Ending and still serving: nobody is ready.
    Ending,
}

impl Rule {
    fn of<'a>(mut candidates: impl Iterator<Item = &'a Candidate>) -> Self {
        if candidates.any(|one| one.conditions.ready) { Self::Ready } else { Self::Ending }
    }

    const fn admits(self, one: &Candidate) -> bool {
        let Conditions { ready, serving, terminating } = one.conditions;
        match self {
            Self::Ready => ready,
            Self::Ending => serving && terminating,
        }
    }
}

/// How close an endpoint must be. A level counts only if all ready endpoints
/// have a hint of it and one names this node, or its zone; with nobody ready,
/// none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closest {
    Node,
    Zone,
    Anywhere,
}

impl Closest {
    fn of(candidates: &[Candidate]) -> Self {
        let ready = || candidates.iter().filter(|one| one.conditions.ready);
        let counts = |hint: fn(&Candidate) -> Option<bool>| {
            ready().all(|one| hint(one).is_some()) && ready().any(|one| hint(one) == Some(true))
        };
        if counts(|one| one.for_node) {
            Self::Node
        } else if counts(|one| one.for_zone) {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    fn admits(self, one: &Candidate) -> bool {
        match self {
            Self::Node => one.for_node == Some(true),
            Self::Zone => one.for_zone == Some(true),
            Self::Anywhere => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CLUSTER: u8 = 1;
    const LOCAL: u8 = 2;

    fn candidate() -> impl Strategy<Value = Candidate> {
        let hint = || prop_oneof![3 => Just(Some(true)), 2 => Just(Some(false)), 1 => Just(None)];
        (any::<bool>(), 1_u8..4, 1_u16..3, any::<[bool; 4]>(), hint(), hint()).prop_map(
            |(v4, host, port, [ready, serving, terminating, local], for_node, for_zone)| {
                let addr = if v4 {
                    IpAddr::from([10, 0, 0, host])
                } else {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)])
                };
                let conditions = Conditions { ready, serving, terminating };
                Candidate { addr, port, conditions, local, for_node, for_zone, weight: 1 }
            },
        )
    }

    /// The rules once more, for one family without duplicates, as the behaviour
    /// table has them: the places of those that take new flows, for both scopes.
    fn by_the_book(all: &[Candidate]) -> [Vec<(IpAddr, u16)>; 2] {
        let places =
            |list: Vec<&Candidate>| list.into_iter().map(|one| (one.addr, one.port)).collect();
        let ready: Vec<&Candidate> = all.iter().filter(|one| one.conditions.ready).collect();
        let ending = |one: &&Candidate| one.conditions.serving && one.conditions.terminating;
        let all_node = ready.iter().all(|one| one.for_node.is_some());
        let all_zone = ready.iter().all(|one| one.for_zone.is_some());
        let node: Vec<_> = ready.iter().copied().filter(|one| one.for_node == Some(true)).collect();
        let zone: Vec<_> = ready.iter().copied().filter(|one| one.for_zone == Some(true)).collect();
        let cluster = if ready.is_empty() {
            all.iter().filter(ending).collect()
        } else if all_node && !node.is_empty() {
            node
        } else if all_zone && !zone.is_empty() {
            zone
        } else {
            ready.clone()
        };
        let mut local: Vec<_> = ready.into_iter().filter(|one| one.local).collect();
        if local.is_empty() {
            local = all.iter().filter(ending).filter(|one| one.local).collect();
        }
        [places(cluster), places(local)]
    }

    proptest! {
        #[test]
        fn the_choice_follows_the_rules_for_any_set(
            candidates in prop::collection::btree_map(1_u8..9, candidate(), 0..9),
        ) {
            let family: Vec<Candidate> = candidates
                .into_iter()
                .map(|(host, one)| Candidate { addr: IpAddr::from([10, 0, 0, host]), ..one })
                .collect();
            let chosen = choose(family.clone(), true);
            let taking = |scope: Scope| -> Vec<_> {
                chosen.iter().filter(|b| b.serves(scope)).map(|b| (b.addr, b.port)).collect()
            };
            for (scope, mut expected) in Scope::ALL.into_iter().zip(by_the_book(&family)) {
                expected.sort_unstable();
                prop_assert_eq!(taking(scope), expected, "{:?}", scope);
            }
            // Whoever serves has a row; nobody else has.
            for one in &family {
                let has_row = chosen.iter().any(|b| (b.addr, b.port) == (one.addr, one.port));
                prop_assert_eq!(has_row, one.conditions.ready || one.conditions.serving);
            }
            let only_cluster = choose(family, false);
            prop_assert!(only_cluster.iter().all(|backend| backend.scopes & LOCAL == 0));
        }

        #[test]
        fn the_order_in_which_slices_come_does_not_matter(
            candidates in prop::collection::vec(candidate(), 1..12),
            seed in any::<prop::sample::Index>(),
        ) {
            let chosen = choose(candidates.clone(), true);
            let places: Vec<_> = chosen.iter().map(|one| (one.addr, one.port)).collect();
            prop_assert!(places.is_sorted_by(|a, b| a < b));
            let mut rotated = candidates;
            let len = rotated.len();
            rotated.rotate_left(seed.index(len));
            prop_assert_eq!(choose(rotated, true), chosen);
        }
    }

    fn pod(host: u8, conditions: [bool; 3], local: bool) -> Candidate {
        let [ready, serving, terminating] = conditions;
        Candidate {
            addr: IpAddr::from([10, 0, 0, host]),
            port: 80,
            conditions: Conditions { ready, serving, terminating },
            local,
            for_node: None,
            for_zone: None,
            weight: 1,
        }
    }

    const READY: [bool; 3] = [true, true, false];
    const ENDING: [bool; 3] = [false, true, true];
    const GONE: [bool; 3] = [false, false, true];

    fn scopes(candidates: Vec<Candidate>) -> Vec<(u8, Takes)> {
        choose(candidates, true).into_iter().map(|one| (one.scopes, one.takes)).collect()
    }

    #[test]
    fn local_and_cluster_fall_back_independently() {
        // Only a remote pod is ready; the local one is ending (rows 2 and 3).
        let expected = [(CLUSTER, Takes::New), (LOCAL, Takes::New)];
        assert_eq!(scopes(vec![pod(1, READY, false), pod(2, ENDING, true)]), expected);
        // Ending without passing its probe: never, not even as the last (row 4).
        assert_eq!(scopes(vec![pod(1, GONE, true)]), []);
        // Beside a ready one on this node, an ending one gets nothing new.
        let expected = [(CLUSTER | LOCAL, Takes::New), (0, Takes::Terminating)];
        assert_eq!(scopes(vec![pod(1, READY, true), pod(2, ENDING, true)]), expected);
    }

    #[test]
    fn a_new_pod_with_the_address_of_one_that_ends_counts() {
        let candidates = vec![pod(1, ENDING, true), pod(1, READY, false)];
        assert_eq!(scopes(candidates), [(CLUSTER, Takes::New)]);
    }

    #[test]
    fn a_weight_of_0_drains_and_is_no_reason_to_fall_back() {
        let drained = Candidate { weight: 0, ..pod(1, READY, true) };
        let expected = [(0, Takes::Draining), (CLUSTER | LOCAL, Takes::New)];
        assert_eq!(scopes(vec![drained, pod(2, READY, true)]), expected);
        let expected = [(0, Takes::Draining), (0, Takes::Terminating)];
        assert_eq!(scopes(vec![drained, pod(2, ENDING, true)]), expected);
    }

    #[test]
    fn one_endpoint_without_a_hint_disables_that_level() {
        let zoned = |host, zone| Candidate { for_zone: zone, ..pod(host, READY, false) };
        let near = zoned(1, Some(true));
        let far = zoned(2, Some(false));
        assert_eq!(scopes(vec![near, far]), [(CLUSTER, Takes::New), (0, Takes::Farther)]);
        let all = [(CLUSTER, Takes::New); 3];
        assert_eq!(scopes(vec![near, far, zoned(3, None)]), all);
        // Nobody in this zone: everybody.
        assert_eq!(scopes(vec![far, zoned(3, Some(false))]), all[..2]);
        // An ending endpoint's hint, or lack of one, says nothing.
        let ending = Candidate { for_zone: None, ..pod(4, ENDING, false) };
        let expected = [(CLUSTER, Takes::New), (0, Takes::Farther), (0, Takes::Terminating)];
        assert_eq!(scopes(vec![near, far, ending]), expected);
    }
}
