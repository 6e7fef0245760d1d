//! Manifests as `kubectl get svc,endpointslices,pods,nodes -A -o yaml` prints
//! them, and the directory that the agents read.

use crate::netns::Naming;
use crate::topology::{Addresses, Node, Pod, Topology};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The port on which every pod serves HTTP.
pub const HTTP_TARGET: u16 = 8080;
/// The port on which every pod echoes datagrams.
pub const UDP_TARGET: u16 = 5353;

/// The port of cluster addresses for SCTP: that of 5G's NGAP (RFC 9260 has no
/// better known user).
pub const SCTP_PORT: u16 = 38_412;
/// The port on which a pod takes SCTP.
pub const SCTP_TARGET: u16 = 9_899;

/// The port of cluster addresses that leads to one where no pod listens.
pub const CLOSED_PORT: u16 = 54;
const CLOSED_TARGET: u16 = 9;

/// A port of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port {
    name: &'static str,
    protocol: &'static str,
    /// The port on the cluster addresses.
    pub port: u16,
    target: u16,
    /// The port on every node.
    pub node_port: Option<u16>,
}

/// An endpoint of a Service: a pod, and its condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Endpoint {
    pod: String,
    node: Option<String>,
    addresses: Addresses,
    ready: bool,
    terminating: bool,
}

/// A Service with its EndpointSlices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    name: String,
    /// Its cluster addresses.
    pub addresses: Addresses,
    policy: Option<&'static str>,
    overlay: Value,
    slice_overlay: Value,
    /// Its ports.
    pub ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
}

