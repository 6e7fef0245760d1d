//! The Services that are compared: as manifests for our agent, and as rows from
//! which kube-proxy's rules are made.

use crate::scale::Shape;
use serde_json::{Value, json};
use std::net::Ipv4Addr;

/// A port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: &'static str,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// On the Service's address.
    pub port: u16,
    /// On the endpoints.
    pub target: u16,
    /// On the node, if there.
    pub node_port: Option<u16>,
}

impl Port {
    /// One of a cluster address alone.
    pub const fn new(name: &'static str, protocol: &'static str, port: u16, target: u16) -> Self {
        Self { name, protocol, port, target, node_port: None }
    }
}

/// A Service of one family, with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its cluster address.
    pub address: Ipv4Addr,
    /// Its ports.
    pub ports: Vec<Port>,
    /// Addresses of its endpoints.
    pub endpoints: Vec<Ipv4Addr>,
}

impl Service {
    /// One that nobody asks, with two endpoints that nobody has.
    pub fn idle(number: u32) -> Self {
        let address = |first: [u8; 4], offset: u32| {
            Ipv4Addr::from_bits(Ipv4Addr::from(first).to_bits() + offset)
        };
        Self {
            name: format!("service-{number:05}"),
            address: address([10, 97, 0, 0], number),
            ports: vec![Port::new("http", "tcp", 80, 8080)],
            endpoints: vec![
                address([10, 128, 0, 0], 2 * number),
                address([10, 128, 0, 0], 2 * number + 1),
            ],
        }
    }

    /// As kubectl prints it, with its EndpointSlice.
    pub fn objects(&self) -> [Value; 2] {
        let Self { name, address, ports, endpoints } = self;
        let labels = json!({ "kubernetes.io/service-name": name });
        let protocol = |port: &Port| port.protocol.to_ascii_uppercase();
        let service_ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                json!({ "name": port.name, "port": port.port, "protocol": protocol(port),
                        "targetPort": port.target, "nodePort": port.node_port })
            })
            .collect();
        let slice_ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                json!({ "name": port.name, "port": port.target, "protocol": protocol(port) })
            })
            .collect();
        let exposed = ports.iter().any(|port| port.node_port.is_some());
        let kind = if exposed { "NodePort" } else { "ClusterIP" };
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|endpoint| json!({ "addresses": [endpoint], "conditions": { "ready": true } }))
            .collect();
        [
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": "default" },
                "spec": { "clusterIP": address, "clusterIPs": [address], "ipFamilies": ["IPv4"],
                          "ports": service_ports, "type": kind },
            }),
            json!({
                "addressType": "IPv4", "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": format!("{name}-ipv4"), "namespace": "default",
                              "labels": labels },
                "endpoints": endpoints, "ports": slice_ports,
            }),
        ]
    }

    /// A file with these Services and other objects.
    pub fn file(services: &[Self], others: Vec<Value>) -> String {
        let objects = services.iter().flat_map(Self::objects);
        let all: Vec<Value> = others.into_iter().chain(objects).collect();
        Shape::Compact.file(&<[String; 2]>::default(), &all)
    }
}
