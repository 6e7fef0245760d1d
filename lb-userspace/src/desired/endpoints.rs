//! The endpoints of a Service port: from its EndpointSlices, or from the Pods
//! that its selector matches if nobody wrote any slice for it, as the cluster's
//! controller would.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{BackendState, DesiredBackend};
use crate::model::{AddressFamily, Conditions, EndpointSlice, Objects, Pod, Service, ServicePort};

/// Finds endpoints without going through all objects for each Service.
#[derive(Debug)]
pub(super) struct Endpoints<'a> {
    objects: &'a Objects,
    node_name: Option<&'a str>,
    /// Slices by namespace and Service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    /// Pods by namespace, label and value; made when the first Service asks.
    pods: Option<HashMap<PodLabel<'a>, Vec<&'a Pod>>>,
}

type PodLabel<'a> = (&'a str, &'a str, &'a str);

/// An endpoint of whichever origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    addr: IpAddr,
    port: u16,
    conditions: Conditions,
    local: bool,
}

impl<'a> Endpoints<'a> {
    pub(super) fn new(objects: &'a Objects, node_name: Option<&'a str>) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in objects.endpoint_slices.values().map(|sourced| &*sourced.object) {
            if let Some(service) = &slice.service {
                let key = (slice.name.namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        Self { objects, node_name, slices, pods: None }
    }

    /// The backends of one port, sorted, each once.
    pub(super) fn backends(
        &mut self,
        service: &Service,
        port: &ServicePort,
    ) -> Vec<DesiredBackend> {
        let key = (service.name.namespace.as_str(), service.name.name.as_str());
        let mut candidates = Vec::new();
        if let Some(slices) = self.slices.get(&key) {
            for slice in slices {
                self.add_slice(slice, service, port, &mut candidates);
            }
        } else if !service.selector.is_empty() {
            for pod in self.pods(service) {
                self.add_pod(pod, service, port, &mut candidates);
            }
        }
        select(candidates)
    }

    fn add_slice(
        &self,
        slice: &EndpointSlice,
        service: &Service,
        port: &ServicePort,
        candidates: &mut Vec<Candidate>,
    ) {
        let wanted = slice.family.is_some_and(|family| has_family(service, family));
        if slice.headless || !wanted {
            return;
        }
        let same = slice
            .ports
            .iter()
            .find(|other| other.name == port.name && other.protocol == port.protocol);
        if let Some(same) = same {
            candidates.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                addr: endpoint.addr,
                port: same.port,
                conditions: endpoint.conditions,
                local: self.is_local(endpoint.node.as_deref()),
            }));
        }
    }

    /// The conditions are those that the EndpointSlice controller would write.
    fn add_pod(
        &self,
        pod: &Pod,
        service: &Service,
        port: &ServicePort,
        candidates: &mut Vec<Candidate>,
    ) {
        let Some(number) = pod.port(&port.target, port.protocol) else {
            return;
        };
        let addresses =
            pod.addresses.iter().filter(|addr| has_family(service, AddressFamily::of(**addr)));
        let conditions = Conditions {
            ready: service.publish_not_ready_addresses || (pod.ready && !pod.terminating),
            serving: pod.ready,
            terminating: pod.terminating,
        };
        let local = self.is_local(pod.node.as_deref());
        candidates.extend(addresses.map(|&addr| Candidate {
            addr,
            port: number,
            conditions,
            local,
        }));
    }

    /// Pods that the Service selects and that can have endpoints.
    fn pods(&mut self, service: &Service) -> Vec<&'a Pod> {
        let objects = self.objects;
        let index = self.pods.get_or_insert_with(|| index_pods(objects));
        let namespace = service.name.namespace.as_str();
        let mut rarest: Option<&Vec<&Pod>> = None;
        for (label, value) in &service.selector {
            match index.get(&(namespace, label.as_str(), value.as_str())) {
                None => return Vec::new(),
                Some(pods) if rarest.is_none_or(|rarest| pods.len() < rarest.len()) => {
                    rarest = Some(pods);
                }
                Some(_) => {}
            }
        }
        let selected = |pod: &Pod| {
            service.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
        };
        rarest.into_iter().flatten().copied().filter(|pod| selected(pod)).collect()
    }

    fn is_local(&self, node: Option<&str>) -> bool {
        node.is_some() && node == self.node_name
    }
}

fn index_pods(objects: &Objects) -> HashMap<PodLabel<'_>, Vec<&Pod>> {
    let mut index: HashMap<_, Vec<_>> = HashMap::new();
    let pods = objects.pods.values().map(|sourced| &*sourced.object);
    for pod in pods.filter(|pod| !pod.finished) {
        for (label, value) in &pod.labels {
            let key = (pod.name.namespace.as_str(), label.as_str(), value.as_str());
            index.entry(key).or_default().push(pod);
        }
    }
    index
}

