//! Rows that are not what the picture says: somebody else removed or altered
//! them. For each, what is wrong, and the writes that put it right.
//!
//! Each write restores a row as it was when it came into force, so no packet
//! meets anything that the plan did not foresee, and flows keep their backends.

use super::change::{Change, Name};
use super::name::key_of;
use super::state::{Programmed, ProgrammedService, endpoint_of};
use crate::dataplane::maps::{FrontendId, Maps, MapsError, ServiceHeader};
use crate::desired::ServicePortKey;
use crate::drift::{Drift, Part};
use ipnet::IpNet;
use lb_common::key::{PODS, SERVICE_CIDRS};
use lb_common::value::{backend_state, frontend_kind};
use lb_common::{Backend, Frontend, RangeHeads, Segment, Service, ServiceName, names};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

/// What the picture is compared with: the maps, or a copy of them.
pub(super) trait Kernel {
    /// Names by Service id.
    fn names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError>;
    /// Frontends.
    fn frontends(&self) -> Result<Vec<(FrontendId, Frontend)>, MapsError>;
    /// Ranges by owner.
    fn prefixes(&self) -> Result<Vec<(u32, IpNet)>, MapsError>;
    /// A Service's row, or `None` past the end.
    fn service(&self, id: u32) -> Option<Service>;
    /// A backend's row.
    fn backend(&self, id: u32) -> Option<Backend>;
    /// A word of two slots.
    fn slots(&self, word: u32) -> Option<u64>;
    /// A word of eight buckets of the filter.
    fn filter(&self, word: u32) -> u64;
    /// How the ranges of Services' addresses begin.
    fn heads(&self, family: usize) -> RangeHeads;
}

impl Kernel for Maps {
    fn names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        self.names.rows()
    }

    fn frontends(&self) -> Result<Vec<(FrontendId, Frontend)>, MapsError> {
        self.frontends.rows()
    }

    fn prefixes(&self) -> Result<Vec<(u32, IpNet)>, MapsError> {
        self.prefixes.rows()
    }

    fn service(&self, id: u32) -> Option<Service> {
        self.services.get(id)
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(id)
    }

    fn slots(&self, word: u32) -> Option<u64> {
        self.slots.word(word)
    }

    fn filter(&self, word: u32) -> u64 {
        self.filter.word(word)
    }

    fn heads(&self, family: usize) -> RangeHeads {
        self.ranges.get(family).unwrap_or_default()
    }
}

/// What is wrong, and the writes that put it right, in their order.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What is wrong.
    pub(super) drift: Vec<Drift>,
    /// The writes.
    pub(super) changes: Vec<Change>,
}

/// Compares the picture with the kernel.
pub(super) fn find(programmed: &Programmed, kernel: &impl Kernel) -> Result<Found, MapsError> {
    let by_id = programmed.services.iter().map(|(key, service)| (service.id, (key, service)));
    let mut search = Search { programmed, kernel, by_id: by_id.collect(), found: Found::default() };
    search.names()?;
    search.services();
    search.slots();
    search.backends();
    search.filter();
    search.prefixes()?;
    search.heads();
    search.frontends()?;
    let mut found = search.found;
    // A packet may come between any two.
    found.changes.sort_by_key(rank);
    Ok(found)
}

/// What leads to others comes after them; a frontend that nobody asked for goes
/// first, as it may take another's room. The row of a whole address is there only
/// while those of its ports are.
const fn rank(change: &Change) -> u8 {
    match change {
        Change::Frontend { id, row: None } => {
            if id.is_address() {
                0
            } else {
                1
            }
        }
        Change::Filter { .. } | Change::Name { name: Some(_), .. } => 2,
        Change::Backend { .. }
        | Change::ClearBackendTraffic(_)
        | Change::ClearServiceTraffic(_) => 3,
        Change::Slots { .. } => 4,
        Change::Segment { .. } => 5,
        Change::Header { .. } => 6,
        Change::Prefix { present: true, .. } => 7,
        Change::Frontend { id, row: Some(_) } => {
            if id.is_address() {
                9
            } else {
                8
            }
        }
        Change::Heads { .. } => 9,
        Change::Prefix { present: false, .. } => 10,
        Change::Name { name: None, .. } => 11,
    }
}

