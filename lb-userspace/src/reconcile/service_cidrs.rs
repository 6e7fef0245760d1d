//! The ranges that the cluster takes Services' addresses from: rows of the
//! prefix maps, and the cheap test that is asked before them.

use super::change::Change;
use super::state::{Programmed, family};
use ipnet::IpNet;
use lb_common::key::SERVICE_CIDRS;
use lb_common::range::Head;
use lb_common::{RangeHeads, V4, V6};
use std::collections::BTreeSet;

impl Programmed {
    /// The ranges that are in force.
    pub(super) fn service_cidrs(&self) -> BTreeSet<IpNet> {
        self.prefixes.get(&SERVICE_CIDRS).cloned().unwrap_or_default()
    }

    /// Puts ranges in force: the prefix map knows a range as long as the cheap
    /// test does.
    pub(super) fn set_service_cidrs(&mut self, ranges: &[IpNet]) -> Vec<Change> {
        let (mut changes, gone) = self.set_ranges(SERVICE_CIDRS, ranges.iter().copied());
        let wide: Vec<IpNet> = ranges.iter().copied().filter(|range| !is_single(range)).collect();
        let merged = IpNet::aggregate(&wide);
        for (index, known) in self.heads.iter_mut().enumerate() {
            let ranges = merged.iter().filter(|range| family(range.addr()) == index);
            let heads = RangeHeads::new(ranges.map(head));
            if *known != heads {
                *known = heads;
                changes.push(Change::Heads { family: index, heads });
            }
        }
        changes.extend(gone);
        changes
    }
}

/// Whether a range is one address: no ServiceCIDR is, so it stands for one that
/// is spared.
fn is_single(range: &IpNet) -> bool {
    range.prefix_len() == range.max_prefix_len()
}

/// How a range begins.
fn head(range: &IpNet) -> Head {
    match range {
        IpNet::V4(range) => Head::new(V4::from(range.network()), V4::from(range.netmask())),
        IpNet::V6(range) => Head::new(V6::from(range.network()), V6::from(range.netmask())),
    }
}
