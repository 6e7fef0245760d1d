//! EndpointSlices.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1 as api;

use super::weight::weight;
use super::{Findings, ObjectName, ServicePort, value};
use crate::desired::Protocol;

/// The label that names the Service of a slice.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Slices with this label, whatever its value, are not for proxies.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// An EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// Name of the Service in the same namespace, if it is for one.
    pub service: Option<String>,
    /// Whether a label says that proxies must not use it.
    pub headless: bool,
    /// Family of the addresses; none for domain names, which a proxy can't use.
    pub family: Option<AddressFamily>,
    /// Ports that each endpoint has.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Weight of the endpoints whose Pods have none of their own.
    pub weight: Option<u16>,
}

/// Family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl AddressFamily {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Name of the Service's port.
    pub name: String,
    /// Protocol of the Service's port.
    pub protocol: Protocol,
    /// The number on the endpoints.
    pub port: u16,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Its condition.
    pub conditions: Conditions,
    /// Its node.
    pub node: Option<String>,
    /// Name of its Pod, which is in the namespace of the slice.
    pub pod: Option<String>,
    /// Who should use it.
    pub hints: Hints,
}

/// Who should use an endpoint, by topology; empty lists say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Names of nodes.
    pub nodes: Vec<String>,
    /// Names of zones.
    pub zones: Vec<String>,
}

impl Hints {
    fn from_api(hints: Option<api::EndpointHints>) -> Self {
        let api::EndpointHints { for_nodes, for_zones } = hints.unwrap_or_default();
        Self {
            nodes: for_nodes.into_iter().flatten().map(|node| node.name).collect(),
            zones: for_zones.into_iter().flatten().map(|zone| zone.name).collect(),
        }
    }
}

/// The condition of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conditions {
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it works, ending or not.
    pub serving: bool,
    /// Whether it is ending.
    pub terminating: bool,
}

impl EndpointSlice {
    /// Checks a slice of the API; none if it is refused.
    pub fn from_api(
        name: ObjectName,
        slice: api::EndpointSlice,
        findings: &mut Findings,
    ) -> Option<Self> {
        findings.check("metadata.namespace", value::label(&name.namespace));
        findings.check("metadata.name", value::subdomain(&name.name));
        let labels = slice.metadata.labels.unwrap_or_default();
        let family = match findings
            .check("addressType", value::choice(&slice.address_type, &["IPv4", "IPv6", "FQDN"]))?
        {
            "IPv4" => Some(AddressFamily::V4),
            "IPv6" => Some(AddressFamily::V6),
            _ => None,
        };
        let ports = ports(slice.ports.unwrap_or_default(), findings);
        let endpoints = match family {
            None => Vec::new(),
            Some(family) => endpoints(slice.endpoints, family, findings),
        };
        let weight = weight(slice.metadata.annotations.as_ref(), findings);
        if findings.refused() {
            return None;
        }
        Some(Self {
            name,
            service: labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty()).cloned(),
            headless: labels.contains_key(HEADLESS_LABEL),
            family,
            ports,
            endpoints,
            weight,
        })
    }

    /// The number of a Service's port on the endpoints, if they have it.
    pub fn port(&self, port: &ServicePort) -> Option<u16> {
        let same = |own: &&SlicePort| own.name == port.name && own.protocol == port.protocol;
        self.ports.iter().find(same).map(|own| own.port)
    }
}

/// Name and protocol get the API server's defaults: a file that was written by
/// hand has not been through it.
fn ports(ports: Vec<api::EndpointPort>, findings: &mut Findings) -> Vec<SlicePort> {
    let mut checked: Vec<SlicePort> = Vec::with_capacity(ports.len());
    for (index, port) in ports.into_iter().enumerate() {
        let field = |name: &str| format!("ports[{index}].{name}");
        let name = port.name.unwrap_or_default();
        if !name.is_empty() {
            findings.check(field("name"), value::label(&name));
        }
        let protocol = findings.check(field("protocol"), value::protocol(port.protocol.as_deref()));
        let Some(number) = port.port.filter(|&number| number != 0) else {
            findings.warning(
                field("port"),
                "is missing or 0, and all ports at once is not supported, so it has no effect",
            );
            continue;
        };
        let number = findings.check(field("port"), value::port(number));
        let (Some(protocol), Some(port)) = (protocol, number) else {
            continue;
        };
        if checked.iter().any(|other| other.name == name) {
            findings.error(field("name"), format_args!("{name:?} is the name of two ports"));
        }
        checked.push(SlicePort { name, protocol, port });
    }
    checked
}

