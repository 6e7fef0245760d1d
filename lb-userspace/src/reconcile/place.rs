//! Finds room for one Service port: ids, slots and frontends, all or nothing.

use super::change::Name;
use super::extents::Extent;
use super::frontends::{Claims, NetworkFacts, rows_of};
use super::name::name_of;
use super::refusal::Refusal;
use super::slots::{self, Slots};
use super::state::{Endpoint, Programmed, segments};
use crate::dataplane::maps::FrontendId;
use crate::desired::DesiredService;
use std::collections::BTreeMap;
use std::time::Instant;

/// Room for a Service port.
#[derive(Debug)]
pub(super) struct Place {
    /// Its id.
    pub(super) id: u32,
    /// Whether the id was given for this.
    pub(super) is_new: bool,
    /// Its name row.
    pub(super) name: Name,
    /// Ids of its backends; `true` where the id was given for this.
    pub(super) backends: BTreeMap<Endpoint, (u32, bool)>,
    /// Slots by segment, where they must change.
    pub(super) slots: [Option<Slots>; 4],
}

/// What was taken so far, to be given back if the rest can't be had.
#[derive(Default)]
pub(super) struct Taken {
    service: Option<u32>,
    backends: Vec<u32>,
    /// Runs of slots.
    pub(super) extents: Vec<Extent>,
    frontends: Vec<FrontendId>,
}

/// Finds room, or says what is missing and leaves everything as it was.
pub(super) fn place(
    programmed: &mut Programmed,
    claims: &mut Claims,
    service: &DesiredService,
    facts: &NetworkFacts,
    now: Instant,
) -> Result<Place, Refusal> {
    let mut taken = Taken::default();
    let result = try_place(programmed, claims, service, facts, now, &mut taken);
    if result.is_err() {
        if let Some(id) = taken.service {
            programmed.service_ids.give_back(id);
        }
        // The last one first, so that the order of the pool is as it was.
        taken.backends.into_iter().rev().for_each(|id| programmed.backend_ids.give_back(id));
        taken.extents.into_iter().for_each(|extent| programmed.extents.give_back(extent));
        claims.release(&taken.frontends);
    }
    result
}

fn try_place(
    programmed: &mut Programmed,
    claims: &mut Claims,
    service: &DesiredService,
    facts: &NetworkFacts,
    now: Instant,
    taken: &mut Taken,
) -> Result<Place, Refusal> {
    let name = Name(name_of(service).map_err(|part| Refusal::NameTooLong { part })?);
    let known = programmed.services.get(&service.key).map(|known| known.id);
    let id = match known {
        Some(id) => id,
        None => service_id(programmed, now, taken)?,
    };
    taken.frontends = claims.claim(&rows_of(service, id, facts))?;
    programmed.room_for_ranges(id, service.ranges_in_force())?;
    let backends = backend_ids(programmed, service, now, taken)?;
    let mut slots = <[Option<Slots>; 4]>::default();
    for (segment, family, scope) in segments() {
        let part = slots::Place { segment, family, scope };
        slots[segment] = slots::slots(programmed, service, part, &backends, now, taken)?;
    }
    Ok(Place { id, is_new: known.is_none(), name, backends, slots })
}

fn service_id(
    programmed: &mut Programmed,
    now: Instant,
    taken: &mut Taken,
) -> Result<u32, Refusal> {
    let max = programmed.services.len() + programmed.service_ids.free();
    let id = programmed.service_ids.allocate(now).ok_or(Refusal::NoService { max })?;
    taken.service = Some(id);
    Ok(id)
}

fn backend_ids(
    programmed: &mut Programmed,
    service: &DesiredService,
    now: Instant,
    taken: &mut Taken,
) -> Result<BTreeMap<Endpoint, (u32, bool)>, Refusal> {
    let known = programmed.services.get(&service.key).map(|known| &known.backends);
    let mut ids = BTreeMap::new();
    for backend in &service.backends {
        let endpoint = (backend.addr, backend.port);
        if let Some(known) = known.and_then(|known| known.get(&endpoint)) {
            ids.insert(endpoint, (known.id, false));
            continue;
        }
        let full = Refusal::NoBackend {
            needed: service.backends.len() - ids.len(),
            max: programmed.rows.len().saturating_sub(1),
        };
        let id = programmed.backend_ids.allocate(now).ok_or(full)?;
        taken.backends.push(id);
        ids.insert(endpoint, (id, true));
    }
    Ok(ids)
}
