//! Kubernetes objects to desired state: which Services are served, on which
//! addresses, by which endpoints. Pure: the same objects always give the same
//! result, in the same order.

use std::net::IpAddr;
use std::sync::Arc;

use super::claims::{Claimed, Claims};
use super::endpoints::Endpoints;
use super::{Desired, DesiredService, Policy, Problem, Scope, ServicePortKey};
use crate::model::{Changes, ObjectName, Objects, Service, ServicePort, Sourced, TrafficPolicy};

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
    let mut endpoints = Endpoints::new(options.node_name.clone());
    endpoints.update(&Changes::between(&Objects::default(), objects));
    compile_changed(objects, options, &endpoints, Desired::default(), &|_| true)
}

/// As [`compile`]; takes over what is `known` of Services of which nothing
/// `changed`, but perhaps the addresses that they get.
pub(super) fn compile_changed(
    objects: &Objects,
    options: &CompileOptions,
    endpoints: &Endpoints,
    mut known: Desired,
    changed: &dyn Fn(&ObjectName) -> bool,
) -> (Desired, Vec<Problem>) {
    let mut claims = Claims::default();
    let mut desired = Desired::default();
    for sourced in by_age(objects) {
        let service = &sourced.object;
        for port in &service.ports {
            let granted = Granted::of(&mut claims, sourced, port, options);
            if granted == Granted::default() {
                continue;
            }
            let key = key_of(service, port);
            let known = known.services.remove(&key);
            let compiled = match known {
                Some(known) if !changed(&service.name) && granted.are_those_of(&known) => known,
                known => {
                    let new = service_port(service, port, granted, options, endpoints);
                    known.filter(|known| **known == new).unwrap_or_else(|| Arc::new(new))
                }
            };
            desired.services.insert(key, compiled);
        }
    }
    (desired, claims.into_problems())
}

/// What a Service port gets of what its Service claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    cluster_ips: Vec<IpAddr>,
    load_balancer_ips: Vec<IpAddr>,
    external_ips: Vec<IpAddr>,
    node_port: Option<u16>,
}

impl Granted {
    fn of<'a>(
        claims: &mut Claims<'a>,
        sourced: &'a Sourced<Service>,
        port: &ServicePort,
        options: &CompileOptions,
    ) -> Self {
        Self {
            cluster_ips: claims.addresses(sourced, port, Claimed::ClusterIp),
            load_balancer_ips: claims.addresses(sourced, port, Claimed::LoadBalancer),
            external_ips: if options.external_ips {
                claims.addresses(sourced, port, Claimed::ExternalIp)
            } else {
                Vec::new()
            },
            node_port: claims.node_port(sourced, port),
        }
    }

    /// What a Service port has.
    pub(super) fn to(service: &DesiredService) -> Self {
        Self {
            cluster_ips: service.cluster_ips.clone(),
            load_balancer_ips: service.load_balancer_ips.clone(),
            external_ips: service.external_ips.clone(),
            node_port: service.node_port,
        }
    }

    fn are_those_of(&self, service: &DesiredService) -> bool {
        *self == Self::to(service)
    }
}

/// The key of a Service's port.
pub(super) fn key_of(service: &Service, port: &ServicePort) -> ServicePortKey {
    ServicePortKey {
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        port_name: port.name.clone(),
        protocol: port.protocol,
    }
}

/// Compiles one port.
pub(super) fn service_port(
    service: &Service,
    port: &ServicePort,
    granted: Granted,
    options: &CompileOptions,
    endpoints: &Endpoints,
) -> DesiredService {
    DesiredService {
        key: key_of(service, port),
        port: port.port,
        policy: service.policy.unwrap_or(options.default_policy),
        cluster_ips: granted.cluster_ips,
        node_port: granted.node_port,
        load_balancer_ips: granted.load_balancer_ips,
        external_ips: granted.external_ips,
        source_ranges: service.source_ranges.clone(),
        internal_scope: scope(service.internal_policy),
        external_scope: scope(service.external_policy),
        affinity: service.affinity,
        backends: endpoints.backends(service, port),
    }
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