struct Search<'a, K> {
    programmed: &'a Programmed,
    kernel: &'a K,
    by_id: HashMap<u32, (&'a ServicePortKey, &'a ProgrammedService)>,
    found: Found,
}

impl<K: Kernel> Search<'_, K> {
    fn add(&mut self, drift: Drift, change: Change) {
        self.found.drift.push(drift);
        self.found.changes.push(change);
    }

    /// What a Service port is called in reports, if the id is one's.
    fn of(&self, id: u32, drift: Drift) -> Drift {
        match self.by_id.get(&id) {
            Some((key, _)) => drift.of(format!("Service {key} ({})", key.protocol)),
            None => drift,
        }
    }

    fn names(&mut self) -> Result<(), MapsError> {
        let drift = |message: String| Drift::new(Part::Names, names::MAP_NAMES, message);
        let mut held: BTreeMap<u32, Name> =
            self.kernel.names()?.into_iter().map(|(id, name)| (id, Name(name))).collect();
        let services = self.programmed.services.values();
        for (id, name) in services.filter_map(|service| Some((service.id, service.name?))) {
            let message = match held.remove(&id) {
                Some(row) if row == name => continue,
                Some(_) => "its row says otherwise",
                None => "its row is missing",
            };
            let change = Change::Name { service: id, name: Some(Box::new(name)) };
            self.add(self.of(id, drift(message.to_owned())), change);
        }
        for (id, name) in held {
            let whose =
                key_of(&name.0).map_or_else(String::new, |key| format!(" names {key}, and"));
            let message = format!("row {id}{whose} is no Service port's");
            self.add(drift(message), Change::Name { service: id, name: None });
        }
        Ok(())
    }

    fn services(&mut self) {
        let drift = |message: &str| Drift::new(Part::Services, names::MAP_SERVICES, message);
        for (id, row) in (0..).map_while(|id| self.kernel.service(id).map(|row| (id, row))) {
            let found = ServiceHeader::of(&row);
            let (header, segments) = match self.by_id.get(&id) {
                Some((_, service)) => {
                    (service.header, [0, 1, 2, 3].map(|index| service.slots[index].segment()))
                }
                // What else the row of nobody says means nothing.
                None => (ServiceHeader { used: false, ..found }, [Segment::default(); 4]),
            };
            if header == found && segments == row.segments {
                continue;
            }
            let owned = self.by_id.contains_key(&id);
            let message = if owned { "its row says otherwise" } else { "is in force for nobody" };
            let message = if owned { message.to_owned() } else { format!("row {id} {message}") };
            self.found.drift.push(self.of(id, drift(&message)));
            for (index, segment) in segments.into_iter().enumerate() {
                if segment != row.segments[index] {
                    self.found.changes.push(Change::Segment { service: id, index, segment });
                }
            }
            if header != found {
                self.found.changes.push(Change::Header { service: id, header });
            }
        }
    }

    fn slots(&mut self) {
        let drift = || Drift::new(Part::Slots, names::MAP_SLOTS, "its slots say otherwise");
        for service in self.programmed.services.values() {
            for slots in &service.slots {
                let Some(extent) = slots.extent else { continue };
                let word = |two: &[u32]| {
                    let high = two.get(1).map_or(0, |id| u64::from(*id) << 32);
                    u64::from(two.first().copied().unwrap_or(0)) | high
                };
                let mut words = (extent.start..).zip(slots.ids.chunks(2));
                if words.all(|(index, two)| self.kernel.slots(index) == Some(word(two))) {
                    continue;
                }
                let change = Change::Slots { word: extent.start, backends: slots.ids.clone() };
                self.add(self.of(service.id, drift()), change);
            }
        }
    }

    fn backends(&mut self) {
        for (id, row) in (0..).zip(&self.programmed.rows) {
            // A free row is written as a whole before anybody is led to it.
            if row.state == backend_state::FREE || self.kernel.backend(id) == Some(*row) {
                continue;
            }
            let (addr, port) = endpoint_of(row);
            let message = format!("the row of {} says otherwise", SocketAddr::new(addr, port));
            let drift = Drift::new(Part::Backends, names::MAP_BACKENDS, message);
            self.add(self.of(row.service, drift), Change::Backend { backend: id, row: *row });
        }
    }

    /// One report for all flags: a bucket may be many addresses'.
    fn filter(&mut self) {
        let mut lacking = 0_usize;
        for (index, wanted) in (0..).zip(&self.programmed.filter) {
            let missing = wanted & !self.kernel.filter(index);
            if missing == 0 {
                continue;
            }
            for (bucket, flags) in (index * 8..).zip(missing.to_le_bytes()) {
                if flags != 0 {
                    lacking += 1;
                    self.found.changes.push(Change::Filter { bucket, flags });
                }
            }
        }
        if lacking > 0 {
            let message = format!("{lacking} buckets lack flags, so that packets pass unseen");
            self.found.drift.push(Drift::new(Part::Filter, names::MAP_FILTER, message));
        }
    }

    fn prefixes(&mut self) -> Result<(), MapsError> {
        let mut held = self.kernel.prefixes()?;
        held.sort_unstable();
        let wanted = || {
            let owners = self.programmed.prefixes.iter();
            owners.flat_map(|(owner, ranges)| ranges.iter().map(|range| (*owner, *range)))
        };
        let missing: Vec<_> = wanted().filter(|row| held.binary_search(row).is_err()).collect();
        let has = |(owner, range): &(u32, IpNet)| {
            self.programmed.prefixes.get(owner).is_some_and(|ranges| ranges.contains(range))
        };
        held.retain(|row| !has(row));
        for (present, rows) in [(true, missing), (false, held)] {
            for (owner, range) in rows {
                let what = match owner {
                    PODS => "local pods at ",
                    SERVICE_CIDRS => "Services' addresses at ",
                    _ => "",
                };
                let message = if present { "is missing" } else { "is nobody's" };
                let map = [names::MAP_PREFIXES_V4, names::MAP_PREFIXES_V6]
                    [usize::from(range.addr().is_ipv6())];
                let drift = Drift::new(Part::Prefixes, map, format!("{what}{range} {message}"));
                self.add(self.of(owner, drift), Change::Prefix { owner, range, present });
            }
        }
        Ok(())
    }

    fn heads(&mut self) {
        for (family, heads) in self.programmed.heads.iter().enumerate() {
            if self.kernel.heads(family) == *heads {
                continue;
            }
            let name = ["IPv4", "IPv6"][family];
            let message = format!("the row of {name} says otherwise");
            let drift = Drift::new(Part::Ranges, names::MAP_RANGES, message);
            self.add(drift, Change::Heads { family, heads: *heads });
        }
    }

    fn frontends(&mut self) -> Result<(), MapsError> {
        let wanted = &self.programmed.frontends;
        let mut found = Vec::new();
        let mut right = 0;
        let held = self.kernel.frontends()?;
        for (id, row) in &held {
            match wanted.get(id) {
                Some(known) if known == row => right += 1,
                Some(known) => found.push((*id, Some(*known), "leads elsewhere")),
                None => found.push((*id, None, "is nobody's")),
            }
        }
        if right < wanted.len() {
            let held: HashMap<_, _> = held.into_iter().collect();
            let missing = wanted.iter().filter(|(id, _)| !held.contains_key(id));
            found.extend(missing.map(|(id, row)| (*id, Some(*row), "is missing")));
        }
        for (id, row, message) in found {
            let map = [names::MAP_FRONTENDS_V4, names::MAP_FRONTENDS_V6][id.family()];
            let drift = Drift::new(Part::Frontends, map, format!("{id} {message}"));
            let owner = row.map_or(0, |row| self.owner(id, row));
            self.add(self.of(owner, drift), Change::Frontend { id, row });
        }
        Ok(())
    }

    /// The Service id that a frontend leads to; of a whole address, one of those
    /// that its ports lead to.
    fn owner(&self, id: FrontendId, row: Frontend) -> u32 {
        if !id.is_address() {
            return row.service;
        }
        let ports =
            self.programmed.frontends.range(id..).take_while(|(port, _)| port.addr == id.addr);
        let led = ports.filter(|(_, row)| row.kind != frontend_kind::NODE_PORT);
        led.map(|(_, row)| row.service).find(|service| *service != 0).unwrap_or(0)
    }
}
