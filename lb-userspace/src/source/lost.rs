//! What can't be read and has no last good state either, as after a start with
//! a broken file: whoever has it in force should keep it.

use std::collections::BTreeSet;

use crate::model::{Kind, ObjectName};

/// What is unknown because it can't be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// A whole file.
    anything: bool,
    /// Services that are refused.
    services: BTreeSet<ObjectName>,
    /// Namespaces in which something with endpoints is refused.
    namespaces: BTreeSet<String>,
    /// A ServiceCIDR that is refused.
    cidrs: bool,
}

impl Lost {
    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a Service, or endpoints of it, may be among what is unknown.
    pub fn may_hold(&self, namespace: &str, service: &str) -> bool {
        self.anything
            || self.namespaces.contains(namespace)
            || self.services.iter().any(|one| one.namespace == namespace && one.name == service)
    }

    /// Whether ranges of Services' addresses may be among what is unknown.
    pub const fn may_hold_cidrs(&self) -> bool {
        self.anything || self.cidrs
    }

    /// A file that can't be read at all.
    pub(in crate::source) const fn file(&mut self) {
        self.anything = true;
    }

    /// An object that is refused.
    pub(in crate::source) fn object(&mut self, kind: Kind, name: ObjectName) {
        match kind {
            Kind::Service => {
                self.services.insert(name);
            }
            // Which Service it is for is part of what can't be trusted.
            Kind::EndpointSlice | Kind::Pod => {
                self.namespaces.insert(name.namespace);
            }
            Kind::ServiceCidr => self.cidrs = true,
            Kind::Node => {}
        }
    }

    /// Adds what is unknown of another file.
    pub(in crate::source) fn extend(&mut self, other: &Self) {
        self.anything |= other.anything;
        self.cidrs |= other.cidrs;
        self.services.extend(other.services.iter().cloned());
        self.namespaces.extend(other.namespaces.iter().cloned());
    }
}
