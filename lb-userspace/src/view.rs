//! What the kernel serves, read from the pinned maps alone, in the words of
//! people: for `lb services`, `lb status` and the metrics.

use crate::dataplane::maps::{Maps, MapsError};
use crate::desired::Policy;
use crate::reconcile::key_of;
use lb_common::value::{backend_state, frontend_kind, policy};
use lb_common::{Backend, Hook, Traffic, V4, V6, Verdict};
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
    /// `active` or `terminating`.
    pub state: &'static str,
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
    /// The port on the node's addresses.
    pub node_port: Option<u16>,
    /// How backends are picked.
    pub policy: &'static str,
    /// What the Service port got, over all its backends, also former ones.
    #[serde(flatten)]
    pub counters: Counters,
    /// Packets from clients that were refused.
    pub packets_refused: u64,
    /// Its backends.
    pub backends: Vec<BackendView>,
}

/// Every Service port in force, by namespace, name, port name and protocol.
pub fn services(maps: &Maps) -> Result<Vec<ServiceView>, MapsError> {
    let mut backends = backends_by_service(maps);
    let mut addresses: HashMap<u32, Vec<IpAddr>> = HashMap::new();
    for (id, row) in maps.frontends.rows()? {
        if row.kind == frontend_kind::CLUSTER_IP {
            addresses.entry(row.service).or_default().push(id.addr);
        }
    }
    let mut views = BTreeMap::new();
    for (id, name) in maps.names.rows()? {
        let row = maps.services.get(id).filter(|row| row.used == 1);
        let (Some(key), Some(row)) = (key_of(&name), row) else { continue };
        let mut cluster_ips = addresses.remove(&id).unwrap_or_default();
        cluster_ips.sort_unstable();
        let traffic = maps.service_traffic.get(id)?;
        let rows = backends.remove(&id).unwrap_or_default();
        let view = ServiceView {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            port_name: key.port_name.clone(),
            protocol: key.protocol.to_string(),
            port: name.port.get(),
            cluster_ips,
            node_port: Some(name.node_port.get()).filter(|port| *port != 0),
            policy: policy_name(row.policy),
            counters: traffic.into(),
            packets_refused: traffic.refused,
            backends: rows
                .into_iter()
                .map(|(id, row)| backend_view(maps, id, &row))
                .collect::<Result<_, _>>()?,
        };
        views.insert(key, view);
    }
    Ok(views.into_values().collect())
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
        state: if row.state == backend_state::ACTIVE { "active" } else { "terminating" },
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
