//! The endpoints of a Service port: from its EndpointSlices, or from the Pods
//! that its selector matches if nobody wrote any slice for it, as the cluster's
//! controller would.

use std::collections::HashMap;

use super::DesiredBackend;
use super::choose::{Candidate, choose};
use crate::model::{
    AddressFamily, Conditions, Distribution, Endpoint, EndpointSlice, Objects, Pod, Service,
    ServicePort, TrafficPolicy,
};

/// Finds endpoints without going through all objects for each Service.
#[derive(Debug)]
pub(super) struct Endpoints<'a> {
    objects: &'a Objects,
    node_name: Option<&'a str>,
    /// The zone of this node.
    zone: Option<&'a str>,
    /// Zones by node.
    zones: HashMap<&'a str, &'a str>,
    /// Slices by namespace and Service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
    /// Pods by namespace, label and value; made when the first Service asks.
    pods: Option<HashMap<PodLabel<'a>, Vec<&'a Pod>>>,
    /// Weights of the Pods that have one, by namespace and name.
    weights: HashMap<(&'a str, &'a str), u16>,
}

type PodLabel<'a> = (&'a str, &'a str, &'a str);

/// Of endpoints that nobody gave one.
const DEFAULT_WEIGHT: u16 = 1;

impl<'a> Endpoints<'a> {
    pub(super) fn new(objects: &'a Objects, node_name: Option<&'a str>) -> Self {
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in objects.endpoint_slices.values().map(|sourced| &*sourced.object) {
            if let Some(service) = &slice.service {
                let key = (slice.name.namespace.as_str(), service.as_str());
                slices.entry(key).or_default().push(slice);
            }
        }
        let nodes = objects.nodes.values().map(|sourced| &*sourced.object);
        let zones: HashMap<_, _> = nodes
            .filter_map(|node| Some((node.name.name.as_str(), node.zone.as_deref()?)))
            .collect();
        let zone = node_name.and_then(|name| zones.get(name).copied());
        let pods = objects.pods.values().map(|sourced| &*sourced.object);
        let weight = |pod: &'a Pod| {
            let key = (pod.name.namespace.as_str(), pod.name.name.as_str());
            pod.weight.map(|weight| (key, weight))
        };
        let weights = pods.filter_map(weight).collect();
        Self { objects, node_name, zone, zones, slices, pods: None, weights }
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
        let local = service.internal_policy == TrafficPolicy::Local
            || service.external_policy == TrafficPolicy::Local;
        choose(candidates, local)
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
                for_node: names(&endpoint.hints.nodes, self.node_name),
                for_zone: names(&endpoint.hints.zones, self.zone),
                weight: self.weight(slice, endpoint),
            }));
        }
    }

    /// Conditions and hints are those that the EndpointSlice controller would
    /// write.
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
        let zone = pod.node.as_deref().and_then(|node| self.zones.get(node).copied());
        let for_zone = service.distribution.and(zone).map(|zone| Some(zone) == self.zone);
        let for_node = (service.distribution == Some(Distribution::SameNode)).then_some(local);
        candidates.extend(addresses.map(|&addr| Candidate {
            addr,
            port: number,
            conditions,
            local,
            for_node,
            for_zone,
            weight: pod.weight.unwrap_or(DEFAULT_WEIGHT),
        }));
    }

    /// The Pod's own weight counts before that of the slice.
    fn weight(&self, slice: &EndpointSlice, endpoint: &Endpoint) -> u16 {
        let key = |pod| (slice.name.namespace.as_str(), pod);
        let own = endpoint.pod.as_deref().and_then(|pod| self.weights.get(&key(pod))).copied();
        own.or(slice.weight).unwrap_or(DEFAULT_WEIGHT)
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

/// Whether a hint names us; none if there is no hint.
fn names(hint: &[String], own: Option<&str>) -> Option<bool> {
    (!hint.is_empty()).then(|| hint.iter().any(|name| Some(name.as_str()) == own))
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
