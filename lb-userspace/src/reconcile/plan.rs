//! From what is programmed to what is desired: which writes, in which order.
//!
//! The order is what keeps packets safe between any two writes, also for good,
//! should the agent die there: flags of the filter, then backends and slots that
//! nothing names yet, then one store for each segment, then frontends; what is
//! no longer wanted loses its frontends first and its rows last. A segment that
//! becomes empty is no longer wanted, either: a frontend may still lead there
//! that is about to lead elsewhere.

use super::change::Change;
use super::difference;
use super::frontends::{Claims, NetworkFacts};
use super::moves::move_all;
use super::place::{Place, place};
use super::refusal::Refusal;
use super::slots::Slots;
use super::state::{
    Endpoint, Programmed, ProgrammedBackend, ProgrammedService, QUARANTINE, address_bucket,
    backend_row, socket_bucket,
};
use crate::dataplane::maps::ServiceHeader;
use crate::desired::{Desired, DesiredService, ServicePortKey};
use lb_common::key::{PODS, SERVICE_CIDRS};
use lb_common::value::backend_state;
use lb_common::{Backend, Segment, filter};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Writes in their order, and what could not be had.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The writes.
    pub(super) changes: Vec<Change>,
    /// Service ports that keep what they had, and why.
    pub(super) refused: Vec<(ServicePortKey, Refusal)>,
    /// What of the node and the cluster stays as it was, and why.
    pub(super) unfit: Vec<(&'static str, Refusal)>,
    /// How many Service ports change.
    pub(super) changed: usize,
    /// Whether every Service port was looked at.
    pub(super) full: bool,
}

/// Writes by when they may happen.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) filter: Vec<Change>,
    prepare: Vec<Change>,
    switch: Vec<Change>,
    pub(super) frontends: Vec<Change>,
    withdraw: Vec<Change>,
}

impl Steps {
    pub(super) fn count(&self) -> usize {
        self.prepare.len() + self.switch.len() + self.withdraw.len()
    }

    fn into_changes(self) -> Vec<Change> {
        let Self { filter, prepare, switch, frontends, withdraw } = self;
        [filter, prepare, switch, frontends, withdraw].concat()
    }
}

/// Whether a Service port is not desired, or without any backend.
pub(super) fn is_missing(desired: &Desired, key: &ServicePortKey) -> bool {
    desired.services.get(key).is_none_or(|service| service.backends.is_empty())
}

/// Plans the way to `desired`; `programmed` is what it will be afterwards. Of
/// the Service ports that are `held`, those that are missing stay as they are.
pub(super) fn plan(
    programmed: &mut Programmed,
    desired: &Desired,
    held: &BTreeSet<ServicePortKey>,
    facts: &NetworkFacts,
    now: Instant,
) -> Plan {
    let mut steps = Steps::default();
    let mut plan = Plan::default();
    programmed.leaving = [0; 2];
    let settled = held.is_empty() && programmed.settled.as_ref() == Some(facts);
    if !settled || !difference::plan(programmed, desired, facts, now, &mut steps, &mut plan) {
        plan_all(programmed, desired, held, facts, now, &mut steps, &mut plan);
        plan.full = true;
    }
    let complete = held.is_empty() && plan.refused.is_empty() && plan.unfit.is_empty();
    programmed.settled = complete.then(|| facts.clone());
    plan.changes = steps.into_changes();
    plan
}

