//! The endpoints of a Service port: from its EndpointSlices, or from the Pods
//! that its selector matches if nobody wrote any slice for it, as the cluster's
//! controller would.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use super::DesiredBackend;
use super::choose::{Candidate, choose};
use crate::model::{
    AddressFamily, Changed, Changes, Distribution, Endpoint, EndpointSlice, Node, ObjectName, Pod,
    Service, ServicePort, TrafficPolicy,
};

/// Finds endpoints without going through all objects for each Service. Follows
/// the objects change by change.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    node_name: Option<String>,
    /// Zones by node.
    zones: HashMap<String, String>,
    /// Slices by Service, and by their own name.
    slices: HashMap<ObjectName, BTreeMap<String, Arc<EndpointSlice>>>,
    /// Pods that have not ended, by label and by name.
    pods: HashMap<PodLabel, BTreeMap<String, Arc<Pod>>>,
    /// Weights of the Pods that have one.
    weights: HashMap<ObjectName, u16>,
}

/// Namespace, label and value.
type PodLabel = (String, String, String);

/// Of endpoints that nobody gave one.
const DEFAULT_WEIGHT: u16 = 1;

impl Endpoints {
    /// Without any object.
    pub(super) fn new(node_name: Option<String>) -> Self {
        Self { node_name, ..Self::default() }
    }

    /// Takes over what is different.
    pub(super) fn update(&mut self, changes: &Changes) {
        for node in &changes.nodes {
            self.update_node(node);
        }
        for slice in &changes.endpoint_slices {
            let [old, new] =
                [&slice.old, &slice.new].map(|one| one.as_ref().map(|one| &one.object));
            if let Some(service) = old.and_then(|slice| service_of(slice))
                && let Some(slices) = self.slices.get_mut(&service)
            {
                slices.remove(&slice.name.name);
                if slices.is_empty() {
                    self.slices.remove(&service);
                }
            }
            if let Some(new) = new
                && let Some(service) = service_of(new)
            {
                let slices = self.slices.entry(service).or_default();
                slices.insert(slice.name.name.clone(), Arc::clone(new));
            }
        }
        for pod in &changes.pods {
            self.update_pod(pod);
        }
    }

    fn update_node(&mut self, node: &Changed<Node>) {
        let zone = node.new.as_ref().and_then(|new| new.object.zone.clone());
        match zone {
            Some(zone) => self.zones.insert(node.name.name.clone(), zone),
            None => self.zones.remove(&node.name.name),
        };
    }

    fn update_pod(&mut self, pod: &Changed<Pod>) {
        match pod.new.as_ref().and_then(|new| new.object.weight) {
            Some(weight) => self.weights.insert(pod.name.clone(), weight),
            None => self.weights.remove(&pod.name),
        };
        let key = |label: &String, value: &String| {
            (pod.name.namespace.clone(), label.clone(), value.clone())
        };
        for (label, value) in pod.old.iter().flat_map(|old| &old.object.labels) {
            let key = key(label, value);
            if let Some(pods) = self.pods.get_mut(&key) {
                pods.remove(&pod.name.name);
                if pods.is_empty() {
                    self.pods.remove(&key);
                }
            }
        }
        for new in pod.new.iter().map(|new| &new.object).filter(|new| !new.finished) {
            for (label, value) in &new.labels {
                let pods = self.pods.entry(key(label, value)).or_default();
                pods.insert(pod.name.name.clone(), Arc::clone(new));
            }
        }
    }

    /// Services with a slice that names one of these Pods.
    pub(super) fn with_pods(&self, pods: &BTreeSet<&ObjectName>) -> Vec<ObjectName> {
        if pods.is_empty() {
            return Vec::new();
        }
        let names = |slice: &EndpointSlice| {
            let namespace = &slice.name.namespace;
            slice.endpoints.iter().filter_map(|endpoint| endpoint.pod.as_ref()).any(|name| {
                let name = ObjectName { namespace: namespace.clone(), name: name.clone() };
                pods.contains(&name)
            })
        };
        let services = self.slices.iter();
        let services = services.filter(|(_, slices)| slices.values().any(|slice| names(slice)));
        services.map(|(service, _)| service.clone()).collect()
    }

