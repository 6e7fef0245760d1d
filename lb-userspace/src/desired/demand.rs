//! How much room in the maps all Services together need.

use std::net::IpAddr;

use super::Desired;

/// Slots for each backend: of two scopes, twice, since an update needs the old ones
/// and the new ones, and as much again for weights.
const SLOTS_PER_BACKEND: usize = 8;
/// The same where slots are a Maglev table, of a little more than a hundred for each.
const SLOTS_PER_BACKEND_BY_HASH: usize = 512;
/// A node port's rows of one family: on two addresses of the node, and on loopback.
const ROWS_PER_NODE_PORT: usize = 3;

/// Rows that are needed, about as many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Service ports.
    pub services: usize,
    /// Endpoints of Service ports.
    pub backends: usize,
    /// Slots.
    pub slots: usize,
    /// Frontends of the family that has more.
    pub frontends: usize,
    /// Whether clients are remembered.
    pub affinity: bool,
}

impl Desired {
    /// What these Services need.
    pub fn demand(&self) -> Demand {
        let mut demand = Demand { services: self.services.len(), ..Demand::default() };
        let mut frontends = [0; 2];
        for service in self.services.values() {
            let backends = service.backends.len();
            let slots = if service.policy.is_by_hash() {
                SLOTS_PER_BACKEND_BY_HASH
            } else {
                SLOTS_PER_BACKEND
            };
            demand.backends += backends;
            demand.slots += backends * slots;
            demand.affinity |= service.affinity.is_some();
            let addresses =
                [&service.cluster_ips, &service.load_balancer_ips, &service.external_ips];
            for addr in addresses.into_iter().flatten() {
                // Its port's, and that of the whole address.
                frontends[usize::from(addr.is_ipv6())] += 2;
            }
            if service.node_port.is_some() {
                let has = |v6| service.cluster_ips.iter().any(|addr| IpAddr::is_ipv6(addr) == v6);
                for (rows, v6) in frontends.iter_mut().zip([false, true]) {
                    *rows += if has(v6) { ROWS_PER_NODE_PORT } else { 0 };
                }
            }
        }
        demand.frontends = frontends[0].max(frontends[1]);
        demand
    }
}
