//! Nodes.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as api;

use super::{Findings, ObjectName, value};

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The taint that the cluster autoscaler sets before it removes a node.
const REMOVAL_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: ObjectName,
    /// Its zone, if it says so.
    pub zone: Option<String>,
    /// Addresses by which the other nodes reach it.
    pub addresses: Vec<IpAddr>,
    /// Where its pods are.
    pub pod_cidrs: Vec<IpNet>,
    /// Whether it is about to go: being deleted, or chosen by the autoscaler.
    pub leaving: bool,
}

impl Node {
    /// Checks a Node of the API; none if it is refused.
    pub fn from_api(name: ObjectName, node: api::Node, findings: &mut Findings) -> Option<Self> {
        findings.check("metadata.name", value::subdomain(&name.name));
        let mut addresses = Vec::new();
        let listed = node.status.iter().flat_map(|status| &status.addresses).flatten();
        for (index, address) in listed.enumerate() {
            if address.type_ == "InternalIP" {
                let field = format!("status.addresses[{index}].address");
                addresses.extend(findings.check(field, value::address(&address.address)));
            }
        }
        let pod_cidrs = pod_cidrs(node.spec.as_ref(), findings);
        let mut taints = node.spec.iter().flat_map(|spec| &spec.taints).flatten();
        let leaving = node.metadata.deletion_timestamp.is_some()
            || taints.any(|taint| taint.key == REMOVAL_TAINT);
        let zone = node.metadata.labels.and_then(|mut labels| labels.remove(ZONE_LABEL));
        (!findings.refused()).then_some(Self { name, zone, addresses, pod_cidrs, leaving })
    }
}

fn pod_cidrs(spec: Option<&api::NodeSpec>, findings: &mut Findings) -> Vec<IpNet> {
    let listed = spec.and_then(|spec| spec.pod_cidrs.as_ref()).into_iter().flatten();
    let mut ranges = Vec::new();
    for (index, text) in listed.enumerate() {
        match text.parse() {
            Ok(range) => ranges.push(range),
            Err(_not_a_range) => findings.warning(
                format_args!("spec.podCIDRs[{index}]"),
                format_args!("{text:?} is not a range as in 10.0.0.0/8, so it is left out"),
            ),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_that_is_about_to_go_says_so() {
        let taint = |key| json!([{ "key": key, "effect": "NoSchedule" }]);
        for (metadata, spec, leaving) in [
            (json!({}), json!({}), false),
            (json!({}), json!({ "taints": taint("node.kubernetes.io/not-ready") }), false),
            (json!({}), json!({ "taints": taint("ToBeDeletedByClusterAutoscaler") }), true),
            (json!({ "deletionTimestamp": "2026-11-25T10:00:00Z" }), json!({}), true),
        ] {
            let object = json!({ "metadata": metadata, "spec": spec });
            let name = ObjectName { namespace: String::new(), name: "n1".into() };
            let api = serde_json::from_value(object).unwrap();
            let node = Node::from_api(name, api, &mut Findings::default()).unwrap();
            assert_eq!(node.leaving, leaving, "{metadata} {spec}");
        }
    }
}
