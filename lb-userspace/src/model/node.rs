//! Nodes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::{Findings, ObjectName, value};

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: ObjectName,
    /// Its zone, if it says so.
    pub zone: Option<String>,
    /// Addresses by which the other nodes reach it.
    pub addresses: Vec<IpAddr>,
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
        let zone = node.metadata.labels.and_then(|mut labels| labels.remove(ZONE_LABEL));
        (!findings.refused()).then_some(Self { name, zone, addresses })
    }
}
