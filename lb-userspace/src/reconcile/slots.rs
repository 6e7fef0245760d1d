//! The slots of a Service port: compiled when what they are made from changes,
//! and not otherwise.

use super::extents::Extent;
use super::place::Taken;
use super::refusal::Refusal;
use super::state::{Endpoint, Programmed, family};
use crate::desired::slots::{Share, compile};
use crate::desired::{DesiredService, Scope};
use lb_common::Segment;
use std::collections::BTreeMap;
use std::time::Instant;

/// Slots of one family and scope in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// Where they lie; none if there are none.
    pub(super) extent: Option<Extent>,
    /// The backend ids.
    pub(super) ids: Vec<u32>,
    /// What they were compiled from; none if another agent did it.
    pub(super) recipe: Option<Recipe>,
}

/// What slots are compiled from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recipe {
    /// Whether a hash points into them.
    by_hash: bool,
    /// Backend ids and weights; an id has one address and port.
    backends: Vec<(u32, u16)>,
}

impl Slots {
    /// What the Service's row says.
    pub(super) fn segment(&self) -> Segment {
        let len = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.extent.map_or(Segment::default(), |extent| Segment { base: extent.start * 2, len })
    }
}

/// Which slots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Index of the segment.
    pub(super) segment: usize,
    /// Its family.
    pub(super) family: usize,
    /// Its scope.
    pub(super) scope: Scope,
}

/// The slots of one segment, or `None` if those in force are right.
pub(super) fn slots(
    programmed: &mut Programmed,
    service: &DesiredService,
    place: Place,
    backends: &BTreeMap<Endpoint, (u32, bool)>,
    now: Instant,
    taken: &mut Taken,
) -> Result<Option<Slots>, Refusal> {
    let (shares, recipe) = ingredients(service, place, backends);
    let known = programmed.services.get_mut(&service.key);
    let known = known.map(|known| &mut known.slots[place.segment]);
    if known.as_ref().is_some_and(|known| known.recipe.as_ref() == Some(&recipe)) {
        return Ok(None);
    }
    let ids_of = |previous| -> Vec<u32> {
        let table = compile(service.policy, &shares, previous);
        table.into_iter().map(|index| recipe.backends[index].0).collect()
    };
    let previous = known.as_ref().map_or(0, |known| known.ids.len());
    let mut ids = ids_of(previous);
    match known {
        Some(known) if known.ids == ids => {
            known.recipe = Some(recipe);
            return Ok(None);
        }
        None if ids.is_empty() => return Ok(None),
        Some(_) | None => {}
    }
    if ids.is_empty() {
        return Ok(Some(Slots { recipe: Some(recipe), ..Slots::default() }));
    }
    let mut extent = allocate(programmed, ids.len(), now);
    if extent.is_none() && recipe.by_hash {
        // A table that had been kept bigger than needed: better smaller, with
        // all its flows elsewhere, than none.
        ids = ids_of(0);
        extent = allocate(programmed, ids.len(), now);
    }
    let extent = extent.ok_or(Refusal::NoSlots { needed: ids.len() })?;
    taken.extents.push(extent);
    Ok(Some(Slots { extent: Some(extent), ids, recipe: Some(recipe) }))
}

fn allocate(programmed: &mut Programmed, slots: usize, now: Instant) -> Option<Extent> {
    let words = u32::try_from(slots).map_or(u32::MAX, Extent::words_for);
    programmed.extents.allocate(words, now)
}

/// The backends that take new flows there, as the compiler wants them and as
/// they are remembered; both in the same order.
fn ingredients(
    service: &DesiredService,
    place: Place,
    backends: &BTreeMap<Endpoint, (u32, bool)>,
) -> (Vec<Share>, Recipe) {
    let takes_new = service
        .backends
        .iter()
        .filter(|backend| backend.serves(place.scope) && family(backend.addr) == place.family);
    let (shares, backends) = takes_new
        .filter_map(|backend| {
            let (id, _) = backends.get(&(backend.addr, backend.port))?;
            let share = Share { addr: backend.addr, port: backend.port, weight: backend.weight };
            Some((share, (*id, backend.weight)))
        })
        .unzip();
    (shares, Recipe { by_hash: service.policy.is_by_hash(), backends })
}
