//! The Services of the soak: what they are at a time, and the next change.

use lb_tests::manifest::Service;
use lb_tests::prog::Random;
use lb_tests::topology::Topology;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// How many there are at most.
pub(crate) const COUNT: usize = 6;
/// This one may have no endpoints at times.
const EMPTIES: usize = COUNT - 2;
/// This one may be gone at times.
const GOES: usize = COUNT - 1;

const POLICIES: [&str; 5] = ["round-robin", "random", "source-hash", "maglev", "least-connections"];

/// A Service: its endpoints, as places in the list of backends, and its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) pods: BTreeSet<usize>,
    policy: usize,
}

/// All Services; none for one that does not exist.
pub(crate) type State = [Option<Kept>; COUNT];

/// The pods that are backends: all but the first of each node, which are
/// clients only, and the last, on which faults are tried.
pub(crate) fn backends(topology: &Topology) -> Vec<(usize, usize)> {
    let of = |(node, one): (usize, &lb_tests::topology::Node)| {
        (1..one.pods.len() - 1).map(move |pod| (node, pod)).collect::<Vec<_>>()
    };
    topology.nodes.iter().enumerate().flat_map(of).collect()
}

/// What the soak begins and ends with.
pub(crate) fn first(backends: usize) -> State {
    std::array::from_fn(|index| {
        let pods = (0..3).map(|place| (index + place * 2) % backends).collect();
        Some(Kept { pods, policy: index % POLICIES.len() })
    })
}

/// Changes one thing.
pub(crate) fn change(state: &mut State, random: &mut Random, backends: usize) {
    let before = state.clone();
    while *state == before {
        let index = random.below(COUNT);
        if index == GOES && random.one_in(3) {
            state[index] = match &state[index] {
                Some(_) => None,
                None => first(backends)[index].clone(),
            };
            continue;
        }
        let Some(kept) = &mut state[index] else { continue };
        match random.below(8) {
            0 => kept.policy = random.below(POLICIES.len()),
            1..=3 => {
                kept.pods.insert(random.below(backends));
            }
            4..=6 => {
                let gone = random.below(backends);
                if kept.pods.len() > 1 {
                    kept.pods.remove(&gone);
                }
            }
            _ if index == EMPTIES => kept.pods.clear(),
            _ => kept.pods = [random.below(backends)].into(),
        }
    }
}

/// The name of a Service.
pub(crate) fn name(index: usize) -> String {
    format!("s{index}")
}

/// The name of the Service without endpoints that tells which version of all of
/// them is in force.
pub(crate) fn marker(version: u64) -> String {
    format!("marker-{version}")
}

/// Where a Service answers: to clients of the cluster and to those outside, by
/// HTTP and UDP.
pub(crate) fn describe(index: usize) -> (Service, [u16; 2]) {
    let number = u8::try_from(index).unwrap_or(u8::MAX);
    let [http, udp] = [31_000, 31_100].map(|first| first + u16::from(number));
    (Service::new(&name(index), 20 + number).http(http).udp(udp), [http, udp])
}

/// The manifests.
pub(crate) fn manifests(state: &State, version: u64, topology: &Topology) -> Vec<Service> {
    let backends = backends(topology);
    let mut services = vec![Service::new(&marker(version), 99).http(0)];
    for (index, kept) in state.iter().enumerate() {
        let Some(kept) = kept else { continue };
        let pods = kept.pods.iter().map(|pod| {
            let (node, pod) = backends[*pod];
            (&topology.nodes[node], &topology.nodes[node].pods[pod])
        });
        services.push(describe(index).0.policy(POLICIES[kept.policy]).endpoints(pods));
    }
    services
}

/// The addresses of a Service for clients in pods, by HTTP and UDP.
pub(crate) fn inside(index: usize) -> [[SocketAddr; 2]; 2] {
    let service = describe(index).0;
    [service.http_addresses(), service.udp_addresses()]
}
