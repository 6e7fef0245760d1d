//! The part of `lb check` that says what each Service would do on this node.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde::Serialize;

use crate::desired::{ExplainedPort, Explanation, Scope, printable};

/// A Service, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ServiceRow {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_served: Option<String>,
    ports: Vec<PortRow>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PortRow {
    name: String,
    protocol: String,
    port: u16,
    policy: &'static str,
    internal_scope: &'static str,
    external_scope: &'static str,
    affinity_seconds: Option<u32>,
    /// Endpoints that get new connections, of the whole cluster.
    cluster_endpoints: usize,
    /// Likewise of this node; what a Service without a Local policy would have
    /// there is not worked out.
    local_endpoints: usize,
    unused: Vec<UnusedRow>,
}

#[derive(Debug, Serialize)]
struct UnusedRow {
    endpoint: SocketAddr,
    reason: String,
}

impl ServiceRow {
    pub(super) fn new(explanation: &Explanation) -> Self {
        Self {
            namespace: explanation.service.namespace.clone(),
            name: explanation.service.name.clone(),
            not_served: explanation.not_served.clone(),
            ports: explanation.ports.iter().map(PortRow::new).collect(),
            notes: explanation.notes.clone(),
        }
    }
}

impl PortRow {
    fn new(port: &ExplainedPort) -> Self {
        let service = &port.service;
        let [cluster, local] = port.sizes;
        Self {
            name: service.key.port_name.clone(),
            protocol: service.key.protocol.to_string(),
            port: service.port,
            policy: service.policy.name(),
            internal_scope: name(service.internal_scope),
            external_scope: name(service.external_scope),
            affinity_seconds: service.affinity,
            cluster_endpoints: cluster.iter().sum(),
            local_endpoints: local.iter().sum(),
            unused: port
                .unused
                .iter()
                .map(|(addr, port, reason)| UnusedRow {
                    endpoint: SocketAddr::new(*addr, *port),
                    reason: reason.clone(),
                })
                .collect(),
        }
    }
}

const fn name(scope: Scope) -> &'static str {
    match scope {
        Scope::Cluster => "cluster",
        Scope::Local => "local",
    }
}

/// Text for people: a line for each port, and one for whatever gets nothing.
/// Without the name of a node nothing can be said of that node's endpoints.
pub(super) fn write(text: &mut String, explanations: &[Explanation], on_node: bool) {
    // Writing to a string can't fail.
    for Explanation { service, not_served, ports, notes } in explanations {
        if let Some(why) = not_served {
            let _ = writeln!(text, "Service {service}: {why}");
        }
        for port in ports {
            write_port(text, port, on_node);
        }
        for note in notes {
            let _ = writeln!(text, "Service {service}: {}", printable(note));
        }
    }
}

fn write_port(text: &mut String, port: &ExplainedPort, on_node: bool) {
    let ExplainedPort { service, sizes: [cluster, local], unused } = port;
    let head = format!("Service {} {}/{}", service.key, service.port, service.key.protocol);
    let _ = write!(text, "{head}: {}, {} in the cluster", service.policy, families(*cluster));
    let internal = service.internal_scope == Scope::Local;
    let external = service.external_scope == Scope::Local;
    if on_node && (internal || external) {
        let whom = match (internal, external) {
            (true, true) => "all clients",
            (true, false) => "clients of its ClusterIP",
            _ => "clients from outside",
        };
        let _ = write!(text, ", {} on this node for {whom}", families(*local));
        if local.iter().sum::<usize>() == 0 && cluster.iter().sum::<usize>() > 0 {
            let _ = write!(text, " (dropped: the policy is Local)");
        }
    }
    if cluster.iter().sum::<usize>() == 0 {
        let _ = write!(text, " (refused)");
    }
    if let Some(seconds) = service.affinity {
        let _ = write!(text, ", a client keeps its endpoint for {seconds} s");
    }
    let _ = writeln!(text);
    for (addr, port, why) in unused {
        let endpoint = SocketAddr::new(*addr, *port);
        let _ = writeln!(text, "{head}: {endpoint} gets nothing new: {}", printable(why));
    }
}

fn families([v4, v6]: [usize; 2]) -> String {
    let plural = |n| if n == 1 { "" } else { "s" };
    match (v4, v6) {
        (n, 0) => format!("{n} endpoint{}", plural(n)),
        (0, n) => format!("{n} IPv6 endpoint{}", plural(n)),
        (v4, v6) => format!("{v4} IPv4 and {v6} IPv6 endpoints"),
    }
}
