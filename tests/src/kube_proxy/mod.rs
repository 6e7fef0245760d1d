//! What a user would have instead: the rules that kube-proxy makes of the same
//! Services, in the structure that its own tests show, loaded by the same
//! programs. IPv4, cluster addresses and node ports, no affinity.
//!
//! Nothing of kube-proxy runs: packets meet rules, not the process that wrote
//! them.

mod iptables;
mod nftables;
mod service;

use crate::netfilter;
use crate::netns::Namespace;
use crate::server;
use anyhow::Result;
pub use service::{Port, Service};
use std::fmt;
use std::net::Ipv4Addr;

/// From where addresses of pods come, as kube-proxy's `--cluster-cidr` says.
const PODS: &str = "10.244.0.0/16";
/// From where addresses of Services come.
const SERVICES: &str = "10.96.0.0/12";

/// How kube-proxy hands its rules to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A rule a Service port, one after the other.
    Iptables,
    /// A map of all Service ports.
    Nftables,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        })
    }
}

/// Puts rules in force in the namespace of a node with this address. It finds Services
/// in their order.
pub fn load(node: &Namespace, address: Ipv4Addr, mode: Mode, services: &[Service]) -> Result<()> {
    match mode {
        Mode::Iptables => netfilter::iptables(node, &iptables::text(services)),
        Mode::Nftables => netfilter::nft(node, &nftables::text(address, services)),
    }
}

/// Removes every rule and table of a node, and with them connection tracking.
pub fn unload(node: &Namespace) -> Result<()> {
    netfilter::flush(node)
}

/// Letters and digits that tell chains apart, as kube-proxy's hashes do.
fn hash(text: &str, length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut rest = server::sum(text.as_bytes());
    let mut hash = String::with_capacity(length);
    for _ in 0..length {
        let [digit, ..] = rest.to_le_bytes();
        hash.push(char::from(ALPHABET[usize::from(digit % 32)]));
        rest = (rest >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ rest.rotate_left(23);
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::{Service, iptables, nftables};
    use std::collections::BTreeSet;
    use std::net::Ipv4Addr;

    fn services() -> Vec<Service> {
        (1..=30_000).map(Service::idle).collect()
    }

    #[test]
    fn chains_of_many_services_have_names_of_their_own() {
        let services = services();
        let text = iptables::text(&services);
        let (_, nat) = text.split_once("*nat").expect("a nat table");
        let chains: Vec<&str> = nat.lines().filter(|line| line.starts_with(":KUBE-S")).collect();
        let distinct: BTreeSet<&str> = chains.iter().copied().collect();
        // One of each, one of each of its two endpoints, and KUBE-SERVICES.
        assert_eq!((chains.len(), distinct.len()), (90_001, 90_001));

        let text = nftables::text(Ipv4Addr::new(192, 0, 2, 1), &services);
        let lines = text.lines().filter_map(|line| line.strip_prefix("add chain ip kube-proxy "));
        let chains: Vec<&str> = lines
            .filter(|name| name.starts_with("service-") || name.starts_with("endpoint-"))
            .collect();
        let distinct: BTreeSet<&str> = chains.iter().copied().collect();
        // One more: `service-endpoints-check`.
        assert_eq!((chains.len(), distinct.len()), (90_001, 90_001));
    }

    #[test]
    fn the_last_service_is_the_last_that_iptables_comes_to() {
        let services = services();
        let text = iptables::text(&services);
        let mut rules = text.lines().filter(|line| line.starts_with("-A KUBE-SERVICES"));
        assert!(rules.next_back().is_some_and(|rule| rule.ends_with("-j KUBE-NODEPORTS")));
        let address = services[services.len() - 1].address.to_string();
        assert!(rules.next_back().is_some_and(|rule| rule.contains(&address)));
    }
}
