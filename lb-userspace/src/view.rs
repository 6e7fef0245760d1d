//! What the kernel serves, read from the pinned maps alone, in the words of
//! people: for `lb services`, `lb status` and the metrics.

use crate::dataplane::maps::{Maps, MapsError};
use crate::desired::{Policy, Takes};
use crate::reconcile::key_of;
use ipnet::IpNet;
use lb_common::key::SERVICE_CIDRS;
use lb_common::value::{backend_state, frontend_kind, policy, scope};
use lb_common::{Backend, Frontend, Hook, Traffic, V4, V6, Verdict};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// Counters as they are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Connections and UDP flows that were given a backend.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}

impl From<Traffic> for Counters {
    fn from(traffic: Traffic) -> Self {
        Self {
            connections: traffic.connections,
            packets_in: traffic.packets_in,
            packets_out: traffic.packets_out,
            bytes_in: traffic.bytes_in,
            bytes_out: traffic.bytes_out,
        }
    }
}

/// A backend of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendView {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// `active`, or why it takes nothing new: `terminating`, `draining`,
    /// `farther` (by topology), `not-ready`.
    pub state: &'static str,
    /// In which scopes it takes new connections: `cluster`, `local`, `both` or
    /// `none`.
    pub scope: &'static str,
    /// Its share of new connections, relative to the others'.
    pub weight: u16,
    /// What it got.
    #[serde(flatten)]
    pub counters: Counters,
}

/// A Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty if it has none.
    pub port_name: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// The port on the cluster addresses.
    pub port: u16,
    /// The cluster addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses of a load balancer.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The external addresses.
    pub external_ips: Vec<IpAddr>,
    /// The port on the node's addresses.
    pub node_port: Option<u16>,
    /// Which endpoints clients of the cluster addresses get: `cluster` or
    /// `local`.
    pub internal_scope: &'static str,
    /// Which endpoints clients of all other addresses get.
    pub external_scope: &'static str,
    /// For how many seconds a client stays with its backend, if it does.
    pub affinity_seconds: Option<u32>,
    /// How backends are picked.
    pub policy: &'static str,
    /// What the Service port got, over all its backends, also former ones.
    #[serde(flatten)]
    pub counters: Counters,
    /// Packets from clients that were refused.
    pub packets_refused: u64,
    /// Packets from clients that were dropped: the policy is Local, and no
    /// backend is on this node.
    pub packets_dropped_no_local: u64,
    /// Packets from clients that were dropped: outside the source ranges.
    pub packets_dropped_source_range: u64,
    /// Packets from clients that were dropped: no source port was free towards
    /// their backend.
    pub packets_dropped_no_port: u64,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

impl ServiceView {
    /// `namespace/name:port`, or without the port if that has no name.
    pub fn full_name(&self) -> String {
        let Self { namespace, name, port_name, .. } = self;
        if port_name.is_empty() {
            format!("{namespace}/{name}")
        } else {
            format!("{namespace}/{name}:{port_name}")
        }
    }
}

/// Every Service port in force, by namespace, name, port name and protocol.
pub fn services(maps: &Maps) -> Result<Vec<ServiceView>, MapsError> {
    let mut backends = backends_by_service(maps);
    let mut addresses: HashMap<u32, Addresses> = HashMap::new();
    for (id, row) in maps.frontends.rows()?.into_iter().filter(|(id, _)| !id.is_address()) {
        addresses.entry(row.service).or_default().add(id.addr, row);
    }
    let mut views = BTreeMap::new();
    for (id, name) in maps.names.rows()? {
        let row = maps.services.get(id).filter(|row| row.used == 1);
        let (Some(key), Some(row)) = (key_of(&name), row) else { continue };
        let addresses = addresses.remove(&id).unwrap_or_default().sorted();
        let traffic = maps.service_traffic.get(id)?;
        let rows = backends.remove(&id).unwrap_or_default();
        let view = ServiceView {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            port_name: key.port_name.clone(),
            protocol: key.protocol.to_string(),
            port: name.port.get(),
            cluster_ips: addresses.cluster,
            load_balancer_ips: addresses.load_balancer,
            external_ips: addresses.external,
            internal_scope: scope_name(addresses.internal_scope),
            external_scope: scope_name(addresses.external_scope),
            affinity_seconds: Some(row.affinity).filter(|seconds| *seconds != 0),
            node_port: Some(name.node_port.get()).filter(|port| *port != 0),
            policy: policy_name(row.policy),
            counters: traffic.into(),
            packets_refused: traffic.refused,
            packets_dropped_no_local: traffic.no_local,
            packets_dropped_source_range: traffic.out_of_range,
            packets_dropped_no_port: maps.no_port.get(id)?,
            backends: rows
                .into_iter()
                .map(|(id, row)| backend_view(maps, id, &row))
                .collect::<Result<_, _>>()?,
        };
        views.insert(key, view);
    }
    Ok(views.into_values().collect())
}