    /// Whether somebody has written slices for a Service.
    pub(super) fn has_slices(&self, service: &ObjectName) -> bool {
        self.slices.contains_key(service)
    }

    /// The backends of one port, sorted, each once.
    pub(super) fn backends(&self, service: &Service, port: &ServicePort) -> Vec<DesiredBackend> {
        let mut candidates = Vec::new();
        if let Some(slices) = self.slices.get(&service.name) {
            for slice in slices.values() {
                self.add_slice(slice, service, port, &mut candidates);
            }
        } else {
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
        let wanted = slice.family.is_some_and(|family| service.has_family(family));
        if slice.headless || !wanted {
            return;
        }
        if let Some(number) = slice.port(port) {
            candidates.extend(slice.endpoints.iter().map(|endpoint| Candidate {
                addr: endpoint.addr,
                port: number,
                conditions: endpoint.conditions,
                local: self.is_local(endpoint.node.as_deref()),
                for_node: names(&endpoint.hints.nodes, self.node_name.as_deref()),
                for_zone: names(&endpoint.hints.zones, self.zone()),
                weight: weight_of(slice, endpoint, &self.weights).unwrap_or(DEFAULT_WEIGHT),
            }));
        }
    }

    /// Hints are those that the EndpointSlice controller would write.
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
            pod.addresses.iter().filter(|addr| service.has_family(AddressFamily::of(**addr)));
        let conditions = service.conditions(pod);
        let local = self.is_local(pod.node.as_deref());
        let zone = pod.node.as_ref().and_then(|node| self.zones.get(node));
        let for_zone =
            service.distribution.and(zone).map(|zone| Some(zone.as_str()) == self.zone());
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

    /// Pods that the Service selects and that can have endpoints.
    fn pods(&self, service: &Service) -> Vec<&Pod> {
        let mut rarest: Option<&BTreeMap<String, Arc<Pod>>> = None;
        for (label, value) in &service.selector {
            let key = (service.name.namespace.clone(), label.clone(), value.clone());
            match self.pods.get(&key) {
                None => return Vec::new(),
                Some(pods) if rarest.is_none_or(|rarest| pods.len() < rarest.len()) => {
                    rarest = Some(pods);
                }
                Some(_) => {}
            }
        }
        let pods = rarest.into_iter().flat_map(BTreeMap::values);
        pods.map(|pod| &**pod).filter(|pod| service.selects(pod)).collect()
    }

    /// The zone of this node.
    fn zone(&self) -> Option<&str> {
        self.zones.get(self.node_name.as_ref()?).map(String::as_str)
    }

    fn is_local(&self, node: Option<&str>) -> bool {
        node.is_some() && node == self.node_name.as_deref()
    }
}

/// The Service that a slice is for.
pub(super) fn service_of(slice: &EndpointSlice) -> Option<ObjectName> {
    let name = slice.service.clone()?;
    Some(ObjectName { namespace: slice.name.namespace.clone(), name })
}

/// Whether a hint names us; none if there is no hint.
fn names(hint: &[String], own: Option<&str>) -> Option<bool> {
    (!hint.is_empty()).then(|| hint.iter().any(|name| Some(name.as_str()) == own))
}

/// What somebody set for an endpoint, given the weights of the Pods that have
/// one: the Pod's own counts before that of the slice.
pub(super) fn weight_of<K: Borrow<ObjectName> + Eq + Hash>(
    slice: &EndpointSlice,
    endpoint: &Endpoint,
    weights: &HashMap<K, u16>,
) -> Option<u16> {
    let own = endpoint.pod.as_ref().filter(|_| !weights.is_empty()).and_then(|pod| {
        let namespace = slice.name.namespace.clone();
        weights.get(&ObjectName { namespace, name: pod.clone() }).copied()
    });
    own.or(slice.weight)
}
