//! The Kubernetes objects that matter here, as plain data. API types come in and
//! are checked at the edge (`from_api`), so that everything behind it can rely on
//! ports that are ports and addresses that parse. No I/O, no policy.

mod changes;
mod cluster_ips;
mod endpoint_slice;
mod exposure;
mod findings;
mod node;
mod pod;
mod service;
mod service_cidr;
mod service_port;
mod value;
mod weight;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub(crate) use self::changes::is_same;
pub use self::changes::{Changed, Changes};
pub use self::endpoint_slice::{
    AddressFamily, Conditions, Endpoint, EndpointSlice, Hints, SlicePort,
};
pub use self::findings::{Finding, Findings};
pub use self::node::Node;
pub use self::pod::{ContainerPort, Pod};
pub use self::service::{Distribution, NotProxied, POLICY_ANNOTATION, Service, TrafficPolicy};
pub use self::service_cidr::ServiceCidr;
pub use self::service_port::{ServicePort, TargetPort};
pub use self::weight::WEIGHT_ANNOTATION;

/// The kinds of objects that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
    /// core/v1 Pod.
    Pod,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 ServiceCIDR.
    ServiceCidr,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Service, Self::EndpointSlice, Self::Pod, Self::Node, Self::ServiceCidr];

    /// The name in the field `kind`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// The API group; empty for the core group.
    pub const fn group(self) -> &'static str {
        match self {
            Self::Service | Self::Pod | Self::Node => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::ServiceCidr => "networking.k8s.io",
        }
    }

    /// The value of the field `apiVersion`.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Service | Self::Pod | Self::Node => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::ServiceCidr => "networking.k8s.io/v1",
        }
    }

    /// Whether an API version can be read: beside the one that is current, those
    /// whose objects have the same fields.
    pub fn reads(self, api_version: &str) -> bool {
        api_version == self.api_version()
            || (self == Self::ServiceCidr && api_version == "networking.k8s.io/v1beta1")
    }

    /// Whether objects live in a namespace.
    pub const fn namespaced(self) -> bool {
        match self {
            Self::Service | Self::EndpointSlice | Self::Pod => true,
            Self::Node | Self::ServiceCidr => false,
        }
    }
}

/// Namespace and name; the namespace is empty for objects of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

/// An object and the file that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sourced<T> {
    /// Name of the file in the manifest directory.
    pub file: Arc<str>,
    /// The object; shared, since most objects stay as they are when a file changes.
    pub object: Arc<T>,
}

/// Every object that is in force, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// Services.
    pub services: BTreeMap<ObjectName, Sourced<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: BTreeMap<ObjectName, Sourced<EndpointSlice>>,
    /// Pods.
    pub pods: BTreeMap<ObjectName, Sourced<Pod>>,
    /// Nodes.
    pub nodes: BTreeMap<ObjectName, Sourced<Node>>,
    /// ServiceCIDRs.
    pub service_cidrs: BTreeMap<ObjectName, Sourced<ServiceCidr>>,
}

impl Objects {
    /// Number of objects.
    pub fn len(&self) -> usize {
        self.services.len()
            + self.endpoint_slices.len()
            + self.pods.len()
            + self.nodes.len()
            + self.service_cidrs.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
