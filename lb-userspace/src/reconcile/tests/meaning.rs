//! What the maps come to, so that two kernels can be compared that got there on
//! different ways.

use super::super::change::Name;
use super::super::image::Image;
use super::super::state::{Endpoint, endpoint_of};
use crate::dataplane::maps::FrontendId;
use ipnet::IpNet;
use lb_common::value::backend_state;
use lb_common::{Frontend, Segment};
use std::collections::{BTreeMap, BTreeSet};

/// What all of it comes to, whatever ids it has and wherever it lies.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Meaning {
    /// By the Service port's name: what its row says, the endpoints of its
    /// slots, its backends, and its ranges.
    services: BTreeMap<String, Owned>,
    /// Whose each frontend is, and what it is.
    frontends: BTreeMap<FrontendId, (String, Frontend)>,
    /// Rows that nobody owns: those that will never be used again.
    lost: Vec<String>,
}

/// What a Service port has.
#[derive(Debug, Default, PartialEq, Eq)]
struct Owned {
    header: (u8, u8, u8, u32),
    slots: [Vec<Endpoint>; 4],
    backends: BTreeMap<Endpoint, (u8, u8, u8, u16)>,
    ranges: BTreeSet<IpNet>,
}

/// Reads it.
pub(super) fn meaning(kernel: &Image) -> Meaning {
    let mut meaning = Meaning::default();
    let names: BTreeMap<u32, String> =
        kernel.names.iter().map(|(id, name)| (*id, format!("{:?}", Name(*name)))).collect();
    assert_eq!(names.len(), names.values().collect::<BTreeSet<_>>().len(), "one name twice");
    let name = |id: u32| names.get(&id).cloned().unwrap_or_default();
    for (id, row) in (0..).zip(&kernel.services) {
        if !names.contains_key(&id) {
            if row.used != 0 || row.segments != <[Segment; 4]>::default() {
                meaning.lost.push(format!("service {id}: {row:?}"));
            }
            continue;
        }
        let endpoints = |segment| {
            let ids = kernel.slots_of(segment).unwrap();
            ids.into_iter().map(|id| endpoint_of(&kernel.backends[id as usize])).collect()
        };
        let owned = Owned {
            header: (row.policy, row.used, row.proto, row.affinity),
            slots: row.segments.map(endpoints),
            ..Owned::default()
        };
        meaning.services.insert(name(id), owned);
    }
    for (id, row) in kernel.backends.iter().enumerate() {
        if row.state == backend_state::FREE {
            continue;
        }
        let what = (row.state, row.scopes, row.reason, row.weight);
        let owned = meaning.services.get_mut(&name(row.service));
        let twice = owned.map(|owned| owned.backends.insert(endpoint_of(row), what));
        if twice != Some(None) {
            meaning.lost.push(format!("backend {id}: {row:?}"));
        }
    }
    for (owner, range) in &kernel.prefixes {
        match meaning.services.get_mut(&name(*owner)) {
            Some(owned) => drop(owned.ranges.insert(*range)),
            None => meaning.lost.push(format!("range {range} of {owner}")),
        }
    }
    for (id, row) in &kernel.frontends {
        let what = Frontend { service: 0, ..*row };
        meaning.frontends.insert(*id, (name(row.service), what));
    }
    meaning
}
