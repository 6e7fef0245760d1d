//! Pods: where Services get their endpoints from if nobody wrote EndpointSlices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::weight::weight;
use super::{Findings, ObjectName, TargetPort, value};
use crate::desired::Protocol;

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: ObjectName,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Whether its condition `Ready` is true.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether its containers have ended for good.
    pub finished: bool,
    /// Its node.
    pub node: Option<String>,
    /// Named ports of its containers, in the order in which names are looked up.
    pub ports: Vec<ContainerPort>,
    /// Its weight, if it has one.
    pub weight: Option<u16>,
}

/// A named port of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// Name.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl Pod {
    /// Checks a Pod of the API; none if it is refused.
    pub fn from_api(name: ObjectName, pod: api::Pod, findings: &mut Findings) -> Option<Self> {
        findings.check("metadata.namespace", value::label(&name.namespace));
        findings.check("metadata.name", value::subdomain(&name.name));
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let ports = ports(&spec, findings);
        let addresses = addresses(&status, findings);
        let weight = weight(pod.metadata.annotations.as_ref(), findings);
        if findings.refused() {
            return None;
        }
        Some(Self {
            name,
            labels: pod.metadata.labels.unwrap_or_default(),
            addresses,
            ready: status
                .conditions
                .iter()
                .flatten()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            node: spec.node_name,
            ports,
            weight,
        })
    }

    /// The number of a Service's target in this Pod, if it has one.
    pub fn port(&self, target: &TargetPort, protocol: Protocol) -> Option<u16> {
        match target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self
                .ports
                .iter()
                .find(|port| port.name == *name && port.protocol == protocol)
                .map(|port| port.port),
        }
    }
}

/// Ports of the containers, then of the init containers that run on beside
/// them: the order in which the EndpointSlice controller looks names up.
fn ports(spec: &api::PodSpec, findings: &mut Findings) -> Vec<ContainerPort> {
    let containers =
        spec.containers.iter().enumerate().map(|(index, one)| ("containers", index, one));
    let sidecars = spec
        .init_containers
        .iter()
        .flatten()
        .enumerate()
        .filter(|(_, one)| one.restart_policy.as_deref() == Some("Always"))
        .map(|(index, one)| ("initContainers", index, one));
    let mut checked = Vec::new();
    for (list, container, one) in containers.chain(sidecars) {
        for (index, port) in one.ports.iter().flatten().enumerate() {
            let field = |name: &str| format!("spec.{list}[{container}].ports[{index}].{name}");
            let protocol =
                findings.check(field("protocol"), value::protocol(port.protocol.as_deref()));
            let number = findings.check(field("containerPort"), value::port(port.container_port));
            let Some(name) = port.name.clone().filter(|name| !name.is_empty()) else {
                continue;
            };
            findings.check(field("name"), value::service_name(&name));
            if let (Some(protocol), Some(port)) = (protocol, number) {
                checked.push(ContainerPort { name, protocol, port });
            }
        }
    }
    checked
}

fn addresses(status: &api::PodStatus, findings: &mut Findings) -> Vec<IpAddr> {
    let list: Vec<(String, &str)> = match status.pod_ips.as_deref() {
        None | Some([]) => {
            status.pod_ip.iter().map(|text| ("status.podIP".into(), text.as_str())).collect()
        }
        Some(list) => list
            .iter()
            .enumerate()
            .map(|(index, ip)| (format!("status.podIPs[{index}].ip"), ip.ip.as_str()))
            .collect(),
    };
    let mut checked: Vec<IpAddr> = Vec::new();
    for (field, text) in list {
        if text.is_empty() {
            continue;
        }
        match findings.check(&field, value::unicast_address(text)) {
            None => {}
            Some(addr) if checked.iter().any(|other| other.is_ipv4() == addr.is_ipv4()) => {
                findings.error(field, format_args!("{addr} is a second address of its family"));
            }
            Some(addr) => checked.push(addr),
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(object: serde_json::Value) -> (Option<Pod>, Vec<String>) {
        let mut findings = Findings::default();
        let pod = Pod::from_api(
            ObjectName { namespace: "default".into(), name: "a".into() },
            serde_json::from_value(object).unwrap(),
            &mut findings,
        );
        let lines = findings.into_vec();
        (pod, lines.into_iter().map(|f| format!("{}: {}", f.field, f.message)).collect())
    }

    #[test]
    fn names_are_found_in_containers_and_sidecars_only() {
        let (pod, findings) = read(json!({ "spec": {
            "containers": [{ "name": "main", "ports": [
                { "containerPort": 80 },
                { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                { "name": "dns", "containerPort": 54, "protocol": "TCP" } ] }],
            "initContainers": [
                { "name": "once", "ports": [{ "name": "once", "containerPort": 1 }] },
                { "name": "beside", "restartPolicy": "Always",
                  "ports": [{ "name": "proxy", "containerPort": 15001 }] } ] } }));
        assert_eq!(findings, [""; 0]);
        let pod = pod.unwrap();
        let port = |name: &str, protocol| pod.port(&TargetPort::Name(name.into()), protocol);
        assert_eq!(port("dns", Protocol::Udp), Some(53));
        assert_eq!(port("dns", Protocol::Tcp), Some(54));
        assert_eq!(port("proxy", Protocol::Tcp), Some(15001));
        assert_eq!(port("once", Protocol::Tcp), None);
        assert_eq!(pod.port(&TargetPort::Number(9), Protocol::Udp), Some(9));
    }

    #[test]
    fn bad_values_are_named() {
        let (pod, findings) = read(json!({
            "spec": { "containers": [{ "name": "m", "ports": [{ "containerPort": 70000 }] }] },
            "status": { "podIPs": [{ "ip": "10.0.0.1" }, { "ip": "10.0.0.2" }] },
        }));
        assert_eq!(pod, None);
        assert!(findings[0].starts_with("spec.containers[0].ports[0].containerPort: must be"));
        assert!(findings[1].starts_with("status.podIPs[1].ip: 10.0.0.2 is a second address"));
    }
}
