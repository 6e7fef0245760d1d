//! Where the cluster takes Services' addresses from.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::model::Objects;

/// The ranges of all ServiceCIDRs, each once.
pub fn service_cidrs(objects: &Objects) -> Vec<IpNet> {
    let cidrs = objects.service_cidrs.values();
    let ranges: BTreeSet<IpNet> =
        cidrs.flat_map(|cidr| cidr.object.ranges.iter().copied()).collect();
    ranges.into_iter().collect()
}
