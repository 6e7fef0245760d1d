//! What the data plane should do: Service ports with their addresses, policy
//! and backends, free of everything that only Kubernetes needs to know.

mod choose;
mod claims;
mod compile;
mod compiler;
mod demand;
mod endpoints;
mod explain;
mod health;
mod problem;
mod service_cidrs;
pub mod slots;
mod slow_start;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use ipnet::IpNet;
use lb_common::proto;
use lb_common::value::{policy, scope};

pub use self::compile::{CompileOptions, compile};
pub use self::compiler::Compiler;
pub use self::demand::Demand;
pub use self::explain::{ExplainedPort, Explanation, explain};
pub use self::health::{HealthCheck, health_checks};
pub use self::problem::{Problem, Severity, printable};
pub use self::service_cidrs::{service_cidrs, spared_addresses};
pub use self::slow_start::SlowStart;

/// Transport protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
            Self::Sctp => proto::SCTP,
        }
    }

    /// The protocol of an IP protocol number, if Services can have it.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            proto::TCP => Some(Self::Tcp),
            proto::UDP => Some(Self::Udp),
            proto::SCTP => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(proto::name(self.number()).unwrap_or_default())
    }
}

/// Identifies one port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortKey {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if the Service has only one and does not name it.
    pub port_name: String,
    /// Protocol of the port.
    pub protocol: Protocol,
}

impl fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        if !self.port_name.is_empty() {
            write!(f, ":{}", self.port_name)?;
        }
        Ok(())
    }
}

/// How a Service port picks a backend for a new flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Policy {
    /// One after the other, per CPU.
    #[default]
    RoundRobin,
    /// Any, with chances by weight.
    Random,
    /// By the client's address: the same backend for all of its connections.
    SourceHash,
    /// By the client's address and port, the same on every node.
    Maglev,
    /// The better of two, by open connections for their weight.
    LeastConnections,
}

impl Policy {
    /// The name that users write.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::Random => "random",
            Self::SourceHash => "source-hash",
            Self::Maglev => "maglev",
            Self::LeastConnections => "least-connections",
        }
    }

    /// The number in map rows.
    pub const fn number(self) -> u8 {
        match self {
            Self::RoundRobin => policy::ROUND_ROBIN,
            Self::Random => policy::RANDOM,
            Self::SourceHash => policy::SOURCE_HASH,
            Self::Maglev => policy::MAGLEV,
            Self::LeastConnections => policy::LEAST_CONNECTIONS,
        }
    }

    /// Whether a hash of the client points to the slot.
    pub const fn is_by_hash(self) -> bool {
        matches!(self, Self::SourceHash | Self::Maglev)
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A policy name that means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not one of \"round-robin\", \"random\", \"source-hash\", \"maglev\" and \"least-connections\""
)]
pub struct UnknownPolicy;

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut known = Self::value_variants().iter().copied();
        known.find(|policy| policy.name() == name).ok_or(UnknownPolicy)
    }
}

/// Which endpoints clients of a frontend may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those of this node.
    Local,
}

impl Scope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Local];

    /// The number in map rows.
    pub const fn number(self) -> u8 {
        match self {
            Self::Cluster => scope::CLUSTER,
            Self::Local => scope::LOCAL,
        }
    }
}

/// Whether a backend takes new flows, and if not, why. It keeps the datagram
/// flows that it has either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Takes {
    /// New flows, in at least one scope.
    New,
    /// Nothing new: it is ending, and others are ready.
    Terminating,
    /// Nothing new: its weight is 0.
    Draining,
    /// Nothing new: others are closer, by the topology hints.
    Farther,
    /// Nothing new: it serves but is not ready.
    NotReady,
}

impl Takes {
    /// The number in map rows.
    pub const fn reason(self) -> u8 {
        use lb_common::value::backend_reason;
        match self {
            Self::New => backend_reason::NONE,
            Self::Terminating => backend_reason::TERMINATING,
            Self::Draining => backend_reason::DRAINING,
            Self::Farther => backend_reason::FARTHER,
            Self::NotReady => backend_reason::NOT_READY,
        }
    }

