//! From a copy of the kernel's maps to the agent's picture of them, so that an
//! agent that starts continues where the last one ended, wherever it ended.

use super::change::{Change, Name};
use super::extents::{Extent, ExtentPool};
use super::ids::IdPool;
use super::image::Image;
use super::name::key_of;
use super::slots::Slots;
use super::state::{Programmed, ProgrammedBackend, ProgrammedService, QUARANTINE, endpoint_of};
use crate::dataplane::maps::ServiceHeader;
use crate::desired::ServicePortKey;
use ipnet::IpNet;
use lb_common::key::{PODS, SERVICE_CIDRS};
use lb_common::value::backend_state;
use lb_common::{Backend, Segment, Service};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

/// Continues with what `image` holds. The changes put right what an agent that
/// was killed halfway left behind: rows without a name, names without a row.
pub(super) fn adopt(image: Image, now: Instant) -> (Programmed, Vec<Change>) {
    let mut changes = Vec::new();
    let mut services = adopt_services(&image, &mut changes);
    let owners: HashMap<u32, ServicePortKey> =
        services.iter().map(|(key, service)| (service.id, key.clone())).collect();
    let mut lost = Vec::new();
    for (id, row) in (0..).zip(&image.backends) {
        if row.state == backend_state::FREE {
            continue;
        }
        match owners.get(&row.service).and_then(|key| services.get_mut(key)) {
            Some(service) => lost.extend(adopt_backend(service, id, row, now)),
            None => lost.push(id),
        }
    }
    clear_leftovers(&image, &owners, &mut changes);

    let until = now + QUARANTINE;
    let extents = services.values().flat_map(|service| &service.slots);
    let extents: Vec<Extent> = extents.filter_map(|slots| slots.extent).collect();
    let words = u32::try_from(image.slots.len()).unwrap_or(u32::MAX);
    // What is in force and goes with the changes rests as always. Since when the
    // rest is free is not known; nobody reads it if the image has rested.
    let given_up = given_up(&image, &extents);
    let blank = |word: u32| {
        let reads = |extent: &Extent| extent.has(word);
        (image.rested || image.slots.get(word as usize) == Some(&0)) && !given_up.iter().any(reads)
    };
    let mut programmed = Programmed {
        service_ids: service_pool(&image, &owners, until),
        backend_ids: backend_pool(&image, now),
        extents: ExtentPool::new(words, extents, blank, until),
        services,
        frontends: image.frontends.into_iter().collect(),
        frontend_capacity: image.frontend_capacity,
        prefixes: adopt_prefixes(image.prefixes, &owners, &mut changes),
        prefix_capacity: image.prefix_capacity,
        leaving: [0; 2],
        heads: image.heads,
        removed: BTreeMap::new(),
        rows: image.backends,
        filter: image.filter,
        settled: None,
    };
    for id in lost {
        changes.push(programmed.remove_backend(id, None, now));
    }
    let removed = programmed.services.iter().flat_map(|(key, service)| {
        let gone = service.backends.iter().filter(|(_, backend)| backend.removed.is_some());
        gone.map(|(endpoint, backend)| ((now, backend.id), Some((key.clone(), *endpoint))))
    });
    programmed.removed.extend(removed.collect::<Vec<_>>());
    (programmed, changes)
}

/// What rows point at that nobody has adopted: those of damaged maps, and of
/// Service ports that an agent was about to remove.
fn given_up(image: &Image, adopted: &[Extent]) -> Vec<Extent> {
    let segments = image.services.iter().flat_map(|row| row.segments);
    let segments = segments.filter(|segment| segment.len > 0);
    let extents = segments.map(|Segment { base, len }| Extent {
        start: base / 2,
        words: Extent::words_for(len.saturating_add(base % 2)),
    });
    let adopted: BTreeSet<&Extent> = adopted.iter().collect();
    extents.filter(|extent| !adopted.contains(extent)).collect()
}

fn adopt_services(
    image: &Image,
    changes: &mut Vec<Change>,
) -> BTreeMap<ServicePortKey, ProgrammedService> {
    let mut services = BTreeMap::new();
    let mut taken = BTreeSet::new();
    // Of two rows for one name, which only a damaged map has, the one in force
    // counts.
    let in_force = |id: u32| image.services.get(id as usize).is_some_and(|row| row.used == 1);
    let mut names: Vec<_> = image.names.iter().collect();
    names.sort_by_key(|(id, _)| (!in_force(*id), *id));
    for (id, name) in names {
        let row = image.services.get(*id as usize);
        match (key_of(name), row) {
            // Id 0 is never given out, so that a row of zeros names nobody.
            (Some(key), Some(row)) if *id != 0 && !services.contains_key(&key) => {
                let mut service = ProgrammedService {
                    id: *id,
                    name: Some(Name(*name)),
                    header: ServiceHeader::of(row),
                    slots: <[Slots; 4]>::default(),
                    backends: BTreeMap::new(),
                    settled: None,
                };
                for (index, segment) in row.segments.into_iter().enumerate() {
                    let slots = adopt_slots(image, segment, &mut taken);
                    if slots.segment() == segment {
                        service.slots[index] = slots;
                    } else {
                        changes.push(no_segment(*id, index));
                    }
                }
                services.insert(key, service);
            }
            _ => changes.push(Change::Name { service: *id, name: None }),
        }
    }
    services
}

