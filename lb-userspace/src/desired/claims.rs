//! Who has which address and port. The first claim wins; later ones are
//! reported, and get nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{Problem, Protocol, Severity};
use crate::model::{ObjectName, Service, ServicePort, Sourced};

/// Addresses that are taken, and the claims that came too late.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    sockets: HashMap<(SocketAddr, Protocol), &'a ObjectName>,
    node: HashMap<(u16, Protocol), &'a ObjectName>,
    problems: Vec<Problem>,
}

/// Which of a Service's addresses are claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimed {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
}

impl<'a> Claims<'a> {
    /// The addresses of a kind that a Service gets for a port.
    pub(super) fn addresses(
        &mut self,
        service: &'a Sourced<Service>,
        port: &ServicePort,
        kind: Claimed,
    ) -> Vec<IpAddr> {
        let object = &service.object;
        let (wanted, field) = match kind {
            Claimed::ClusterIp => (&object.cluster_ips, None),
            Claimed::LoadBalancer => {
                (&object.load_balancer_ips, Some("status.loadBalancer.ingress"))
            }
            Claimed::ExternalIp => (&object.external_ips, Some("spec.externalIPs")),
        };
        let mut granted = Vec::with_capacity(wanted.len());
        for &addr in wanted {
            let claim = SocketAddr::new(addr, port.port);
            let owner = *self.sockets.entry((claim, port.protocol)).or_insert(&object.name);
            if *owner == object.name {
                granted.push(addr);
            } else {
                let port_field = || format!("spec.ports[{}].port", port.index);
                let field = field.map_or_else(port_field, str::to_owned);
                self.report(service, port, field, &claim, owner);
            }
        }
        granted
    }

    /// The node port that a Service gets for a port.
    pub(super) fn node_port(
        &mut self,
        service: &'a Sourced<Service>,
        port: &ServicePort,
    ) -> Option<u16> {
        let claim = port.node_port?;
        let name = &service.object.name;
        let owner = *self.node.entry((claim, port.protocol)).or_insert(name);
        if owner == name {
            return Some(claim);
        }
        let field = format!("spec.ports[{}].nodePort", port.index);
        self.report(service, port, field, &format_args!("node port {claim}"), owner);
        None
    }

    fn report(
        &mut self,
        service: &Sourced<Service>,
        port: &ServicePort,
        field: String,
        claim: &dyn std::fmt::Display,
        owner: &ObjectName,
    ) {
        self.problems.push(Problem {
            severity: Severity::Error,
            file: service.file.to_string(),
            object: Some(format!("Service {}", service.object.name)),
            field: Some(field),
            message: format!(
                "{claim}/{} belongs to Service {owner}, which comes first, so it is not served here",
                port.protocol
            ),
        });
    }

    /// The claims that came too late.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}
