//! How a Service is reached from outside the cluster: addresses of a load
//! balancer, external addresses, and who may use them. A bad value here is left
//! out with a warning: the rest of the Service still works, as with kube-proxy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
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
    let given = spec.load_balancer_source_ranges.iter().flatten().count();
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
    if ranges.is_empty() && given > 0 {
        findings.warning(
            "spec.loadBalancerSourceRanges",
            "has no range that can be read, so nobody is admitted",
        );
        return NOBODY.to_vec();
    }
    ranges
}

/// Ranges of both families in which no client is: an address of many is nobody's
/// source (RFC 1122 section 3.2.1.3, RFC 4291 section 2.7).
const NOBODY: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 128)),
];

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, status: Value) -> (Exposure, Vec<String>) {
        let spec: api::ServiceSpec = serde_json::from_value(spec).unwrap();
        let status: api::ServiceStatus = serde_json::from_value(status).unwrap();
        let kind = spec.type_.clone().unwrap();
        let cluster_ips = ["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let mut findings = Findings::default();
        let exposure = of(&spec, Some(&status), &kind, &cluster_ips, &mut findings);
        assert!(!findings.refused(), "nothing here refuses a Service");
        let lines = findings.into_vec().into_iter();
        (exposure, lines.map(|f| format!("{}: {}", f.field, f.message)).collect())
    }

    fn texts<T: ToString>(list: &[T]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_addresses_in_vip_mode_are_answered_for() {
        let ingress = json!({ "loadBalancer": { "ingress": [
            { "ip": "203.0.113.1" }, { "ip": "203.0.113.2", "ipMode": "VIP" },
            { "ip": "203.0.113.3", "ipMode": "Proxy" }, { "hostname": "lb.example" },
            { "ip": "2001:db8::1" }, { "ip": "203.0.113.1" } ] } });
        let (exposure, findings) = read(json!({ "type": "LoadBalancer" }), ingress.clone());
        assert_eq!(
            texts(&exposure.load_balancer_ips),
            ["203.0.113.1", "203.0.113.2", "2001:db8::1"]
        );
        assert_eq!(findings, [""; 0]);
        // What another type once had means nothing.
        let (exposure, _) = read(json!({ "type": "NodePort" }), ingress);
        assert_eq!(texts(&exposure.load_balancer_ips), [""; 0]);
    }

    #[test]
    fn bad_values_are_left_out_and_told() {
        let (exposure, findings) = read(
            json!({
                "type": "LoadBalancer",
                "externalIPs": ["203.0.113.7", "nonsense", "127.0.0.1", "010.0.0.7"],
                "loadBalancerSourceRanges": [" 10.0.0.0/8", "10.0.0.9/8 ", "all", "2001:db8::/32"],
            }),
            json!({ "loadBalancer": { "ingress": [{ "ip": "300.0.0.1" }] } }),
        );
        assert_eq!(texts(&exposure.external_ips), ["203.0.113.7", "10.0.0.7"]);
        assert_eq!(texts(&exposure.source_ranges), ["10.0.0.0/8", "2001:db8::/32"]);
        assert_eq!(texts(&exposure.load_balancer_ips), [""; 0]);
        for (finding, field) in findings.iter().zip([
            "spec.externalIPs[1]: \"nonsense\" is not",
            "spec.externalIPs[2]: 127.0.0.1 is a loopback",
            "status.loadBalancer.ingress[0].ip: \"300.0.0.1\" is not",
            "spec.loadBalancerSourceRanges[2]: \"all\" is not",
        ]) {
            assert!(finding.starts_with(field), "{finding}");
        }
        assert_eq!(findings.len(), 4);
    }

    /// A slip must not open what was to be guarded.
    #[test]
    fn source_ranges_without_any_that_can_be_read_admit_nobody() {
        let (exposure, findings) = read(
            json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.6"] }),
            json!({}),
        );
        assert_eq!(texts(&exposure.source_ranges), ["255.255.255.255/32", "ff00::/128"]);
        assert!(findings[1].ends_with("so nobody is admitted"), "{findings:?}");
    }

    #[test]
    fn a_family_that_the_service_has_not_is_left_out() {
        let spec: api::ServiceSpec =
            serde_json::from_value(json!({ "externalIPs": ["203.0.113.7", "2001:db8::7"] }))
                .unwrap();
        let mut findings = Findings::default();
        let own = ["10.96.0.1".parse().unwrap()];
        let exposure = of(&spec, None, "ClusterIP", &own, &mut findings);
        assert_eq!(texts(&exposure.external_ips), ["203.0.113.7"]);
        assert_eq!(findings.into_vec().len(), 1);
    }

    #[test]
    fn the_external_policy_counts_only_where_traffic_comes_from_outside() {
        let policy = |kind: &str, ips: &[&str]| {
            let spec =
                json!({ "type": kind, "externalTrafficPolicy": "Local", "externalIPs": ips });
            read(spec, json!({})).0.external_policy
        };
        assert_eq!(policy("ClusterIP", &[]), TrafficPolicy::Cluster);
        assert_eq!(policy("ClusterIP", &["203.0.113.7"]), TrafficPolicy::Local);
        assert_eq!(policy("NodePort", &[]), TrafficPolicy::Local);
    }
}