/// Looks at every Service port.
fn plan_all(
    programmed: &mut Programmed,
    desired: &Desired,
    held: &BTreeSet<ServicePortKey>,
    facts: &NetworkFacts,
    now: Instant,
    steps: &mut Steps,
    plan: &mut Plan,
) {
    let mut claims = Claims::new(programmed.frontend_capacity);
    for &addr in facts.node_addresses.iter().chain(&facts.translation_addresses) {
        steps.filter.extend(programmed.flag(address_bucket(addr), filter::NODE_ADDR));
    }
    match programmed.room_for_ranges(PODS, facts.pods.iter().copied()) {
        Ok(()) => {
            let (new, gone) = programmed.set_ranges(PODS, facts.pods.iter().copied());
            steps.prepare.extend(new);
            steps.withdraw.extend(gone);
        }
        Err(refusal) => plan.unfit.push(("ranges of local pods", refusal)),
    }
    match programmed.room_for_ranges(SERVICE_CIDRS, facts.service_cidrs.iter().copied()) {
        // Last of all, when the Services that came with a range are in force.
        Ok(()) => steps.withdraw.extend(programmed.set_service_cidrs(&facts.service_cidrs)),
        Err(refusal) => plan.unfit.push(("ranges of Services' addresses", refusal)),
    }
    // Who has something keeps it, whatever else is asked for.
    let held: BTreeSet<_> = held.iter().filter(|key| is_missing(desired, key)).collect();
    for key in &held {
        if let Some(known) = programmed.services.get(*key) {
            claims.keep(&programmed.frontends, known.id);
        }
    }
    let (known, new): (Vec<_>, Vec<_>) = desired
        .services
        .values()
        .filter(|service| !held.contains(&service.key))
        .partition(|service| programmed.services.contains_key(&service.key));
    for service in known.into_iter().chain(new) {
        let before = steps.count();
        match place(programmed, &mut claims, service, facts, now) {
            Ok(place) => settle(programmed, service, place, now, steps),
            Err(refusal) => {
                if let Some(known) = programmed.services.get(&service.key) {
                    claims.keep(&programmed.frontends, known.id);
                }
                plan.refused.push((service.key.clone(), refusal));
            }
        }
        plan.changed += usize::from(steps.count() > before);
    }
    let gone: Vec<_> = programmed
        .services
        .keys()
        .filter(|key| !desired.services.contains_key(key) && !held.contains(key))
        .cloned()
        .collect();
    plan.changed += gone.len();
    for key in gone {
        retire(programmed, &key, now, steps);
    }
    let waiting = |(key, refusal): (_, Refusal)| (key, refusal.or_waiting(programmed));
    plan.refused = std::mem::take(&mut plan.refused).into_iter().map(waiting).collect();
    let waiting = |(what, refusal): (_, Refusal)| (what, refusal.or_waiting(programmed));
    plan.unfit = std::mem::take(&mut plan.unfit).into_iter().map(waiting).collect();
    move_all(programmed, claims.into_rows(), steps);
}

/// Writes a Service port into its place.
pub(super) fn settle(
    programmed: &mut Programmed,
    desired: &Arc<DesiredService>,
    place: Place,
    now: Instant,
    steps: &mut Steps,
) {
    let proto = desired.key.protocol.number();
    let mut service = programmed.services.remove(&desired.key).unwrap_or(ProgrammedService {
        id: place.id,
        name: None,
        header: ServiceHeader::default(),
        slots: <[Slots; 4]>::default(),
        backends: BTreeMap::new(),
        settled: None,
    });
    service.settled = Some(Arc::clone(desired));
    // Before the name: who has a name has counters of its own.
    if place.is_new {
        steps.prepare.push(Change::ClearServiceTraffic(place.id));
    }
    if service.name != Some(place.name) {
        let name = Some(Box::new(place.name));
        steps.prepare.push(Change::Name { service: place.id, name });
        service.name = Some(place.name);
    }
    let affinity = desired.affinity.unwrap_or(0);
    let header = ServiceHeader { policy: desired.policy.number(), used: true, proto, affinity };
    if service.header != header {
        steps.switch.push(Change::Header { service: place.id, header });
        service.header = header;
    }
    let (new, gone) = programmed.set_ranges(place.id, desired.ranges_in_force());
    steps.prepare.extend(new);
    if desired.ranges_in_force().next().is_some() {
        // Before a frontend comes that was never meant for them.
        steps.switch.extend(gone);
    } else {
        // While frontends ask for ranges, nobody would be let in.
        steps.withdraw.extend(gone);
    }
    // Before backends are withdrawn: no slot in force names those.
    settle_slots(programmed, &mut service, place.slots, now, steps);
    settle_backends(programmed, &mut service, desired, &place.backends, now, steps);
    programmed.services.insert(desired.key.clone(), service);
}

