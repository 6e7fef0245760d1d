//! How many flows there are, by family, protocol and stage.

use super::{RowKind, stage_name};
use crate::dataplane::maps::{FlowFamily, FlowRows, FlowTable, MapsError};
use lb_common::flow::{Stage, flag};
use lb_common::{V4, V6};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowCount {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// `TCP`, `SCTP` or `UDP`.
    pub protocol: &'static str,
    /// Where they stand, or `direct`: past any Service, straight to a backend.
    pub state: &'static str,
    /// How many.
    pub flows: u64,
}

const DIRECT: &str = "direct";

/// Where connections may stand.
const CONNECTION: &[&str] = &[
    stage_name(Stage::Syn),
    stage_name(Stage::Open),
    stage_name(Stage::Closing),
    stage_name(Stage::Closed),
    DIRECT,
];

/// What can be counted: each kind is told of, also with no flows.
const KINDS: [(&str, &[&str]); 3] =
    [("TCP", CONNECTION), ("SCTP", CONNECTION), ("UDP", &[stage_name(Stage::Active), DIRECT])];

/// Counts the flows of both families, by the row that each has one of.
pub fn census(pin_dir: &Path) -> Result<Vec<FlowCount>, MapsError> {
    let mut counts = family::<V4>(pin_dir)?;
    counts.extend(family::<V6>(pin_dir)?);
    Ok(counts)
}

fn family<A: FlowFamily>(pin_dir: &Path) -> Result<Vec<FlowCount>, MapsError> {
    let table = FlowTable::<A>::open(pin_dir)?;
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for (protocol, states) in KINDS {
        counts.extend(states.iter().map(|state| ((protocol, *state), 0)));
    }
    let mut walk = FlowRows::new();
    while table.read(&mut walk)? {
        for (key, flow) in walk.rows().filter(|(k, f)| RowKind::of(k, f) == RowKind::Reverse) {
            let direct = flow.flags & flag::DIRECT != 0;
            let state = if direct { DIRECT } else { stage_name(flow.stage()) };
            *counts.entry((super::names::protocol(key.proto), state)).or_default() += 1;
        }
    }
    let count = |((protocol, state), flows)| FlowCount { family: A::NAME, protocol, state, flows };
    Ok(counts.into_iter().map(count).collect())
}
