//! Where the cluster takes Services' addresses from.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::model::{NotProxied, Objects};

/// Addresses in those ranges that are not ours and yet somebody's: those of
/// Services that a label gives to another proxy.
pub fn spared_addresses(objects: &Objects) -> Vec<IpNet> {
    if objects.service_cidrs.is_empty() {
        return Vec::new();
    }
    let services = objects.services.values().map(|sourced| &*sourced.object);
    let others = services.filter(|one| one.not_proxied == Some(NotProxied::OtherProxy));
    others.flat_map(|service| &service.cluster_ips).map(|addr| IpNet::from(*addr)).collect()
}

/// The ranges of all ServiceCIDRs, each once.
pub fn service_cidrs(objects: &Objects) -> Vec<IpNet> {
    let cidrs = objects.service_cidrs.values();
    let ranges: BTreeSet<IpNet> =
        cidrs.flat_map(|cidr| cidr.object.ranges.iter().copied()).collect();
    ranges.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifests::read_text;

    #[test]
    fn services_of_another_proxy_are_spared_where_there_are_ranges() {
        let service = |name: &str, address: &str, labels: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n\
                 spec: {{clusterIP: {address}, ports: [{{port: 80}}]}}\n---\n"
            )
        };
        let services = service("ours", "10.96.0.1", "app: web")
            + &service("theirs", "10.96.0.2", "service.kubernetes.io/service-proxy-name: other");
        let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\n\
                    metadata: {name: c}\nspec: {cidrs: [10.96.0.0/16]}\n";
        let spared = |text: &str| spared_addresses(&read_text("a.yaml", text).objects);
        assert_eq!(spared(&services), []);
        assert_eq!(spared(&(services + cidr)), ["10.96.0.2/32".parse::<IpNet>().unwrap()]);
    }
}
