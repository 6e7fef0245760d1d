//! The objects of all files together, each once.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;

use super::file::{Entry, FileState};
use super::object::AnyObject;
use crate::desired::{Problem, Severity};
use crate::model::{ObjectName, Objects, Sourced};

/// Merges files in the order given; of two objects with one name the first stays.
pub(super) fn merge<'a>(files: impl Iterator<Item = &'a FileState>) -> (Objects, Vec<Problem>) {
    let mut objects = Objects::default();
    let mut problems = Vec::new();
    for file in files {
        problems.extend_from_slice(&file.problems);
        for entry in &file.entries {
            if let Err(first) = insert(&mut objects, &file.name, entry) {
                let place = if first == file.name {
                    "earlier in this file".to_owned()
                } else {
                    format!("in {first}")
                };
                problems.push(Problem {
                    severity: Severity::Error,
                    file: file.name.to_string(),
                    object: Some(format!("{} {}", entry.kind.name(), entry.name)),
                    field: Some("metadata.name".to_owned()),
                    message: format!("is defined {place} already, which counts"),
                });
            }
        }
    }
    (objects, problems)
}

/// Fails with the file that has the object already.
fn insert(objects: &mut Objects, file: &Arc<str>, entry: &Entry) -> Result<(), Arc<str>> {
    match &entry.object {
        AnyObject::Service(object) => add(&mut objects.services, file, &entry.name, object),
        AnyObject::EndpointSlice(object) => {
            add(&mut objects.endpoint_slices, file, &entry.name, object)
        }
        AnyObject::Pod(object) => add(&mut objects.pods, file, &entry.name, object),
        AnyObject::Node(object) => add(&mut objects.nodes, file, &entry.name, object),
        AnyObject::ServiceCidr(object) => {
            add(&mut objects.service_cidrs, file, &entry.name, object)
        }
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