/// A Service serves the families of its own addresses only.
fn has_family(service: &Service, family: AddressFamily) -> bool {
    service.cluster_ips.iter().any(|addr| AddressFamily::of(*addr) == family)
}

/// Who gets traffic: per family, the ready endpoints; if there is none, those
/// that still work while they end. Beside ready ones, these keep their flows.
fn select(mut candidates: Vec<Candidate>) -> Vec<DesiredBackend> {
    // An address and port can be there twice: in two slices while an endpoint
    // moves, or when a new Pod has the address of one that is still ending. Then
    // the one that is not ending counts.
    candidates.sort_unstable_by_key(|one| {
        let Conditions { ready, serving, terminating } = one.conditions;
        (one.addr, one.port, terminating, !ready, !serving, !one.local)
    });
    candidates.dedup_by_key(|one| (one.addr, one.port));
    let any_ready =
        |v4: bool| candidates.iter().any(|one| one.conditions.ready && one.addr.is_ipv4() == v4);
    let (ready_v4, ready_v6) = (any_ready(true), any_ready(false));
    let backend = |one: &Candidate| {
        let any_ready = if one.addr.is_ipv4() { ready_v4 } else { ready_v6 };
        let Conditions { ready, serving, terminating } = one.conditions;
        let ending = serving && terminating;
        let state = if ready || (ending && !any_ready) {
            BackendState::Active
        } else if ending {
            BackendState::Terminating
        } else {
            return None;
        };
        Some(DesiredBackend { addr: one.addr, port: one.port, state, local: one.local })
    };
    candidates.iter().filter_map(backend).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate() -> impl Strategy<Value = Candidate> {
        (any::<bool>(), 1_u8..4, 1_u16..3, any::<[bool; 4]>()).prop_map(
            |(v4, host, port, [ready, serving, terminating, local])| {
                let addr = if v4 {
                    IpAddr::from([10, 0, 0, host])
                } else {
                    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)])
                };
                let conditions = Conditions { ready, serving, terminating };
                Candidate { addr, port, conditions, local }
            },
        )
    }

    /// What counts for an address and port: whether it is ready, and whether it
    /// still works while it ends.
    fn facts(candidates: &[Candidate], addr: IpAddr, port: u16) -> Option<(bool, bool)> {
        let same: Vec<_> =
            candidates.iter().filter(|one| (one.addr, one.port) == (addr, port)).collect();
        let going = same.iter().all(|one| one.conditions.terminating);
        let counting: Vec<_> =
            same.into_iter().filter(|one| one.conditions.terminating == going).collect();
        let ready = counting.iter().any(|one| one.conditions.ready);
        let ending = going
            && counting.iter().any(|one| one.conditions.ready == ready && one.conditions.serving);
        (!counting.is_empty()).then_some((ready, ending))
    }

    /// The rules once more, written as the behaviour table has them.
    fn by_the_book(candidates: &[Candidate], addr: IpAddr, port: u16) -> Option<BackendState> {
        let (ready, ending) = facts(candidates, addr, port)?;
        let any_ready = candidates
            .iter()
            .filter(|one| one.addr.is_ipv4() == addr.is_ipv4())
            .any(|one| facts(candidates, one.addr, one.port).is_some_and(|(ready, _)| ready));
        match (ready, ending, any_ready) {
            (true, _, _) | (false, true, false) => Some(BackendState::Active),
            (false, true, true) => Some(BackendState::Terminating),
            (false, false, _) => None,
        }
    }

    proptest! {
        #[test]
        fn selection_follows_the_rules_for_any_set(
            candidates in prop::collection::vec(candidate(), 0..12),
            seed in any::<prop::sample::Index>(),
        ) {
            let selected = select(candidates.clone());
            let places: Vec<_> = selected.iter().map(|one| (one.addr, one.port)).collect();
            prop_assert!(places.is_sorted_by(|a, b| a < b));
            for one in &candidates {
                let found = selected.iter().find(|b| (b.addr, b.port) == (one.addr, one.port));
                prop_assert_eq!(
                    found.map(|backend| backend.state),
                    by_the_book(&candidates, one.addr, one.port)
                );
            }
            // The order in which slices come must not matter.
            let mut rotated = candidates.clone();
            if !rotated.is_empty() {
                let len = rotated.len();
                rotated.rotate_left(seed.index(len));
            }
            prop_assert_eq!(select(rotated), selected);
        }
    }
}
