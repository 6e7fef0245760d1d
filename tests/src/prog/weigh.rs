//! Gives a Service its policy and weights, with the slots that the agent would
//! compile, and reads what was counted of it.

use lb_common::value::scope;
use lb_common::{Backend, Service, names};
use lb_userspace::desired::Policy;
use lb_userspace::desired::slots::{Share, compile};
use std::net::{IpAddr, SocketAddr};

use super::{Installed, Rig};

impl Rig {
    /// Puts policy and weights of an installed Service in force. Backends of
    /// weight 0 get no slots. `previous` is how many slots there were, or 0;
    /// returns how many there are, of one family.
    pub fn weigh(
        &mut self,
        service: &Installed,
        policy: Policy,
        weights: &[u16],
        previous: usize,
    ) -> usize {
        let row: Service = self.array(names::MAP_SERVICES).get(&service.id, 0).expect("its row");
        let row = Service { policy: policy.number(), ..row };
        self.set_array(names::MAP_SERVICES, service.id, row);
        let shares: Vec<Share> = service
            .backends
            .iter()
            .zip(weights)
            .map(|(&id, &weight)| {
                let row = Backend { weight, ..self.backend(id) };
                self.set_array(names::MAP_BACKENDS, id, row);
                let addr = address_of(&row);
                Share { addr: addr.ip(), port: addr.port(), weight }
            })
            .collect();
        let mut longest = 0;
        let mut ids = Vec::new();
        for v6 in [false, true] {
            let of_family = |share: &&Share| share.addr.is_ipv6() == v6;
            let family: Vec<Share> = shares.iter().filter(of_family).copied().collect();
            let place = |share: &Share| shares.iter().position(|other| other == share);
            let table = compile(policy, &family, previous);
            longest = longest.max(table.len());
            let places: Vec<Option<usize>> = family.iter().map(place).collect();
            ids.extend(table.into_iter().filter_map(|slot| Some(service.backends[places[slot]?])));
        }
        self.set_segments(service.id, scope::CLUSTER, &ids);
        longest
    }

    /// Open connections of a backend, as counted by the programs.
    pub fn open_connections(&self, id: u32) -> u64 {
        self.array(names::MAP_OPEN).get(&id, 0).expect("an array element")
    }

    /// Sets the number of open connections of a backend, as the agent does.
    pub fn set_open_connections(&mut self, id: u32, connections: u64) {
        self.set_array(names::MAP_OPEN, id, connections);
    }
}

fn address_of(row: &Backend) -> SocketAddr {
    use lb_common::{Address as _, V4, V6};
    let ip: IpAddr = match row.family {
        0 => V4::from_words(row.addr).into(),
        _ => V6::from_words(row.addr).into(),
    };
    SocketAddr::new(ip, row.port.get())
}
