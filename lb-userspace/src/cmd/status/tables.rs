//! The tables of `lb status`: hooks, maps, flows, packets.

use crate::agent::HookInfo;
use crate::cli::Table;
use crate::dataplane::maps::MapFill;
use crate::flows::FlowCount;
use crate::view::{ServiceView, Verdicts};
use lb_common::names;
use serde::Serialize;
use std::collections::BTreeMap;

/// From how many percent on a flow table is worth a warning.
const NEARLY_FULL: u64 = 90;

/// Packets of a Service that were dropped for want of a source port.
#[derive(Debug, Serialize)]
pub(super) struct NoPort {
    pub service: String,
    pub protocol: String,
    pub packets: u64,
}

impl NoPort {
    /// None if there were none.
    pub(super) fn of(view: &ServiceView) -> Option<Self> {
        let (packets, protocol) = (view.packets_dropped_no_port, view.protocol.clone());
        (packets > 0).then(|| Self { service: view.full_name(), protocol, packets })
    }
}

pub(super) fn hooks(hooks: &[HookInfo]) -> Table {
    let mut table = Table::new(&[]);
    table.row(["  Interface", "Role", "Hook", "Mode", "Note"]);
    for hook in hooks {
        let HookInfo { interface, index: _, role, hook, mode, note, failed } = hook;
        let missing = if *failed { "FAILED" } else { "-" };
        let mode = mode.as_deref().unwrap_or(missing);
        let note = note.as_deref().unwrap_or_default();
        table.row([&format!("  {interface}"), role, hook, mode, note]);
    }
    table
}

pub(super) fn maps(fill: &[MapFill]) -> Table {
    let mut table = Table::new(&[false, true, true, true]);
    table.row(["  Map", "Used", "Max", "Memory"]);
    for MapFill { map, used, max, bytes } in fill {
        let used = used.map_or("-".to_owned(), |used| used.to_string());
        table.row([format!("  {map}"), used, max.to_string(), memory(*bytes)]);
    }
    let total = fill.iter().map(|map| map.bytes).sum();
    table.row(["  total", "", "", &memory(total)]);
    table
}

fn memory(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes < MIB {
        format!("{} KiB", bytes.div_ceil(1024))
    } else {
        format!("{}.{} MiB", bytes / MIB, bytes % MIB * 10 / MIB)
    }
}

/// Says so of a flow table: when it is full, the flows that were silent for
/// longest are forgotten.
pub(super) fn nearly_full(fill: &MapFill) -> Option<String> {
    let MapFill { map, used, max, bytes: _ } = fill;
    let flag = match *map {
        names::MAP_FLOWS_V4 => "--flows-v4",
        names::MAP_FLOWS_V6 => "--flows-v6",
        _ => return None,
    };
    let percent = u64::from((*used)?) * 100 / u64::from(*max).max(1);
    (percent >= NEARLY_FULL).then(|| {
        format!(
            "the flow table {map} is {percent} % full ({max} rows): when it is full, those that \
             were silent for longest are forgotten; a restart with {flag} makes a larger one"
        )
    })
}

/// Flows by family and protocol, a column for each state.
pub(super) fn flow_table(flows: &[FlowCount]) -> Table {
    let states = ["syn", "open", "closing", "closed", "active", "direct"];
    let mut table = Table::new(&[false, false, true, true, true, true, true, true]);
    table.row(["  Family", "Prot"].into_iter().chain(states));
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
    for FlowCount { family, protocol, state, flows } in flows {
        rows.entry((family, protocol)).or_default().insert(state, *flows);
    }
    for ((family, protocol), counts) in rows {
        let count = |state| counts.get(state).map_or("-".to_owned(), u64::to_string);
        let cells = [format!("  {family}"), protocol.to_owned()];
        table.row(cells.into_iter().chain(states.map(count)));
    }
    table
}

pub(super) fn ports(no_port: &[NoPort]) -> Table {
    let mut table = Table::new(&[false, false, true]);
    table.row(["  Service", "Prot", "Packets"]);
    for NoPort { service, protocol, packets } in no_port {
        table.row([format!("  {service}"), protocol.clone(), packets.to_string()]);
    }
    table
}

/// Verdicts that occurred, a column for each hook.
pub(super) fn packets(verdicts: &Verdicts) -> Table {
    let mut table = Table::new(&[false, true, true, true, true]);
    let hooks: Vec<&str> = verdicts.keys().copied().collect();
    table.row(["  Verdict"].into_iter().chain(hooks));
    let rows = verdicts.values().next().into_iter().flat_map(|counts| counts.keys());
    for verdict in rows {
        let counts: Vec<u64> =
            verdicts.values().map(|counts| counts.get(verdict).copied().unwrap_or(0)).collect();
        if counts.iter().any(|count| *count != 0) {
            let counts = counts.iter().map(ToString::to_string);
            table.row([format!("  {verdict}")].into_iter().chain(counts));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_table_that_is_nearly_full_is_told_of() {
        let fill = |map, used| MapFill { map, used: Some(used), max: 1000, bytes: 0 };
        let text = nearly_full(&fill(names::MAP_FLOWS_V4, 907)).unwrap();
        assert!(text.contains("LB_FLOWS_V4 is 90 % full") && text.contains("--flows-v4"), "{text}");
        assert_eq!(nearly_full(&fill(names::MAP_FLOWS_V6, 899)), None);
        assert_eq!(nearly_full(&fill(names::MAP_INTERFACES, 1000)), None);
        assert_eq!((memory(4097), memory(36_000_000)), ("5 KiB".into(), "34.3 MiB".into()));
    }
}
