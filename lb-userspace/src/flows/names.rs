//! Which Service port a flow belongs to, by the maps alone.

use crate::dataplane::maps::{FrontendId, Maps, MapsError};
use crate::reconcile::key_of;
use lb_common::flow::flag;
use lb_common::key::place;
use lb_common::{Address, Flow, proto};
use std::collections::HashMap;
use std::net::IpAddr;

/// What people call a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Called {
    pub namespace: String,
    pub service: String,
    pub port_name: String,
    pub port: u16,
}

/// The names of the Service ports in force.
pub(super) struct Names<'a> {
    maps: &'a Maps,
    services: HashMap<u32, Called>,
    frontends: HashMap<FrontendId, u32>,
}

impl<'a> Names<'a> {
    pub(super) fn read(maps: &'a Maps) -> Result<Self, MapsError> {
        let mut services = HashMap::new();
        for (id, row) in maps.names.rows()? {
            let in_force = maps.services.get(id).is_some_and(|service| service.used == 1);
            if let Some(key) = key_of(&row).filter(|_| in_force) {
                let (namespace, service, port_name) = (key.namespace, key.name, key.port_name);
                let port = row.port.get();
                services.insert(id, Called { namespace, service, port_name, port });
            }
        }
        let frontends = maps.frontends.rows()?;
        let frontends = frontends.into_iter().map(|(id, row)| (id, row.service)).collect();
        Ok(Self { maps, services, frontends })
    }

    /// The Service port of a flow; none if it is gone, or the flow has none.
    /// Ids are used again, so either the flow's backend must still be the one
    /// that it was given, or what was dialled must still be the Service's.
    pub(super) fn of<A: Address + Into<IpAddr>>(&self, flow: &Flow<A>) -> Option<&Called> {
        let backend = self.maps.backends.get(flow.backend);
        let same_backend = backend.is_some_and(|row| row.generation == flow.generation);
        let dialled = || FrontendId {
            addr: flow.frontend.into(),
            port: flow.frontend_port.get(),
            proto: flow.proto,
            place: place::ANYWHERE,
        };
        let current =
            same_backend || self.frontends.get(&dialled()).is_some_and(|id| *id == flow.service);
        let current = current && flow.flags & flag::DIRECT == 0;
        self.services.get(&flow.service).filter(|_| current)
    }
}

/// What people call an IP protocol.
pub(super) const fn protocol(number: u8) -> &'static str {
    match proto::name(number) {
        Some(name) => name,
        None => "other",
    }
}