/// The slots of a segment, unless it makes no sense or another Service's
/// overlaps it; then the next update gives the Service a new one.
fn adopt_slots(image: &Image, segment: Segment, taken: &mut BTreeSet<u32>) -> Slots {
    let start = segment.base / 2;
    let extent = Extent { start, words: Extent::words_for(segment.len) };
    let words = || start..start.saturating_add(extent.words);
    let sound = segment.len > 0
        && segment.base.is_multiple_of(2)
        && words().all(|word| !taken.contains(&word));
    match image.slots_of(segment) {
        Some(ids) if sound => {
            taken.extend(words());
            Slots { extent: Some(extent), ids, recipe: None }
        }
        _ => Slots::default(),
    }
}

/// Gives the Service its backend. Of two rows for one endpoint, which only a
/// damaged map has, the one in force counts; the other's id is returned.
fn adopt_backend(
    service: &mut ProgrammedService,
    id: u32,
    row: &Backend,
    now: Instant,
) -> Option<u32> {
    let removed = (row.state == backend_state::REMOVED).then_some(now);
    // Asked only where it matters: a table may be long.
    let in_force = || service.slots.iter().any(|slots| slots.ids.contains(&id));
    match service.backends.entry(endpoint_of(row)) {
        Entry::Occupied(_) if !in_force() => Some(id),
        Entry::Occupied(mut entry) => Some(entry.insert(ProgrammedBackend { id, removed }).id),
        Entry::Vacant(entry) => {
            entry.insert(ProgrammedBackend { id, removed });
            None
        }
    }
}

/// Ranges by owner; those of nobody go.
fn adopt_prefixes(
    rows: Vec<(u32, IpNet)>,
    owners: &HashMap<u32, ServicePortKey>,
    changes: &mut Vec<Change>,
) -> BTreeMap<u32, BTreeSet<IpNet>> {
    let mut prefixes: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for (owner, range) in rows {
        if matches!(owner, PODS | SERVICE_CIDRS) || owners.contains_key(&owner) {
            prefixes.entry(owner).or_default().insert(range);
        } else {
            changes.push(Change::Prefix { owner, range, present: false });
        }
    }
    prefixes
}

const fn no_segment(service: u32, index: usize) -> Change {
    Change::Segment { service, index, segment: Segment { base: 0, len: 0 } }
}

/// Takes rows out of force that no name owns.
fn clear_leftovers(
    image: &Image,
    owners: &HashMap<u32, ServicePortKey>,
    changes: &mut Vec<Change>,
) {
    for (service, row) in (0..).zip(&image.services) {
        if owners.contains_key(&service) {
            continue;
        }
        for (index, segment) in row.segments.into_iter().enumerate() {
            if segment != Segment::default() {
                changes.push(no_segment(service, index));
            }
        }
        let header = ServiceHeader { used: false, ..ServiceHeader::of(row) };
        if ServiceHeader::of(row) != header {
            changes.push(Change::Header { service, header });
        }
    }
}

fn service_pool(image: &Image, owners: &HashMap<u32, ServicePortKey>, until: Instant) -> IdPool {
    let free = (1..).zip(image.services.iter().skip(1)).filter(|(id, _)| !owners.contains_key(id));
    let (fresh, used): (Vec<_>, Vec<_>) = free.partition(|(_, row)| **row == Service::default());
    let id = |(id, _)| id;
    IdPool::new(fresh.into_iter().map(id), used.into_iter().map(id), until)
}

/// The ids that were used least often come first. A free row has rested: it was
/// REMOVED before.
fn backend_pool(image: &Image, now: Instant) -> IdPool {
    let mut free: Vec<(u32, u32)> = (1..)
        .zip(image.backends.iter().skip(1))
        .filter(|(_, row)| row.state == backend_state::FREE)
        .map(|(id, row)| (row.generation, id))
        .collect();
    free.sort_unstable();
    IdPool::new(free.into_iter().map(|(_, id)| id), [], now)
}
