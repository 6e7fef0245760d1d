//! Follows the objects: what did not change is not compiled again. Always the
//! same as compiling everything from scratch.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::compile::{Granted, compile_changed, key_of, service_port};
use super::endpoints::{Endpoints, service_of};
use super::{CompileOptions, Desired, HealthCheck, Problem, health_checks};
use crate::model::{Changed, Changes, Node, ObjectName, Objects, Pod, Service, Sourced};

/// Compiles, and remembers.
#[derive(Debug)]
pub struct Compiler {
    options: CompileOptions,
    endpoints: Endpoints,
    desired: Desired,
    /// Claims that came too late.
    claims: Vec<Problem>,
    health_checks: Vec<HealthCheck>,
    /// Health checks that can't be had.
    unheard: Vec<Problem>,
}

impl Compiler {
    /// Knows no object yet.
    pub fn new(options: CompileOptions) -> Self {
        let endpoints = Endpoints::new(options.node_name.clone());
        let (desired, claims, health_checks, unheard) = Default::default();
        Self { options, endpoints, desired, claims, health_checks, unheard }
    }

    /// What the objects don't say.
    pub const fn options(&self) -> &CompileOptions {
        &self.options
    }

    /// What should be served. Service ports that did not change are the same
    /// allocations as before.
    pub const fn desired(&self) -> &Desired {
        &self.desired
    }

    /// The ports on which load balancers ask.
    pub fn health_checks(&self) -> &[HealthCheck] {
        &self.health_checks
    }

    /// Whatever can't be had.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.claims.iter().chain(&self.unheard)
    }

    /// Takes over `objects`, which differ by `changes` from those of last time.
    pub fn update(&mut self, objects: &Objects, changes: &Changes) {
        self.endpoints.update(changes);
        let dirty = self.dirty(objects, changes);
        // A zone concerns every Service.
        let everything = changes.nodes.iter().any(moves);
        let claims = changes.services.iter().any(claims_otherwise);
        if everything || claims {
            let known = std::mem::take(&mut self.desired);
            let is_dirty = |name: &ObjectName| everything || dirty.contains(name);
            (self.desired, self.claims) =
                compile_changed(objects, &self.options, &self.endpoints, known, &is_dirty);
        } else {
            let services = dirty.iter().filter_map(|name| objects.services.get(name));
            for service in services {
                self.refresh(&service.object);
            }
        }
        let asked = |name| {
            let service: Option<&Sourced<Service>> = objects.services.get(name);
            service.is_some_and(|service| service.object.health_check_node_port.is_some())
        };
        if claims || dirty.iter().any(asked) {
            (self.health_checks, self.unheard) = health_checks(objects, &self.options);
        }
    }

    /// Services whose ports may have to be compiled again.
    fn dirty(&self, objects: &Objects, changes: &Changes) -> BTreeSet<ObjectName> {
        let slices = changes.endpoint_slices.iter().flat_map(Changed::versions);
        let mut dirty: BTreeSet<ObjectName> = slices.filter_map(service_of).collect();
        dirty.extend(changes.services.iter().map(|service| service.name.clone()));
        // A Pod's weight is that of its endpoints, whoever wrote them.
        let weight = |pod: &Option<Sourced<Pod>>| pod.as_ref().and_then(|pod| pod.object.weight);
        let weighed = changes.pods.iter().filter(|pod| weight(&pod.old) != weight(&pod.new));
        dirty.extend(self.endpoints.with_pods(&weighed.map(|pod| &pod.name).collect()));
        let namespaces: BTreeSet<&String> =
            changes.pods.iter().map(|pod| &pod.name.namespace).collect();
        for namespace in namespaces {
            let pods: Vec<&Pod> = changes
                .pods
                .iter()
                .filter(|pod| pod.name.namespace == *namespace)
                .flat_map(Changed::versions)
                .collect();
            let first = ObjectName { namespace: namespace.clone(), name: String::new() };
            let services = objects.services.range(first..).map(|(_, service)| &service.object);
            let from_pods = services
                .take_while(|service| service.name.namespace == *namespace)
                .filter(|service| !self.endpoints.has_slices(&service.name))
                .filter(|service| pods.iter().any(|pod| service.selects(pod)));
            dirty.extend(from_pods.map(|service| service.name.clone()));
        }
        dirty
    }

    /// Compiles a Service again that keeps its addresses.
    fn refresh(&mut self, service: &Service) {
        for port in &service.ports {
            let Some(known) = self.desired.services.get_mut(&key_of(service, port)) else {
                continue;
            };
            let granted = Granted::to(known);
            let new = service_port(service, port, granted, &self.options, &self.endpoints);
            if **known != new {
                *known = Arc::new(new);
            }
        }
    }
}

/// Whether a node is in another zone now.
fn moves(node: &Changed<Node>) -> bool {
    let zone =
        |node: &Option<Sourced<Node>>| node.as_ref().and_then(|node| node.object.zone.clone());
    zone(&node.old) != zone(&node.new)
}

/// Whether a Service wants other addresses, ports or health checks than before,
/// which may concern others.
fn claims_otherwise(service: &Changed<Service>) -> bool {
    let (Some(old), Some(new)) = (&service.old, &service.new) else {
        return true;
    };
    old.file != new.file || claims(&old.object) != claims(&new.object)
}

/// All that one Service's ports depend on another's for.
fn claims(service: &Service) -> impl PartialEq + use<'_> {
    let lists = (&service.cluster_ips, &service.load_balancer_ips, &service.external_ips);
    let named = (service.created, service.not_proxied.is_some(), service.health_check_node_port);
    (named, lists, &service.ports)
}
