//! What the maps must know of this node, from its interfaces, its Node object
//! and the agent's flags. Pure.

use crate::cli::{BehaviourArgs, DetectLocal, NodePortAddress};
use crate::model::Node;
use crate::netlink::NetworkState;
use crate::reconcile::NetworkFacts;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The facts.
pub(super) fn facts(
    state: &NetworkState,
    node: Option<&Node>,
    behaviour: &BehaviourArgs,
) -> NetworkFacts {
    let links = state.links.iter();
    let sources = links.flat_map(|link| {
        [link.snat_v4.map(IpAddr::V4), link.snat_v6.map(IpAddr::V6)].into_iter().flatten()
    });
    // Each once: another pod with the same source is not another fact.
    let sources: BTreeSet<IpAddr> = sources.collect();
    NetworkFacts {
        node_addresses: state.node_addresses.iter().copied().collect(),
        node_port_addresses: node_port_addresses(
            &state.node_addresses,
            node,
            &behaviour.nodeport_addresses,
        ),
        spare_loopback: !behaviour.localhost_nodeports.is_on(),
        translation_addresses: sources.into_iter().collect(),
        pods: pods(node, behaviour),
        service_cidrs: Vec::new(),
    }
}

/// Where node ports answer. A family for which nothing is said is open on all
/// addresses.
fn node_port_addresses(
    own: &BTreeSet<IpAddr>,
    node: Option<&Node>,
    wanted: &[NodePortAddress],
) -> Vec<IpAddr> {
    let mut addresses = BTreeSet::new();
    for v6 in [false, true] {
        let all = own.iter().copied().filter(|addr| addr.is_ipv6() == v6);
        let ranges: Vec<&IpNet> = wanted
            .iter()
            .filter_map(|one| match one {
                NodePortAddress::Range(range) => Some(range),
                NodePortAddress::Primary | NodePortAddress::All => None,
            })
            .filter(|range| range.addr().is_ipv6() == v6)
            .collect();
        let listed = node.into_iter().flat_map(|node| node.addresses.iter().copied());
        let primary = listed
            .filter(|addr| addr.is_ipv6() == v6)
            .find(|_| wanted.contains(&NodePortAddress::Primary));
        if wanted.contains(&NodePortAddress::All) || (primary.is_none() && ranges.is_empty()) {
            addresses.extend(all);
        } else {
            addresses.extend(all.filter(|addr| ranges.iter().any(|range| range.contains(addr))));
            addresses.extend(primary);
        }
    }
    addresses.into_iter().collect()
}

/// Where local pods are, if their addresses tell: of several ranges of a family
/// the first, as with kube-proxy.
fn pods(node: Option<&Node>, behaviour: &BehaviourArgs) -> Vec<IpNet> {
    let ranges: &[IpNet] = match behaviour.detect_local {
        DetectLocal::ClusterCidr => &behaviour.cluster_cidr,
        DetectLocal::NodeCidr => node.map_or(&[], |node| &node.pod_cidrs),
        DetectLocal::Interface
        | DetectLocal::BridgeInterface
        | DetectLocal::InterfaceNamePrefix
        | DetectLocal::None => &[],
    };
    let first = |v6: bool| ranges.iter().find(|range| range.addr().is_ipv6() == v6);
    [first(false), first(true)].into_iter().flatten().map(IpNet::trunc).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ObjectName;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn open(node: Option<&Node>, wanted: &[&str]) -> Vec<String> {
        let own = ["192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8:1::1"].map(ip).into();
        let wanted: Vec<_> = wanted.iter().map(|text| text.parse().unwrap()).collect();
        let addresses = node_port_addresses(&own, node, &wanted);
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn node_ports_answer_where_the_flag_says() {
        let node = Node {
            name: ObjectName::default(),
            zone: None,
            addresses: vec![ip("192.0.2.9"), ip("192.0.2.1"), ip("2001:db8::1")],
            pod_cidrs: Vec::new(),
            leaving: false,
        };
        let all = ["192.0.2.1", "192.0.2.9", "2001:db8::1", "2001:db8:1::1"];
        assert_eq!(open(Some(&node), &["primary"]), ["192.0.2.9", "2001:db8::1"]);
        assert_eq!(open(None, &["primary"]), all);
        assert_eq!(open(Some(&node), &["all"]), all);
        assert_eq!(open(Some(&node), &["192.0.2.0/29", "2001:db8:1::/48"]), [all[0], all[3]]);
        // The other family stays open, as with kube-proxy.
        assert_eq!(open(Some(&node), &["192.0.2.0/29"]), [all[0], all[2], all[3]]);
        assert_eq!(open(Some(&node), &["primary", "192.0.2.0/29"]), all[..3]);
    }
}
