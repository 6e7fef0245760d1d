//! Finds room for one Service port: ids, slots and frontends, all or nothing.

use super::change::Name;
use super::extents::Extent;
use super::frontends::{Claims, NetworkFacts, rows_of};
use super::name::name_of;
use super::refusal::Refusal;
use super::state::{Endpoint, Programmed, Slots, family};
use crate::dataplane::maps::FrontendId;
use crate::desired::{BackendState, DesiredService};
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
    /// Slots by family, where they must change.
    pub(super) slots: [Option<Slots>; 2],
}

/// What was taken so far, to be given back if the rest can't be had.
#[derive(Default)]
struct Taken {
    service: Option<u32>,
    backends: Vec<u32>,
    extents: Vec<Extent>,
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
    let backends = backend_ids(programmed, service, now, taken)?;
    let slots = [
        slots(programmed, service, 0, &backends, now, taken)?,
        slots(programmed, service, 1, &backends, now, taken)?,
    ];
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

/// The slots of one family, or `None` if those in force are right.
fn slots(
    programmed: &mut Programmed,
    service: &DesiredService,
    wanted: usize,
    backends: &BTreeMap<Endpoint, (u32, bool)>,
    now: Instant,
    taken: &mut Taken,
) -> Result<Option<Slots>, Refusal> {
    let takes_new = service
        .backends
        .iter()
        .filter(|backend| backend.state == BackendState::Active && family(backend.addr) == wanted);
    let ids: Vec<u32> = takes_new
        .filter_map(|backend| backends.get(&(backend.addr, backend.port)))
        .map(|(id, _)| *id)
        .collect();
    let known = programmed.services.get(&service.key).map(|known| &known.slots[wanted].ids);
    if known.map_or(ids.is_empty(), |known| *known == ids) {
        return Ok(None);
    }
    if ids.is_empty() {
        return Ok(Some(Slots::default()));
    }
    let full = Refusal::NoSlots { needed: ids.len() };
    let words = u32::try_from(ids.len()).map_or(u32::MAX, Extent::words_for);
    let extent = programmed.extents.allocate(words, now).ok_or(full)?;
    taken.extents.push(extent);
    Ok(Some(Slots { extent: Some(extent), ids }))
}
