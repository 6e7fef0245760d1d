//! Who has which address and port. The first claim wins; later ones are
//! reported, and get nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use super::{Problem, Protocol, Severity};
use crate::model::{ObjectName, Service, ServicePort, Sourced};

/// Addresses that are taken, and the claims that came too late.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    cluster: HashMap<(SocketAddr, Protocol), &'a ObjectName>,
    node: HashMap<(u16, Protocol), &'a ObjectName>,
    problems: Vec<Problem>,
}

impl<'a> Claims<'a> {
    /// The cluster addresses that a Service gets for a port.
    pub(super) fn cluster_ips(
        &mut self,
        service: &'a Sourced<Service>,
        port: &ServicePort,
    ) -> Vec<IpAddr> {
        let mut granted = Vec::with_capacity(service.object.cluster_ips.len());
        for &addr in &service.object.cluster_ips {
            let claim = SocketAddr::new(addr, port.port);
            let name = &service.object.name;
            let owner = *self.cluster.entry((claim, port.protocol)).or_insert(name);
            if owner == name {
                granted.push(addr);
            } else {
                self.report(service, port, "port", &claim, owner);
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
        self.report(service, port, "nodePort", &format_args!("node port {claim}"), owner);
        None
    }

    fn report(
        &mut self,
        service: &Sourced<Service>,
        port: &ServicePort,
        field: &str,
        claim: &dyn std::fmt::Display,
        owner: &ObjectName,
    ) {
        self.problems.push(Problem {
            severity: Severity::Error,
            file: service.file.to_string(),
            object: Some(format!("Service {}", service.object.name)),
            field: Some(format!("spec.ports[{}].{field}", port.index)),
            message: format!(
                "{claim}/{} belongs to Service {owner}, which is older, so it is not served here",
                port.protocol
            ),
        });
    }

    /// The claims that came too late.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}
