//! How a Service is reached from outside the cluster: addresses of a load
//! balancer, external addresses, and who may use them. A bad value here is left
//! out with a warning: the rest of the Service still works, as with kube-proxy.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Findings, TrafficPolicy, value};

/// What a Service offers to the outside beside node ports.
#[derive(Debug, Default)]
pub(super) struct Exposure {
    pub load_balancer_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub source_ranges: Vec<IpNet>,
    pub external_policy: TrafficPolicy,
}

/// Reads it from a Service that is proxied.
pub(super) fn of(
    spec: &api::ServiceSpec,
    status: Option<&api::ServiceStatus>,
    kind: &str,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Exposure {
    let external_ips = external_ips(spec, cluster_ips, findings);
    let mut exposure = Exposure { external_ips, ..Exposure::default() };
    if kind == "LoadBalancer" {
        exposure.load_balancer_ips = load_balancer_ips(status, cluster_ips, findings);
        exposure.source_ranges = source_ranges(spec, findings);
    }
    // As in the API, the policy means something only where traffic can come
    // from outside.
    if kind != "ClusterIP" || !exposure.external_ips.is_empty() {
        exposure.external_policy = TrafficPolicy::of(spec.external_traffic_policy.as_deref());
    }
    exposure
}

fn external_ips(
    spec: &api::ServiceSpec,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let listed = spec.external_ips.iter().flatten().enumerate();
    let mut addresses = Vec::new();
    for (index, text) in listed {
        add(&mut addresses, format!("spec.externalIPs[{index}]"), text, cluster_ips, findings);
    }
    addresses
}

/// Entries with `ipMode: Proxy` and those with a host name only are reached
/// through the load balancer itself.
fn load_balancer_ips(
    status: Option<&api::ServiceStatus>,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) -> Vec<IpAddr> {
    let ingress = status
        .and_then(|status| status.load_balancer.as_ref())
        .and_then(|balancer| balancer.ingress.as_ref());
    let mut addresses = Vec::new();
    for (index, entry) in ingress.into_iter().flatten().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}].ip");
        match (entry.ip.as_deref().filter(|ip| !ip.is_empty()), entry.ip_mode.as_deref()) {
            (Some(text), None | Some("VIP")) => {
                add(&mut addresses, field, text, cluster_ips, findings);
            }
            (None, _) | (Some(_), Some("Proxy")) => {}
            (Some(_), Some(mode)) => findings.warning(
                format_args!("status.loadBalancer.ingress[{index}].ipMode"),
                format_args!("{mode:?} is not one of \"VIP\", \"Proxy\", so the entry is left out"),
            ),
        }
    }
    addresses
}

/// Adds an address once, if it is one and of a family that the Service has.
fn add(
    addresses: &mut Vec<IpAddr>,
    field: String,
    text: &str,
    cluster_ips: &[IpAddr],
    findings: &mut Findings,
) {
    match value::sloppy_unicast_address(text) {
        Err(error) => findings.warning(field, format_args!("{error}, so it is left out")),
        Ok(addr) if !cluster_ips.iter().any(|own| own.is_ipv4() == addr.is_ipv4()) => findings
            .warning(
                field,
                format_args!("{addr} is not of the Service's families, so it is left out"),
            ),
        Ok(addr) if addresses.contains(&addr) => {}
        Ok(addr) => addresses.push(addr),
    }
}

fn source_ranges(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<IpNet> {
    let mut ranges = Vec::new();
    for (index, text) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        match value::sloppy_range(text) {
            // Host bits say nothing.
            Some(range) => ranges.push(range.trunc()),
            None => findings.warning(
                format_args!("spec.loadBalancerSourceRanges[{index}]"),
                format_args!("{text:?} is not a range as in 10.0.0.0/8, so it is left out"),
            ),
        }
    }
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}