impl Service {
    /// One with the cluster addresses `10.96.0.<number>` and `fd00:10:96::<number>`,
    /// without ports and endpoints.
    pub fn new(name: &str, number: u8) -> Self {
        let v4 = Ipv4Addr::new(10, 96, 0, number);
        let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, number.into());
        Self {
            name: name.to_owned(),
            addresses: Addresses { v4, v6 },
            policy: None,
            overlay: Value::Null,
            slice_overlay: Value::Null,
            ports: Vec::new(),
            endpoints: Vec::new(),
        }
    }

    /// HTTP on port 80, and on a port of every node if it is not zero.
    #[must_use]
    pub fn http(mut self, node_port: u16) -> Self {
        let node_port = (node_port != 0).then_some(node_port);
        let (name, protocol) = ("http", "TCP");
        self.ports.push(Port { name, protocol, port: 80, target: HTTP_TARGET, node_port });
        self
    }

    /// The UDP echo on port 53, and on a port of every node if it is not zero.
    #[must_use]
    pub fn udp(mut self, node_port: u16) -> Self {
        let node_port = (node_port != 0).then_some(node_port);
        let (name, protocol) = ("dns", "UDP");
        self.ports.push(Port { name, protocol, port: 53, target: UDP_TARGET, node_port });
        self
    }

    /// SCTP on port 38412, and on a port of every node if it is not zero.
    #[must_use]
    pub fn sctp(mut self, node_port: u16) -> Self {
        let node_port = (node_port != 0).then_some(node_port);
        let (name, protocol) = ("ngap", "SCTP");
        let (port, target) = (SCTP_PORT, SCTP_TARGET);
        self.ports.push(Port { name, protocol, port, target, node_port });
        self
    }

    /// Whatever else the object says, over what it says by itself:
    /// `{"spec": {"sessionAffinity": "ClientIP"}}`.
    #[must_use]
    pub fn with(mut self, overlay: Value) -> Self {
        merge(&mut self.overlay, overlay);
        self
    }

    /// With an address of a load balancer, of each family.
    #[must_use]
    pub fn load_balancer(self, vips: Addresses) -> Self {
        self.with(json!({
            "spec": { "type": "LoadBalancer" },
            "status": { "loadBalancer": { "ingress": [{ "ip": vips.v4 }, { "ip": vips.v6 }] } },
        }))
    }

    /// UDP on a port where no pod listens, and on a port of every node if it is
    /// not zero.
    #[must_use]
    pub fn closed(mut self, node_port: u16) -> Self {
        let node_port = (node_port != 0).then_some(node_port);
        let (name, protocol) = ("closed", "UDP");
        let (port, target) = (CLOSED_PORT, CLOSED_TARGET);
        self.ports.push(Port { name, protocol, port, target, node_port });
        self
    }

    /// How backends are picked.
    #[must_use]
    pub fn policy(mut self, policy: &'static str) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Another ready endpoint.
    #[must_use]
    pub fn endpoint(self, node: &Node, pod: &Pod) -> Self {
        self.add(node, pod, true, false)
    }

    /// An endpoint that is ending: it serves what it has.
    #[must_use]
    pub fn terminating(self, node: &Node, pod: &Pod) -> Self {
        self.add(node, pod, false, true)
    }

    /// A ready endpoint that is no pod: a node's own address, or one that is not
    /// in the cluster at all, which has no node.
    #[must_use]
    pub fn endpoint_at(mut self, node: Option<&Node>, name: &str, addresses: Addresses) -> Self {
        self.endpoints.push(Endpoint {
            pod: name.to_owned(),
            node: node.map(|node| node.name.clone()),
            addresses,
            ready: true,
            terminating: false,
        });
        self
    }

    /// Whatever else its slices say.
    #[must_use]
    pub fn with_slices(mut self, overlay: Value) -> Self {
        merge(&mut self.slice_overlay, overlay);
        self
    }

    /// All of these pods as endpoints.
    #[must_use]
    pub fn endpoints<'a>(self, pods: impl IntoIterator<Item = (&'a Node, &'a Pod)>) -> Self {
        pods.into_iter().fold(self, |service, (node, pod)| service.endpoint(node, pod))
    }

    fn add(mut self, node: &Node, pod: &Pod, ready: bool, terminating: bool) -> Self {
        self.endpoints.push(Endpoint {
            pod: pod.name.clone(),
            node: Some(node.name.clone()),
            addresses: pod.addresses,
            ready,
            terminating,
        });
        self
    }

    /// Where the Service answers in the cluster: HTTP, both families.
    pub fn http_addresses(&self) -> [SocketAddr; 2] {
        self.addresses.both().map(|address| (address, 80).into())
    }

    /// Where the Service answers in the cluster: UDP, both families.
    pub fn udp_addresses(&self) -> [SocketAddr; 2] {
        self.addresses.both().map(|address| (address, 53).into())
    }

    fn object(&self) -> Value {
        let Addresses { v4, v6 } = self.addresses;
        let node_ports = self.ports.iter().any(|port| port.node_port.is_some());
        let ports = self.ports.iter().map(|port| {
            let mut value = json!({
                "name": port.name, "port": port.port, "protocol": port.protocol,
                "targetPort": port.target,
            });
            if let Some(node_port) = port.node_port {
                value["nodePort"] = node_port.into();
            }
            value
        });
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": self.name, "namespace": "default",
                          "creationTimestamp": "2026-11-22T13:00:05Z" },
            "spec": {
                "clusterIP": v4, "clusterIPs": [v4, v6],
                "externalTrafficPolicy": "Cluster", "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
                "ports": ports.collect::<Vec<_>>(),
                "selector": { "app": self.name }, "sessionAffinity": "None",
                "type": if node_ports { "NodePort" } else { "ClusterIP" },
            },
            "status": { "loadBalancer": {} },
        });
        if !node_ports && let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("externalTrafficPolicy");
        }
        if let Some(policy) = self.policy {
            object["metadata"]["annotations"] = json!({ "lb.network/policy": policy });
        }
        merge(&mut object, self.overlay.clone());
        object
    }

    fn slices(&self) -> [Value; 2] {
        ["IPv4", "IPv6"].map(|family| {
            let endpoints = self.endpoints.iter().map(|endpoint| {
                let Addresses { v4, v6 } = endpoint.addresses;
                let address = if family == "IPv4" { v4.to_string() } else { v6.to_string() };
                json!({
                    "addresses": [address],
                    "conditions": { "ready": endpoint.ready, "serving": true,
                                    "terminating": endpoint.terminating },
                    "nodeName": endpoint.node,
                    "targetRef": { "kind": "Pod", "name": endpoint.pod, "namespace": "default" },
                })
            });
            let ports = self.ports.iter().map(
                |port| json!({ "name": port.name, "port": port.target, "protocol": port.protocol }),
            );
            let mut slice = json!({
                "addressType": family, "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": format!("{}-{}", self.name, family.to_ascii_lowercase()),
                    "namespace": "default",
                    "labels": { "kubernetes.io/service-name": self.name },
                },
                "endpoints": endpoints.collect::<Vec<_>>(),
                "ports": ports.collect::<Vec<_>>(),
            });
            merge(&mut slice, self.slice_overlay.clone());
            slice
        })
    }
}