fn endpoints(
    endpoints: Vec<api::Endpoint>,
    family: AddressFamily,
    findings: &mut Findings,
) -> Vec<Endpoint> {
    let mut checked = Vec::with_capacity(endpoints.len());
    for (index, endpoint) in endpoints.into_iter().enumerate() {
        // The API allows several addresses of one endpoint, and says that
        // consumers use the first.
        let Some(text) = endpoint.addresses.first() else {
            findings.error(format_args!("endpoints[{index}].addresses"), "must have an address");
            continue;
        };
        let field = format!("endpoints[{index}].addresses[0]");
        let Some(addr) = findings.check(&field, value::unicast_address(text)) else {
            continue;
        };
        if AddressFamily::of(addr) != family {
            findings.error(field, format_args!("{addr} is not of the slice's addressType"));
            continue;
        }
        let conditions = endpoint.conditions.unwrap_or_default();
        checked.push(Endpoint {
            addr,
            conditions: Conditions {
                ready: conditions.ready.unwrap_or(true),
                serving: conditions.serving.unwrap_or(true),
                terminating: conditions.terminating.unwrap_or(false),
            },
            node: endpoint.node_name,
            pod: endpoint.target_ref.and_then(pod_name),
            hints: Hints::from_api(endpoint.hints),
        });
    }
    checked
}

fn pod_name(target: ObjectReference) -> Option<String> {
    target.name.filter(|_| target.kind.as_deref() == Some("Pod"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: serde_json::Value) -> (Option<EndpointSlice>, Vec<String>) {
        let mut findings = Findings::default();
        let slice = EndpointSlice::from_api(
            ObjectName { namespace: "default".into(), name: "web-1".into() },
            serde_json::from_value(object).unwrap(),
            &mut findings,
        );
        let lines = findings.into_vec();
        (slice, lines.into_iter().map(|f| format!("{}: {}", f.field, f.message)).collect())
    }

    #[test]
    fn conditions_and_ports_have_the_defaults_of_the_api_server() {
        let (slice, findings) = read(json!({
            "addressType": "IPv4",
            "metadata": { "labels": { "kubernetes.io/service-name": "web" } },
            "ports": [{ "port": 8080 }],
            "endpoints": [{ "addresses": ["10.0.0.1", "10.0.0.2"],
                            "targetRef": { "kind": "Pod", "name": "a" } }],
        }));
        assert_eq!(findings, [""; 0]);
        let slice = slice.unwrap();
        assert_eq!(slice.service.as_deref(), Some("web"));
        assert_eq!(slice.ports[0].name, "");
        assert_eq!(slice.ports[0].protocol, Protocol::Tcp);
        assert_eq!(
            slice.endpoints,
            [Endpoint {
                addr: "10.0.0.1".parse().unwrap(),
                conditions: Conditions { ready: true, serving: true, terminating: false },
                node: None,
                pod: Some("a".into()),
                hints: Hints::default(),
            }]
        );
    }

    #[test]
    fn a_bad_endpoint_is_named() {
        for (kind, addresses, expected) in [
            ("IPv4", json!(["10.0.0"]), "endpoints[0].addresses[0]: \"10.0.0\" is not an IP"),
            ("IPv4", json!(["fd00::1"]), "endpoints[0].addresses[0]: fd00::1 is not of the"),
            ("IPv6", json!(["10.0.0.1"]), "endpoints[0].addresses[0]: 10.0.0.1 is not of the"),
            ("IPv4", json!([]), "endpoints[0].addresses: must have an address"),
            ("ipv4", json!(["10.0.0.1"]), "addressType: \"ipv4\" is not one of"),
        ] {
            let (slice, findings) =
                read(json!({ "addressType": kind, "endpoints": [{ "addresses": addresses }] }));
            assert_eq!(slice, None);
            assert!(findings[0].starts_with(expected), "{findings:?}");
        }
    }

    #[test]
    fn domain_names_and_nameless_lists_are_accepted_and_hold_nothing() {
        let (slice, findings) = read(json!({
            "addressType": "FQDN",
            "endpoints": [{ "addresses": ["a.example"] }],
            "ports": null,
        }));
        assert_eq!(findings, [""; 0]);
        assert_eq!(slice.unwrap().endpoints, []);
    }
}