fn settle_slots(
    programmed: &mut Programmed,
    service: &mut ProgrammedService,
    slots: [Option<Slots>; 4],
    now: Instant,
    steps: &mut Steps,
) {
    for (index, slots) in slots.into_iter().enumerate() {
        let Some(slots) = slots else { continue };
        let segment = slots.segment();
        let switch = Change::Segment { service: service.id, index, segment };
        if let Some(extent) = slots.extent {
            let backends = slots.ids.clone();
            steps.prepare.push(Change::Slots { word: extent.start, backends });
            steps.switch.push(switch);
        } else {
            steps.withdraw.push(switch);
        }
        if let Some(old) = std::mem::replace(&mut service.slots[index], slots).extent {
            programmed.extents.release(old, now + QUARANTINE);
        }
    }
}

fn settle_backends(
    programmed: &mut Programmed,
    service: &mut ProgrammedService,
    desired: &DesiredService,
    ids: &BTreeMap<Endpoint, (u32, bool)>,
    now: Instant,
    steps: &mut Steps,
) {
    let proto = desired.key.protocol.number();
    for backend in &desired.backends {
        let endpoint = (backend.addr, backend.port);
        let Some(&(id, is_new)) = ids.get(&endpoint) else { continue };
        let bucket = socket_bucket(backend.addr, backend.port, proto);
        steps.filter.extend(programmed.flag(bucket, filter::BACKEND));
        steps.filter.extend(programmed.flag(address_bucket(backend.addr), filter::BACKEND_ADDR));
        let old = programmed.row(id);
        if is_new {
            if old.generation != 0 {
                steps.prepare.push(Change::ClearBackendTraffic(id));
            }
            let row = backend_row(backend, service.id, old.generation.wrapping_add(1).max(1));
            steps.prepare.push(programmed.set_row(id, row));
            service.backends.insert(endpoint, ProgrammedBackend { id, removed: None });
        } else if let Some(known) = service.backends.get_mut(&endpoint) {
            if let Some(at) = known.removed.take() {
                programmed.removed.remove(&(at, id));
            }
            let row = backend_row(backend, service.id, old.generation);
            change_backend(programmed, id, old, row, steps);
        }
    }
    for (endpoint, backend) in &mut service.backends {
        if backend.removed.is_none() && !ids.contains_key(endpoint) {
            backend.removed = Some(now);
            let owner = Some((desired.key.clone(), *endpoint));
            steps.withdraw.push(programmed.remove_backend(backend.id, owner, now));
        }
    }
}

/// Changes a backend's row: what it gains before slots name it, what it loses
/// after they no longer do.
fn change_backend(
    programmed: &mut Programmed,
    id: u32,
    old: Backend,
    row: Backend,
    steps: &mut Steps,
) {
    let both = Backend { scopes: old.scopes | row.scopes, ..row };
    if both.scopes == old.scopes {
        if row != old {
            steps.withdraw.push(programmed.set_row(id, row));
        }
        return;
    }
    let state = backend_state::ACTIVE;
    steps.prepare.push(programmed.set_row(id, Backend { state, ..both }));
    if row != both {
        steps.withdraw.push(programmed.set_row(id, row));
    }
}

/// Takes a Service port out of service. Its frontends go before.
pub(super) fn retire(
    programmed: &mut Programmed,
    key: &ServicePortKey,
    now: Instant,
    steps: &mut Steps,
) {
    let Some(service) = programmed.services.remove(key) else { return };
    let ProgrammedService { id, name: _, header, slots, backends, settled: _ } = service;
    for (index, slots) in slots.into_iter().enumerate() {
        if let Some(extent) = slots.extent {
            let segment = Segment::default();
            steps.withdraw.push(Change::Segment { service: id, index, segment });
            programmed.extents.release(extent, now + QUARANTINE);
        }
    }
    for (endpoint, backend) in backends {
        if backend.removed.is_none() {
            let owner: Option<(ServicePortKey, Endpoint)> = Some((key.clone(), endpoint));
            steps.withdraw.push(programmed.remove_backend(backend.id, owner, now));
        }
    }
    steps.withdraw.extend(programmed.set_ranges(id, []).1);
    let header = ServiceHeader { used: false, ..header };
    steps.withdraw.push(Change::Header { service: id, header });
    steps.withdraw.push(Change::Name { service: id, name: None });
    programmed.service_ids.release(id, now + QUARANTINE);
}