/// Puts one value over another: objects member by member, all else as a whole.
fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (_, Value::Null) => {}
        (Value::Object(under), Value::Object(over)) => {
            for (name, value) in over {
                merge(under.entry(name).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// A node with this name.
pub fn node_object(name: &str, Addresses { v4, v6 }: Addresses) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name } },
        "spec": {},
        "status": { "addresses": [
            { "address": v4, "type": "InternalIP" }, { "address": v6, "type": "InternalIP" },
            { "address": name, "type": "Hostname" },
        ] },
    })
}

fn pod_object(node: &Node, pod: &Pod) -> Value {
    let Addresses { v4, v6 } = pod.addresses;
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": pod.name, "namespace": "default", "labels": { "app": "web" } },
        "spec": { "nodeName": node.name, "containers": [{ "name": "server", "image": "server",
            "ports": [{ "name": "http", "containerPort": HTTP_TARGET, "protocol": "TCP" },
                      { "name": "dns", "containerPort": UDP_TARGET, "protocol": "UDP" }] }] },
        "status": { "phase": "Running", "podIP": v4, "podIPs": [{ "ip": v4 }, { "ip": v6 }],
            "conditions": [{ "type": "Ready", "status": "True" }] },
    })
}

/// Every object of a cluster.
pub fn items(topology: &Topology, services: &[Service]) -> Vec<Value> {
    let mut items: Vec<Value> =
        topology.nodes.iter().map(|node| node_object(&node.name, node.addresses)).collect();
    items.extend(topology.pods().map(|(node, pod)| pod_object(node, pod)));
    for service in services {
        items.push(service.object());
        items.extend(service.slices());
    }
    items
}

/// The directory with the manifests.
#[derive(Debug)]
pub struct Directory {
    directory: TempDir,
}

impl Directory {
    /// Makes it, empty.
    pub fn new(naming: Naming) -> Result<Self> {
        let prefix = naming.prefix() + "manifests-";
        let directory = tempfile::Builder::new().prefix(&prefix).tempdir();
        Ok(Self { directory: directory.context("make a directory for manifests")? })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves it when dropped.
    pub fn keep(&mut self) {
        self.directory.disable_cleanup(true);
    }

    /// Writes the whole cluster into one file, as a dump by kubectl.
    pub fn publish(&self, topology: &Topology, services: &[Service]) -> Result<()> {
        let items = items(topology, services);
        let list = json!({ "apiVersion": "v1", "items": items, "kind": "List",
                           "metadata": { "resourceVersion": "" } });
        let text = serde_saphyr::to_string(&list).context("write YAML")?;
        self.write("cluster.yaml", &text).map(drop)
    }

    /// Puts a file there as a whole, as careful tools do: under a name that is
    /// ignored first, then renamed.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        let fresh = self.path().join(format!(".{name}.new"));
        std::fs::write(&fresh, text).with_context(|| format!("write {}", fresh.display()))?;
        std::fs::rename(&fresh, &path).with_context(|| format!("rename to {}", path.display()))?;
        Ok(path)
    }
}
