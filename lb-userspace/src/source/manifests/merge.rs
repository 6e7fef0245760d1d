//! The objects of all files together, each once.

use std::collections::{BTreeMap, HashSet, btree_map};
use std::sync::Arc;

use super::file::{FileState, Update};
use super::object::AnyObject;
use crate::desired::{Problem, Severity};
use crate::model::{Changed, Changes, Kind, ObjectName, Objects, Sourced, is_same};

/// Merges files in the order given; of two objects with one name the first
/// stays. The problems are those of the others. What a file only keeps yields to
/// all that files have.
pub(super) fn merge<'a>(
    files: impl Iterator<Item = &'a FileState> + Clone,
) -> (Objects, Vec<Problem>) {
    let mut objects = Objects::default();
    let mut problems = Vec::new();
    for file in files.clone() {
        for object in file.own() {
            if let Err(first) = insert(&mut objects, &file.name, object) {
                let place = if first == file.name {
                    "earlier in this file".to_owned()
                } else {
                    format!("in {first}")
                };
                problems.push(Problem {
                    severity: Severity::Error,
                    file: file.name.to_string(),
                    object: Some(format!("{} {}", object.kind().name(), object.name())),
                    field: Some("metadata.name".to_owned()),
                    message: format!("is defined {place} already, which counts"),
                });
            }
        }
    }
    for file in files {
        for object in file.kept() {
            // Who has it already has it.
            let _ = insert(&mut objects, &file.name, object);
        }
    }
    (objects, problems)
}

/// Fails with the file that has the object already.
fn insert(objects: &mut Objects, file: &Arc<str>, object: &AnyObject) -> Result<(), Arc<str>> {
    let name = object.name();
    match object {
        AnyObject::Service(object) => add(&mut objects.services, file, name, object),
        AnyObject::EndpointSlice(object) => add(&mut objects.endpoint_slices, file, name, object),
        AnyObject::Pod(object) => add(&mut objects.pods, file, name, object),
        AnyObject::Node(object) => add(&mut objects.nodes, file, name, object),
        AnyObject::ServiceCidr(object) => add(&mut objects.service_cidrs, file, name, object),
    }
}

fn add<T>(
    map: &mut BTreeMap<ObjectName, Sourced<T>>,
    file: &Arc<str>,
    name: &ObjectName,
    object: &Arc<T>,
) -> Result<(), Arc<str>> {
    match map.entry(name.clone()) {
        btree_map::Entry::Occupied(first) => Err(Arc::clone(&first.get().file)),
        btree_map::Entry::Vacant(slot) => {
            slot.insert(Sourced { file: Arc::clone(file), object: Arc::clone(object) });
            Ok(())
        }
    }
}

/// What became of one file.
pub(super) type FileUpdate = (Arc<str>, Update);

/// Whether objects that are each there once stay so with these updates.
pub(super) fn is_simple(objects: &Objects, updates: &[FileUpdate]) -> bool {
    let old: HashSet<_> = updates.iter().flat_map(|(_, update)| &update.old).map(id).collect();
    let mut new = HashSet::new();
    updates
        .iter()
        .flat_map(|(_, update)| &update.new)
        .map(id)
        .all(|id| new.insert(id) && (old.contains(&id) || !contains(objects, id)))
}

fn id(object: &AnyObject) -> (Kind, &ObjectName) {
    (object.kind(), object.name())
}

fn contains(objects: &Objects, (kind, name): (Kind, &ObjectName)) -> bool {
    match kind {
        Kind::Service => objects.services.contains_key(name),
        Kind::EndpointSlice => objects.endpoint_slices.contains_key(name),
        Kind::Pod => objects.pods.contains_key(name),
        Kind::Node => objects.nodes.contains_key(name),
        Kind::ServiceCidr => objects.service_cidrs.contains_key(name),
    }
}

/// Does simple updates.
pub(super) fn update(objects: &mut Objects, updates: &[FileUpdate]) -> Changes {
    Changes {
        services: replace(&mut objects.services, updates, |any| {
            if let AnyObject::Service(one) = any { Some((&one.name, one)) } else { None }
        }),
        endpoint_slices: replace(&mut objects.endpoint_slices, updates, |any| {
            if let AnyObject::EndpointSlice(one) = any { Some((&one.name, one)) } else { None }
        }),
        pods: replace(&mut objects.pods, updates, |any| {
            if let AnyObject::Pod(one) = any { Some((&one.name, one)) } else { None }
        }),
        nodes: replace(&mut objects.nodes, updates, |any| {
            if let AnyObject::Node(one) = any { Some((&one.name, one)) } else { None }
        }),
        service_cidrs: replace(&mut objects.service_cidrs, updates, |any| {
            if let AnyObject::ServiceCidr(one) = any { Some((&one.name, one)) } else { None }
        }),
    }
}

fn replace<T: Clone + PartialEq>(
    map: &mut BTreeMap<ObjectName, Sourced<T>>,
    updates: &[FileUpdate],
    of_kind: impl Fn(&AnyObject) -> Option<(&ObjectName, &Arc<T>)>,
) -> Vec<Changed<T>> {
    let mut before = BTreeMap::new();
    for (_, update) in updates {
        for (name, _) in update.old.iter().filter_map(&of_kind) {
            before.insert(name.clone(), map.remove(name));
        }
    }
    for (file, update) in updates {
        for (name, object) in update.new.iter().filter_map(&of_kind) {
            before.entry(name.clone()).or_insert(None);
            let sourced = Sourced { file: Arc::clone(file), object: Arc::clone(object) };
            map.insert(name.clone(), sourced);
        }
    }
    let changed = before.into_iter().filter(|(name, old)| !is_same(old.as_ref(), map.get(name)));
    changed.map(|(name, old)| Changed { new: map.get(&name).cloned(), name, old }).collect()
}
