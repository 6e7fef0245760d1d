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
    /// Checks a ServiceCIDR of the API, as the API server does; none if it is
    /// refused.
    pub fn from_api(
        name: ObjectName,
        cidr: &api::ServiceCIDR,
        findings: &mut Findings,
    ) -> Option<Self> {
        findings.check("metadata.name", value::subdomain(&name.name));
        let mut ranges = Vec::new();
        let listed: Vec<&String> =
            cidr.spec.iter().flat_map(|spec| &spec.cidrs).flatten().collect();
        for (index, text) in listed.iter().enumerate() {
            ranges.extend(findings.check(format_args!("spec.cidrs[{index}]"), value::range(text)));
        }
        if listed.is_empty() {
            findings.error("spec.cidrs", "must have at least one range");
        } else if listed.len() > 2 {
            findings.error("spec.cidrs", "must have at most two ranges, one of each family");
        } else if let [one, other] = ranges[..]
            && one.addr().is_ipv4() == other.addr().is_ipv4()
        {
            findings.error(
                "spec.cidrs",
                format_args!("{one} and {other} are of the same family: one of each is allowed"),
            );
        }
        (!findings.refused()).then_some(Self { name, ranges })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(cidrs: &[&str]) -> Result<Vec<String>, Vec<String>> {
        let name = ObjectName { namespace: String::new(), name: "kubernetes".into() };
        let api = serde_json::from_value(json!({ "spec": { "cidrs": cidrs } })).unwrap();
        let mut findings = Findings::default();
        let cidr = ServiceCidr::from_api(name, &api, &mut findings);
        let found = findings.into_vec().into_iter();
        let found = found.map(|finding| format!("{}: {}", finding.field, finding.message));
        cidr.map(|cidr| cidr.ranges.iter().map(ToString::to_string).collect())
            .ok_or_else(|| found.collect())
    }

    #[test]
    fn one_range_of_each_family_is_read() {
        for good in [
            &["10.96.0.0/16"][..],
            &["fd00:10:96::/112"],
            &["10.96.0.0/12", "fd00:10:96::/108"],
            &["fd00:10:96::/108", "10.96.0.1/32"],
        ] {
            assert_eq!(read(good).unwrap(), good);
        }
    }

    #[test]
    fn what_the_api_server_refuses_is_refused_in_one_sentence() {
        for (bad, expected) in [
            (&[][..], "spec.cidrs: must have at least one range"),
            (
                &["10.96.0.1/16"],
                "spec.cidrs[0]: \"10.96.0.1/16\" has bits beyond its length: write 10.96.0.0/16",
            ),
            (
                &["10.96.0.0/16", "fd00::1/64"],
                "spec.cidrs[1]: \"fd00::1/64\" has bits beyond its length: write fd00::/64",
            ),
            (
                &["10.96.0.0"],
                "spec.cidrs[0]: \"10.96.0.0\" is not a range of addresses such as 10.96.0.0/16",
            ),
            (
                &["010.96.0.0/16"],
                "spec.cidrs[0]: \"010.96.0.0/16\" is not a range of addresses such as 10.96.0.0/16",
            ),
            (
                &["::ffff:10.96.0.0/112"],
                "spec.cidrs[0]: \"::ffff:10.96.0.0/112\" must be written as the IPv4 range that it means",
            ),
            (
                &["10.96.0.0/16", "10.97.0.0/16"],
                "spec.cidrs: 10.96.0.0/16 and 10.97.0.0/16 are of the same family: one of each is \
                 allowed",
            ),
            (
                &["10.96.0.0/16", "fd00::/64", "10.97.0.0/16"],
                "spec.cidrs: must have at most two ranges, one of each family",
            ),
        ] {
            assert_eq!(read(bad).unwrap_err(), [expected]);
        }
    }
}