const CLUSTER: u8 = 1 << scope::CLUSTER;
const LOCAL: u8 = 1 << scope::LOCAL;

/// Where a Service port answers.
#[derive(Default)]
struct Addresses {
    cluster: Vec<IpAddr>,
    load_balancer: Vec<IpAddr>,
    external: Vec<IpAddr>,
    internal_scope: u8,
    external_scope: u8,
}

impl Addresses {
    fn add(&mut self, addr: IpAddr, row: Frontend) {
        match row.kind {
            frontend_kind::CLUSTER_IP => self.cluster.push(addr),
            frontend_kind::LOAD_BALANCER => self.load_balancer.push(addr),
            frontend_kind::EXTERNAL_IP => self.external.push(addr),
            _ => {}
        }
        if row.kind == frontend_kind::CLUSTER_IP {
            self.internal_scope = row.scope;
        } else {
            self.external_scope = row.scope;
        }
    }

    fn sorted(mut self) -> Self {
        self.cluster.sort_unstable();
        self.load_balancer.sort_unstable();
        self.external.sort_unstable();
        self
    }
}

const fn scope_name(number: u8) -> &'static str {
    if number == scope::LOCAL { "local" } else { "cluster" }
}

/// Backends in force, each Service's by address and port.
fn backends_by_service(maps: &Maps) -> HashMap<u32, Vec<(u32, Backend)>> {
    let mut by_service: HashMap<u32, Vec<(u32, Backend)>> = HashMap::new();
    for (id, row) in (0..).map_while(|id| maps.backends.get(id).map(|row| (id, row))) {
        if matches!(row.state, backend_state::ACTIVE | backend_state::TERMINATING) {
            by_service.entry(row.service).or_default().push((id, row));
        }
    }
    for rows in by_service.values_mut() {
        rows.sort_unstable_by_key(|(_, row)| (address(row), row.port.get()));
    }
    by_service
}

fn backend_view(maps: &Maps, id: u32, row: &Backend) -> Result<BackendView, MapsError> {
    Ok(BackendView {
        address: address(row),
        port: row.port.get(),
        state: Takes::describe(row.reason),
        scope: match row.scopes {
            0 => "none",
            CLUSTER => "cluster",
            LOCAL => "local",
            _ => "both",
        },
        weight: row.weight,
        counters: maps.backend_traffic.get(id)?.into(),
    })
}

fn address(row: &Backend) -> IpAddr {
    match row.family {
        0 => V4(row.addr[0]).into(),
        _ => V6(row.addr).into(),
    }
}

const fn policy_name(number: u8) -> &'static str {
    match number {
        policy::ROUND_ROBIN => Policy::RoundRobin.name(),
        policy::RANDOM => Policy::Random.name(),
        policy::SOURCE_HASH => Policy::SourceHash.name(),
        policy::MAGLEV => Policy::Maglev.name(),
        policy::LEAST_CONNECTIONS => Policy::LeastConnections.name(),
        _ => "unknown",
    }
}

/// Packets by verdict, for each hook.
pub type Verdicts = BTreeMap<&'static str, BTreeMap<&'static str, u64>>;

/// The verdicts of every hook.
pub fn verdicts(maps: &Maps) -> Result<Verdicts, MapsError> {
    let of = |hook: Hook| {
        let counts = Verdict::ALL.into_iter().map(|verdict| {
            maps.verdicts.get(hook, verdict).map(|packets| (verdict.name(), packets))
        });
        counts.collect::<Result<_, _>>().map(|counts| (hook.name(), counts))
    };
    Hook::ALL.into_iter().map(of).collect()
}

/// The ranges that the cluster takes Services' addresses from.
pub fn service_cidrs(maps: &Maps) -> Result<Vec<IpNet>, MapsError> {
    let rows = maps.prefixes.rows()?.into_iter();
    let mut ranges: Vec<IpNet> =
        rows.filter(|(owner, _)| *owner == SERVICE_CIDRS).map(|(_, range)| range).collect();
    // A single address is one that is spared.
    ranges.retain(|range| range.prefix_len() < range.max_prefix_len());
    ranges.sort_unstable();
    Ok(ranges)
}
