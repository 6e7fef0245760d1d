//! ServiceCIDRs: the ranges of the cluster addresses.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;

use super::{Findings, ObjectName, value};

/// A ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Name.
    pub name: ObjectName,
    /// Ranges, at most one of each family.
    pub ranges: Vec<IpNet>,
}

impl ServiceCidr {
    /// Checks a ServiceCIDR of the API; none if it is refused.
    pub fn from_api(
        name: ObjectName,
        cidr: &api::ServiceCIDR,
        findings: &mut Findings,
    ) -> Option<Self> {
        findings.check("metadata.name", value::subdomain(&name.name));
        let mut ranges = Vec::new();
        let listed = cidr.spec.iter().flat_map(|spec| &spec.cidrs).flatten();
        for (index, text) in listed.enumerate() {
            match text.parse::<IpNet>() {
                Ok(range) if range == range.trunc() => ranges.push(range),
                Ok(_) | Err(_) => findings.error(
                    format_args!("spec.cidrs[{index}]"),
                    format_args!("{text:?} is not a range of addresses such as \"10.96.0.0/16\""),
                ),
            }
        }
        (!findings.refused()).then_some(Self { name, ranges })
    }
}
