//! Which of the node's addresses a flow gets as its source, per interface.
//! Pure.

use super::decode::{AddressFacts, Facts, LinkFacts};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Addresses of nobody in particular: kube-proxy's IPVS mode binds every
/// Service address to this device.
const SERVICE_HOLDER: &str = "kube-ipvs0";

/// Finds sources among the facts.
pub(super) struct Sources<'a> {
    facts: &'a Facts,
    /// Addresses by which the cluster knows this node: preferred.
    node: &'a BTreeSet<IpAddr>,
    holder: Option<u32>,
}

impl<'a> Sources<'a> {
    pub(super) fn new(facts: &'a Facts, node: &'a BTreeSet<IpAddr>) -> Self {
        let holder = facts.links.iter().find(|l| l.name == SERVICE_HOLDER).map(|l| l.index);
        Self { facts, node, holder }
    }

    /// The node's own addresses: neither loopback nor link-local.
    pub(super) fn node_addresses(&self) -> BTreeSet<IpAddr> {
        let own = self.facts.addresses.iter();
        own.filter(|a| Some(a.index) != self.holder && is_global(a.address) && !a.unconfirmed)
            .map(|a| a.address)
            .collect()
    }

    /// The source of IPv4 flows that leave by this link.
    pub(super) fn v4(&self, link: &LinkFacts) -> Option<Ipv4Addr> {
        self.source(link, |address| match address {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        })
    }

    /// The source of IPv6 flows that leave by this link.
    pub(super) fn v6(&self, link: &LinkFacts) -> Option<Ipv6Addr> {
        self.source(link, |address| match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6),
        })
    }

    /// Its own address; a port's is its bridge's; else the node's first one.
    fn source<A>(&self, link: &LinkFacts, family: impl Fn(IpAddr) -> Option<A>) -> Option<A> {
        let own = |index| self.best(|address| address.index == index, &family);
        own(link.index)
            .or_else(|| own(link.master?))
            .or_else(|| self.best(|a| self.facts.default_routes.contains(&a.index), &family))
            .or_else(|| self.best(|_| true, &family))
    }

    /// The best of some addresses of one family. The kernel's order counts
    /// where nothing else does.
    fn best<A>(
        &self,
        of: impl Fn(&AddressFacts) -> bool,
        family: &impl Fn(IpAddr) -> Option<A>,
    ) -> Option<A> {
        let candidates =
            self.facts.addresses.iter().filter(|a| {
                a.usable && Some(a.index) != self.holder && is_global(a.address) && of(a)
            });
        candidates
            .filter_map(|a| family(a.address).map(|address| (self.rank(a), address)))
            .min_by_key(|(rank, _)| *rank)
            .map(|(_, address)| address)
    }

    /// Lower is better: the address that the cluster knows; then one that
    /// others on the link can reach (a host prefix is often a virtual address
    /// that moves between nodes); a privacy address last.
    fn rank(&self, address: &AddressFacts) -> (bool, bool, bool) {
        let whole = if address.address.is_ipv4() { 32 } else { 128 };
        (!self.node.contains(&address.address), address.temporary, address.prefix == whole)
    }
}

/// Whether other hosts could send to it.
pub(super) fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(index: u32, cidr: &str) -> AddressFacts {
        let (address, prefix) = cidr.split_once('/').unwrap();
        AddressFacts {
            index,
            address: address.parse().unwrap(),
            prefix: prefix.parse().unwrap(),
            usable: true,
            unconfirmed: false,
            temporary: false,
        }
    }

    fn link(index: u32, name: &str, master: Option<u32>) -> LinkFacts {
        LinkFacts { index, name: name.into(), master, ..LinkFacts::default() }
    }

    fn facts(addresses: Vec<AddressFacts>) -> Facts {
        Facts {
            links: vec![
                link(1, "lo", None),
                link(2, "eth0", None),
                link(3, "br0", None),
                link(4, "veth1", Some(3)),
                link(5, "veth2", None),
            ],
            addresses,
            default_routes: BTreeSet::from([2]),
        }
    }

    fn v4_of(facts: &Facts, node: &[&str], link: usize) -> Option<String> {
        let node = node.iter().map(|a| a.parse().unwrap()).collect();
        let found = Sources::new(facts, &node).v4(&facts.links[link]);
        found.map(|address| address.to_string())
    }

    #[test]
    fn the_nearest_address_is_the_source() {
        let facts = facts(vec![
            address(1, "127.0.0.1/8"),
            address(2, "192.0.2.1/24"),
            address(3, "10.1.0.1/24"),
        ]);
        assert_eq!(v4_of(&facts, &[], 1).as_deref(), Some("192.0.2.1"), "its own");
        assert_eq!(v4_of(&facts, &[], 3).as_deref(), Some("10.1.0.1"), "its bridge's");
        assert_eq!(v4_of(&facts, &[], 4).as_deref(), Some("192.0.2.1"), "the default route's");
    }

    #[test]
    fn host_prefixes_and_link_local_addresses_come_last_or_never() {
        let facts = facts(vec![
            address(2, "169.254.1.1/16"),
            address(2, "192.0.2.100/32"),
            address(2, "192.0.2.1/24"),
            address(5, "169.254.1.1/32"),
        ]);
        assert_eq!(v4_of(&facts, &[], 1).as_deref(), Some("192.0.2.1"));
        assert_eq!(v4_of(&facts, &["192.0.2.100"], 1).as_deref(), Some("192.0.2.100"));
        assert_eq!(v4_of(&facts, &[], 4).as_deref(), Some("192.0.2.1"));
    }

    #[test]
    fn without_an_address_there_is_no_source() {
        assert_eq!(v4_of(&facts(vec![address(1, "127.0.0.1/8")]), &[], 1), None);
    }

    #[test]
    fn unfit_ipv6_addresses_are_passed_over() {
        let mut tentative = address(2, "2001:db8::1/64");
        tentative.usable = false;
        tentative.unconfirmed = true;
        let mut privacy = address(2, "2001:db8::2/64");
        privacy.temporary = true;
        let stable = address(2, "2001:db8::3/64");
        let facts = facts(vec![tentative, privacy, stable, address(2, "fe80::1/64")]);
        let none = BTreeSet::new();
        let sources = Sources::new(&facts, &none);
        assert_eq!(sources.v6(&facts.links[1]), Some("2001:db8::3".parse().unwrap()));
        let own: Vec<String> = sources.node_addresses().iter().map(ToString::to_string).collect();
        assert_eq!(own, ["2001:db8::2", "2001:db8::3"]);
    }

    #[test]
    fn addresses_that_kube_proxy_left_are_not_the_nodes() {
        let mut facts = facts(vec![address(9, "10.96.0.1/32"), address(2, "192.0.2.1/24")]);
        facts.links.push(link(9, "kube-ipvs0", None));
        let none = BTreeSet::new();
        let own = Sources::new(&facts, &none).node_addresses();
        assert_eq!(own, BTreeSet::from(["192.0.2.1".parse::<IpAddr>().unwrap()]));
    }
}