    /// In words for people.
    pub const fn describe(reason: u8) -> &'static str {
        use lb_common::value::backend_reason;
        match reason {
            backend_reason::NONE => "active",
            backend_reason::TERMINATING => "terminating",
            backend_reason::DRAINING => "draining",
            backend_reason::FARTHER => "farther",
            backend_reason::NOT_READY => "not-ready",
            _ => "unknown",
        }
    }
}

/// An endpoint of a Service port that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DesiredBackend {
    /// Address of the endpoint.
    pub addr: IpAddr,
    /// Port on which the endpoint listens.
    pub port: u16,
    /// Whether it takes new flows.
    pub takes: Takes,
    /// In which scopes it does: bits `1 << scope`.
    pub scopes: u8,
    /// Whether it runs on this node.
    pub local: bool,
    /// Its share of new flows, relative to the others'; with 0 it gets none.
    pub weight: u16,
}

impl DesiredBackend {
    /// Whether it takes new flows in a scope.
    pub const fn serves(&self, scope: Scope) -> bool {
        self.scopes & (1 << scope.number()) != 0
    }
}

/// One Service port as the data plane should serve it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredService {
    /// Which port of which Service.
    pub key: ServicePortKey,
    /// The port on the cluster addresses.
    pub port: u16,
    /// How backends are picked.
    pub policy: Policy,
    /// Addresses that answer, of both families.
    pub cluster_ips: Vec<IpAddr>,
    /// The port on the node's addresses, if any.
    pub node_port: Option<u16>,
    /// Addresses of a load balancer.
    pub load_balancer_ips: Vec<IpAddr>,
    /// External addresses.
    pub external_ips: Vec<IpAddr>,
    /// Clients that may use the load balancer's addresses; a family without a
    /// range is open to all.
    pub source_ranges: Vec<IpNet>,
    /// Which endpoints clients of the cluster addresses get.
    pub internal_scope: Scope,
    /// Which endpoints clients of all other addresses get.
    pub external_scope: Scope,
    /// For how many seconds a client stays with its backend, if it does.
    pub affinity: Option<u32>,
    /// Endpoints of both families, sorted by address and port, each once.
    pub backends: Vec<DesiredBackend>,
}

impl DesiredService {
    /// The source ranges, if there is an address that they guard.
    pub fn ranges_in_force(&self) -> impl Iterator<Item = IpNet> {
        let guard = !self.load_balancer_ips.is_empty();
        self.source_ranges.iter().copied().filter(move |_| guard)
    }

    /// Whether only some clients may use a load balancer's address.
    pub fn is_guarded(&self, addr: IpAddr) -> bool {
        self.source_ranges.iter().any(|range| range.addr().is_ipv4() == addr.is_ipv4())
    }
}

#[cfg(test)]
impl DesiredService {
    /// A port that has neither addresses nor backends yet.
    pub(crate) const fn bare(key: ServicePortKey, port: u16) -> Self {
        Self {
            key,
            port,
            policy: Policy::RoundRobin,
            cluster_ips: vec![],
            node_port: None,
            load_balancer_ips: vec![],
            external_ips: vec![],
            source_ranges: vec![],
            internal_scope: Scope::Cluster,
            external_scope: Scope::Cluster,
            affinity: None,
            backends: vec![],
        }
    }
}

/// Everything that the data plane should serve.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Service ports by their key; shared, since most stay as they are when
    /// others change.
    pub services: BTreeMap<ServicePortKey, Arc<DesiredService>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_names_round_trip_and_are_what_the_command_line_takes() {
        for policy in Policy::value_variants() {
            assert_eq!(policy.to_string().parse(), Ok(*policy));
            let value = policy.to_possible_value().unwrap();
            assert_eq!(value.get_name(), policy.name());
        }
        assert_eq!("fastest".parse::<Policy>(), Err(UnknownPolicy));
    }

    #[test]
    fn an_unnamed_port_leaves_no_colon() {
        let mut key = ServicePortKey {
            namespace: "default".into(),
            name: "web".into(),
            port_name: "http".into(),
            protocol: Protocol::Tcp,
        };
        assert_eq!(key.to_string(), "default/web:http");
        key.port_name.clear();
        assert_eq!(key.to_string(), "default/web");
    }
}
