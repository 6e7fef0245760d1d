//! Ports of Services.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::service::NotProxied;
use super::{Findings, value};
use crate::desired::Protocol;

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Position in `spec.ports`, for messages.
    pub index: usize,
    /// Name; empty if the Service has only one port.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the cluster addresses.
    pub port: u16,
    /// Port of the Pods.
    pub target: TargetPort,
    /// Port on the nodes' addresses.
    pub node_port: Option<u16>,
}

/// Where a Service's port leads to in a Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// Checks the ports of a Service.
pub(super) fn ports(
    ports: Vec<api::ServicePort>,
    kind: &str,
    not_proxied: Option<NotProxied>,
    findings: &mut Findings,
) -> Vec<ServicePort> {
    let may_have_none =
        matches!(not_proxied, Some(NotProxied::ExternalName | NotProxied::Headless));
    if ports.is_empty() && !may_have_none {
        findings.error("spec.ports", "must have at least one port");
    }
    let several = ports.len() > 1;
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    let mut checked = Vec::with_capacity(ports.len());
    for (index, port) in ports.into_iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{index}].{name}");
        let name = port.name.unwrap_or_default();
        if !name.is_empty() {
            findings.check(field("name"), value::label(&name));
        } else if several {
            findings.error(field("name"), "is needed if a Service has more than one port");
        }
        let protocol = findings.check(field("protocol"), value::protocol(port.protocol.as_deref()));
        let number = findings.check(field("port"), value::port(port.port));
        let target = target(port.target_port, number, &field("targetPort"), findings);
        let node_port = match port.node_port {
            None | Some(0) => None,
            Some(_) if kind == "ClusterIP" => {
                findings
                    .error(field("nodePort"), "is allowed only with type NodePort or LoadBalancer");
                None
            }
            Some(number) => findings.check(field("nodePort"), value::port(number)),
        };
        let (Some(protocol), Some(number), Some(target)) = (protocol, number, target) else {
            continue;
        };
        if !name.is_empty() && !names.insert(name.clone()) {
            findings.error(field("name"), format_args!("{name:?} is the name of two ports"));
        }
        if !numbers.insert((number, protocol)) {
            findings.error(field("port"), format_args!("{number} is there twice"));
        }
        if let Some(node_port) = node_port
            && !node_ports.insert((node_port, protocol))
        {
            findings.error(field("nodePort"), format_args!("{node_port} is there twice"));
        }
        checked.push(ServicePort { index, name, protocol, port: number, target, node_port });
    }
    checked
}

fn target(
    target: Option<IntOrString>,
    port: Option<u16>,
    field: &str,
    findings: &mut Findings,
) -> Option<TargetPort> {
    match target {
        // The API server fills in the port for an empty target.
        None | Some(IntOrString::Int(0)) => port.map(TargetPort::Number),
        Some(IntOrString::String(name)) if name.is_empty() => port.map(TargetPort::Number),
        Some(IntOrString::Int(number)) => {
            findings.check(field, value::port(number)).map(TargetPort::Number)
        }
        Some(IntOrString::String(name)) => {
            findings.check(field, value::service_name(&name)).map(|()| TargetPort::Name(name))
        }
    }
}
