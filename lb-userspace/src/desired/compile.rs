//! Kubernetes objects to desired state: which Services are served, on which
//! addresses, by which endpoints. Pure: the same objects always give the same
//! result, in the same order.

use super::claims::{Claimed, Claims};
use super::endpoints::Endpoints;
use super::{Desired, DesiredService, Policy, Problem, Scope, ServicePortKey};
use crate::model::{Objects, Service, Sourced, TrafficPolicy};

/// What the objects don't say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileOptions {
    /// Name of this node, as Pods and EndpointSlices write it.
    pub node_name: Option<String>,
    /// Policy of the Services that don't name one.
    pub default_policy: Policy,
    /// Whether `externalIPs` are served. Whoever may write a Service can catch
    /// traffic to any address with them (CVE-2020-8554).
    pub external_ips: bool,
}

impl Default for CompileOptions {
    fn default() -> Self {
        Self { node_name: None, default_policy: Policy::default(), external_ips: true }
    }
}

/// Compiles the objects. A Service that claims what another one has loses only
/// that address, and the problem says so.
pub fn compile(objects: &Objects, options: &CompileOptions) -> (Desired, Vec<Problem>) {
    let mut endpoints = Endpoints::new(objects, options.node_name.as_deref());
    let mut claims = Claims::default();
    let mut desired = Desired::default();
    for sourced in by_age(objects) {
        let service = &sourced.object;
        for port in &service.ports {
            let cluster_ips = claims.addresses(sourced, port, Claimed::ClusterIp);
            let load_balancer_ips = claims.addresses(sourced, port, Claimed::LoadBalancer);
            let external_ips = if options.external_ips {
                claims.addresses(sourced, port, Claimed::ExternalIp)
            } else {
                Vec::new()
            };
            let node_port = claims.node_port(sourced, port);
            let addresses = [&cluster_ips, &load_balancer_ips, &external_ips];
            if addresses.iter().all(|list| list.is_empty()) && node_port.is_none() {
                continue;
            }
            let key = ServicePortKey {
                namespace: service.name.namespace.clone(),
                name: service.name.name.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
            };
            let port = DesiredService {
                key: key.clone(),
                port: port.port,
                policy: service.policy.unwrap_or(options.default_policy),
                cluster_ips,
                node_port,
                load_balancer_ips,
                external_ips,
                source_ranges: service.source_ranges.clone(),
                internal_scope: scope(service.internal_policy),
                external_scope: scope(service.external_policy),
                affinity: service.affinity,
                backends: endpoints.backends(service, port),
            };
            desired.services.insert(key, port);
        }
    }
    (desired, claims.into_problems())
}

const fn scope(policy: TrafficPolicy) -> Scope {
    match policy {
        TrafficPolicy::Cluster => Scope::Cluster,
        TrafficPolicy::Local => Scope::Local,
    }
}

/// Services that get traffic, those first that keep what two of them claim.
pub(super) fn by_age(objects: &Objects) -> Vec<&Sourced<Service>> {
    let mut services: Vec<_> =
        objects.services.values().filter(|sourced| sourced.object.not_proxied.is_none()).collect();
    services.sort_by_key(|sourced| {
        let created = sourced.object.created;
        // One that was never in a cluster is newer than all that were.
        (created.is_none(), created, &sourced.object.name)
    });
    services
}
