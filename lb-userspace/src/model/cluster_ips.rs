//! A Service's cluster addresses: `spec.clusterIP`, `spec.clusterIPs`,
//! `spec.ipFamilies`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::{Findings, value};

/// What a Service says of its cluster addresses.
pub(super) enum ClusterIps {
    /// It has these, at most one of each family.
    Some(Vec<IpAddr>),
    /// It has none by intent.
    Headless,
    /// It has none yet.
    Missing,
    /// Something is wrong with them, and told.
    Refused,
}

/// Reads and checks them.
pub(super) fn cluster_ips(spec: &api::ServiceSpec, findings: &mut Findings) -> ClusterIps {
    let first = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let list: Vec<(String, &str)> = match spec.cluster_ips.as_deref() {
        None | Some([]) => first.map(|text| ("spec.clusterIP".into(), text)).into_iter().collect(),
        Some(list) => list
            .iter()
            .enumerate()
            .map(|(index, text)| (format!("spec.clusterIPs[{index}]"), text.as_str()))
            .collect(),
    };
    let Some((_, primary)) = list.first() else {
        return ClusterIps::Missing;
    };
    if let Some(first) = first.filter(|first| first != primary) {
        findings.error(
            "spec.clusterIPs[0]",
            format_args!("{primary:?} must be the same as spec.clusterIP, {first:?}"),
        );
        return ClusterIps::Refused;
    }
    if *primary == "None" && list.len() == 1 {
        return ClusterIps::Headless;
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut good = true;
    for (field, text) in &list {
        match findings.check(field, value::unicast_address(text)) {
            None => good = false,
            Some(addr) if addresses.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) => {
                findings.error(field, format_args!("{addr} is a second address of its family"));
                good = false;
            }
            Some(addr) => addresses.push(addr),
        }
    }
    if !good {
        return ClusterIps::Refused;
    }
    check_families(spec, &addresses, findings);
    ClusterIps::Some(addresses)
}

/// `spec.ipFamilies`, where given, says what the addresses must be.
fn check_families(spec: &api::ServiceSpec, addresses: &[IpAddr], findings: &mut Findings) {
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let field = format!("spec.ipFamilies[{index}]");
        let known = value::choice(family, &["IPv4", "IPv6"]);
        let Some(family) = findings.check(&field, known) else {
            continue;
        };
        if let Some(addr) = addresses.get(index)
            && addr.is_ipv4() != (family == "IPv4")
        {
            findings.error(field, format_args!("{family} is not the family of {addr}"));
        }
    }
}
