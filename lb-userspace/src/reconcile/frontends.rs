//! Which frontends a Service port needs, and who may have them.

use super::refusal::Refusal;
use super::state::family;
use crate::dataplane::maps::FrontendId;
use crate::desired::DesiredService;
use lb_common::Frontend;
use lb_common::value::frontend_kind;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

/// The addresses of this node, from netlink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkFacts {
    /// Addresses on which node ports answer.
    pub node_addresses: Vec<IpAddr>,
    /// Further addresses that source translation may use.
    pub translation_addresses: Vec<IpAddr>,
}

/// The rows of a Service port with this id.
pub(super) fn rows_of(
    service: &DesiredService,
    id: u32,
    facts: &NetworkFacts,
) -> Vec<(FrontendId, Frontend)> {
    let proto = service.key.protocol.number();
    let row = |kind| Frontend { service: id, kind, ..Frontend::default() };
    let mut rows = Vec::new();
    for &addr in &service.cluster_ips {
        let port = FrontendId { addr, port: service.port, proto };
        rows.push((port, row(frontend_kind::CLUSTER_IP)));
        // The other ports of an address of the node's own are not ours to
        // refuse: an administrator may be on one of them.
        if !facts.node_addresses.contains(&addr) {
            rows.push((FrontendId::address(addr), Frontend::default()));
        }
    }
    if let Some(port) = service.node_port {
        let families = families(service);
        let addresses = facts.node_addresses.iter().filter(|addr| families[family(**addr)]);
        rows.extend(
            addresses
                .map(|&addr| (FrontendId { addr, port, proto }, row(frontend_kind::NODE_PORT))),
        );
    }
    rows
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
            let whole = row.kind == frontend_kind::CLUSTER_IP;
            let whole = whole && programmed.contains_key(&address);
            let kept = self.claim_one(*id, *row).is_ok();
            // Without room for the row of the address, unknown ports of it are
            // routed on: better than to take the Service port out of service.
            if kept && whole && self.claim_one(address, Frontend::default()).is_err() {
                tracing::debug!(%id, "no room for the row of the address");
            }
        }
    }

    /// The rows.
    pub(super) fn into_rows(self) -> BTreeMap<FrontendId, Frontend> {
        self.rows
    }
}
