//! What differs between two sets of objects, so that whoever follows them need
//! not look at what stayed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{EndpointSlice, Node, ObjectName, Objects, Pod, Service, ServiceCidr, Sourced};

/// An object that came, went or became another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// Its name.
    pub name: ObjectName,
    /// What it was.
    pub old: Option<Sourced<T>>,
    /// What it is.
    pub new: Option<Sourced<T>>,
}

impl<T> Changed<T> {
    /// What it was and what it is, as far as it exists.
    pub fn versions(&self) -> impl Iterator<Item = &T> {
        self.old.iter().chain(&self.new).map(|sourced| &*sourced.object)
    }
}

/// Every object that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Services.
    pub services: Vec<Changed<Service>>,
    /// EndpointSlices.
    pub endpoint_slices: Vec<Changed<EndpointSlice>>,
    /// Pods.
    pub pods: Vec<Changed<Pod>>,
    /// Nodes.
    pub nodes: Vec<Changed<Node>>,
    /// ServiceCIDRs.
    pub service_cidrs: Vec<Changed<ServiceCidr>>,
}

impl Changes {
    /// What differs between two sets.
    pub fn between(old: &Objects, new: &Objects) -> Self {
        Self {
            services: differences(&old.services, &new.services),
            endpoint_slices: differences(&old.endpoint_slices, &new.endpoint_slices),
            pods: differences(&old.pods, &new.pods),
            nodes: differences(&old.nodes, &new.nodes),
            service_cidrs: differences(&old.service_cidrs, &new.service_cidrs),
        }
    }
}

fn differences<T: Clone + PartialEq>(
    old: &BTreeMap<ObjectName, Sourced<T>>,
    new: &BTreeMap<ObjectName, Sourced<T>>,
) -> Vec<Changed<T>> {
    let names: BTreeSet<&ObjectName> = old.keys().chain(new.keys()).collect();
    let changed = names
        .into_iter()
        .map(|name| (name, old.get(name), new.get(name)))
        .filter(|(_, old, new)| !is_same(*old, *new));
    changed
        .map(|(name, old, new)| Changed {
            name: name.clone(),
            old: old.cloned(),
            new: new.cloned(),
        })
        .collect()
}

/// Whether nothing differs between two versions of an object.
pub(crate) fn is_same<T: PartialEq>(old: Option<&Sourced<T>>, new: Option<&Sourced<T>>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            old.file == new.file
                && (Arc::ptr_eq(&old.object, &new.object) || old.object == new.object)
        }
        (None, None) => true,
        _ => false,
    }
}
