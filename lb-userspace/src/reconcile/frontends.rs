//! Which frontends a Service port needs, and who may have them.

use super::refusal::Refusal;
use super::state::family;
use crate::dataplane::maps::FrontendId;
use crate::desired::{DesiredService, Scope};
use ipnet::IpNet;
use lb_common::Frontend;
use lb_common::value::{frontend_flag, frontend_kind};
use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the maps must know of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// The node's own addresses: their other ports are not ours.
    pub node_addresses: Vec<IpAddr>,
    /// Addresses on which node ports answer.
    pub node_port_addresses: Vec<IpAddr>,
    /// Whether node ports don't answer sockets of this node on loopback addresses.
    pub spare_loopback: bool,
    /// Further addresses that source translation may use.
    pub translation_addresses: Vec<IpAddr>,
    /// Where local pods are, if that is told by their addresses.
    pub pods: Vec<IpNet>,
    /// Where the cluster takes Services' addresses from; a single address is one
    /// in there that is spared.
    pub service_cidrs: Vec<IpNet>,
}

impl NetworkFacts {
    /// These facts, with further ranges of Services' addresses.
    pub(super) fn with_service_cidrs(&self, more: &BTreeSet<IpNet>) -> Cow<'_, Self> {
        if more.is_empty() {
            return Cow::Borrowed(self);
        }
        let service_cidrs = self.service_cidrs.iter().chain(more).copied().collect();
        Cow::Owned(Self { service_cidrs, ..self.clone() })
    }
}

/// The rows of a Service port with this id, each key once: of two kinds of the
/// same address, the one that asks more of clients counts.
pub(super) fn rows_of(
    service: &DesiredService,
    id: u32,
    facts: &NetworkFacts,
) -> Vec<(FrontendId, Frontend)> {
    let proto = service.key.protocol.number();
    let row = |kind, scope: Scope, flags| Frontend {
        service: id,
        kind,
        scope: scope.number(),
        flags,
        pad: 0,
    };
    let mut rows = BTreeMap::new();
    let mut add = |addr: IpAddr, row: Frontend, whole: u8| {
        rows.entry(FrontendId::port(addr, service.port, proto)).or_insert(row);
        // The other ports of an address of the node's own are not ours: an
        // administrator may be on one of them.
        if !facts.node_addresses.contains(&addr) {
            let whole = Frontend { kind: whole, ..Frontend::default() };
            rows.entry(FrontendId::address(addr)).or_insert(whole);
        }
    };
    for &addr in &service.cluster_ips {
        let row = row(frontend_kind::CLUSTER_IP, service.internal_scope, 0);
        add(addr, row, frontend_kind::ADDRESS);
    }
    for &addr in &service.load_balancer_ips {
        let flags = if service.is_guarded(addr) { frontend_flag::SOURCE_RANGES } else { 0 };
        let row = row(frontend_kind::LOAD_BALANCER, service.external_scope, flags);
        add(addr, row, frontend_kind::EXTERNAL_ADDRESS);
    }
    for &addr in &service.external_ips {
        let row = row(frontend_kind::EXTERNAL_IP, service.external_scope, 0);
        add(addr, row, frontend_kind::EXTERNAL_ADDRESS);
    }
    if let Some(port) = service.node_port {
        let families = families(service);
        let row = row(frontend_kind::NODE_PORT, service.external_scope, 0);
        for &addr in facts.node_port_addresses.iter().filter(|addr| families[family(**addr)]) {
            rows.entry(FrontendId::port(addr, port, proto)).or_insert(row);
        }
        if !facts.spare_loopback {
            rows.extend(loopback_rows(families, port, proto, row));
        }
    }
    rows.into_iter().collect()
}

/// A node port's rows on the loopback addresses, for sockets of this node.
fn loopback_rows(
    families: [bool; 2],
    port: u16,
    proto: u8,
    row: Frontend,
) -> impl Iterator<Item = (FrontendId, Frontend)> {
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    addresses
        .into_iter()
        .filter(move |addr| families[family(*addr)])
        .map(move |addr| (FrontendId::loopback(addr, port, proto), row))
}

/// Which families the Service port has: those of its addresses, or without
/// any those of its backends.
fn families(service: &DesiredService) -> [bool; 2] {
    let backends = service.backends.iter().map(|backend| backend.addr);
    let mut families = [false; 2];
    if service.cluster_ips.is_empty() {
        backends.for_each(|addr| families[family(addr)] = true);
    } else {
        service.cluster_ips.iter().for_each(|addr| families[family(*addr)] = true);
    }
    families
}

/// The frontends that shall be there, each with one owner.
#[derive(Debug)]
pub(super) struct Claims {
    rows: BTreeMap<FrontendId, Frontend>,
    used: [u32; 2],
    capacity: [u32; 2],
}

impl Claims {
    /// No claims yet; at most `capacity` by family.
    pub(super) const fn new(capacity: [u32; 2]) -> Self {
        Self { rows: BTreeMap::new(), used: [0; 2], capacity }
    }

    /// Claims every row, or none. Returns those that were free before.
    pub(super) fn claim(
        &mut self,
        rows: &[(FrontendId, Frontend)],
    ) -> Result<Vec<FrontendId>, Refusal> {
        let mut claimed = Vec::new();
        for (id, row) in rows {
            match self.claim_one(*id, *row) {
                Ok(true) => claimed.push(*id),
                Ok(false) => {}
                Err(refusal) => {
                    self.release(&claimed);
                    return Err(refusal);
                }
            }
        }
        Ok(claimed)
    }

    fn claim_one(&mut self, id: FrontendId, row: Frontend) -> Result<bool, Refusal> {
        match self.rows.entry(id) {
            Entry::Occupied(entry) if *entry.get() == row => Ok(false),
            // An address that is one Service's ClusterIP and another's external
            // address is first of all the ClusterIP.
            Entry::Occupied(mut entry) if id.is_address() => {
                if row.kind == frontend_kind::ADDRESS {
                    entry.insert(row);
                }
                Ok(false)
            }
            Entry::Occupied(_) => Err(Refusal::Taken { frontend: id }),
            Entry::Vacant(entry) => {
                let family = id.family();
                if self.used[family] >= self.capacity[family] {
                    return Err(Refusal::NoFrontend {
                        family: ["IPv4", "IPv6"][family],
                        max: self.capacity[family],
                    });
                }
                entry.insert(row);
                self.used[family] += 1;
                Ok(true)
            }
        }
    }

    /// Gives up rows that [`Claims::claim`] returned.
    pub(super) fn release(&mut self, claimed: &[FrontendId]) {
        for id in claimed {
            if self.rows.remove(id).is_some() {
                self.used[id.family()] -= 1;
            }
        }
    }

    /// Keeps what a Service port has where nobody else wants it.
    pub(super) fn keep(&mut self, programmed: &BTreeMap<FrontendId, Frontend>, service: u32) {
        let owned =
            programmed.iter().filter(|(id, row)| row.service == service && !id.is_address());
        for (id, row) in owned {
            let address = FrontendId::address(id.addr);
            let whole = programmed.get(&address).filter(|_| row.kind != frontend_kind::NODE_PORT);
            let kept = self.claim_one(*id, *row).is_ok();
            // Without room for the row of the address, unknown ports of it are
            // routed on: better than to take the Service port out of service.
            if let Some(whole) = whole.filter(|_| kept)
                && self.claim_one(address, *whole).is_err()
            {
                tracing::debug!(%id, "no room for the row of the address");
            }
        }
    }

    /// The rows.
    pub(super) fn into_rows(self) -> BTreeMap<FrontendId, Frontend> {
        self.rows
    }
}
