//! From facts to [`NetworkState`]. Pure.

use super::classify::{PolicyHints, classify};
use super::decode::{Facts, LinkFacts};
use super::source::Sources;
use super::watch::{LocalClients, WatchOptions};
use super::{Beyond, Link, NetworkState, Role};

/// What the facts mean for Services.
pub fn network_state(facts: &Facts, options: &WatchOptions) -> NetworkState {
    let sources = Sources::new(facts, &options.uplink_addresses);
    let links = facts.links.iter().filter_map(|link| attachable(link, facts, &sources, options));
    NetworkState { links: links.collect(), node_addresses: sources.node_addresses() }
}

fn attachable(
    link: &LinkFacts,
    facts: &Facts,
    sources: &Sources<'_>,
    options: &WatchOptions,
) -> Option<Link> {
    let named = |patterns: &[super::Pattern]| patterns.iter().any(|p| p.matches(&link.name));
    if !options.interfaces.is_empty() && !named(&options.interfaces) {
        return None;
    }
    let own = facts.addresses.iter().filter(|address| address.index == link.index);
    let hints = PolicyHints {
        default_route: facts.default_routes.contains(&link.index),
        node_address: own.map(|a| a.address).any(|a| options.uplink_addresses.contains(&a)),
        named_uplink: named(&options.uplinks),
    };
    let master = facts.links.iter().find(|other| Some(other.index) == link.master);
    let (role, has_mac) = classify(link, master, hints)?;
    let local_clients = match &options.local_clients {
        LocalClients::Pods => role == Role::Pod,
        LocalClients::PortsOf(bridge) => {
            link.name == *bridge || master.is_some_and(|master| master.name == *bridge)
        }
        LocalClients::Named(prefix) => !prefix.is_empty() && link.name.starts_with(prefix),
        LocalClients::None => false,
    };
    Some(Link {
        index: link.index,
        name: link.name.clone(),
        kind: link.kind.clone(),
        role,
        has_mac,
        mac: link.mac,
        beyond: beyond(link, master),
        local_clients,
        snat_v4: sources.v4(link),
        snat_v6: sources.v6(link),
    })
}

fn beyond(link: &LinkFacts, master: Option<&LinkFacts>) -> Beyond {
    let bridged =
        |master: &LinkFacts| matches!(master.kind.as_deref(), Some("bridge" | "openvswitch"));
    if master.is_some_and(bridged) {
        Beyond::Bridge
    } else if link.other_netns && link.kind.as_deref() == Some("veth") {
        Beyond::Namespace
    } else {
        Beyond::Link
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::AddressFacts;
    use std::collections::BTreeSet;

    fn facts() -> Facts {
        let ether = libc::ARPHRD_ETHER;
        let link = |index, name: &str, kind: Option<&str>, hardware| LinkFacts {
            index,
            name: name.into(),
            kind: kind.map(str::to_owned),
            hardware,
            ..LinkFacts::default()
        };
        let mut port = link(4, "vethb", Some("veth"), ether);
        port.master = Some(3);
        Facts {
            links: vec![
                link(1, "lo", None, libc::ARPHRD_LOOPBACK),
                link(2, "vetha", Some("veth"), ether),
                link(3, "br0", Some("bridge"), ether),
                port,
            ],
            addresses: vec![AddressFacts {
                index: 2,
                address: "10.0.0.1".parse().unwrap(),
                prefix: 24,
                usable: true,
                unconfirmed: false,
                temporary: false,
            }],
            default_routes: BTreeSet::new(),
        }
    }

    fn roles(facts: &Facts, options: &WatchOptions) -> Vec<(String, Role)> {
        let state = network_state(facts, options);
        state.links.into_iter().map(|link| (link.name, link.role)).collect()
    }

    #[test]
    fn namespaces_joined_by_hand_keep_the_addresses_of_clients() {
        let expected = [("vetha".into(), Role::Pod), ("vethb".into(), Role::Pod)];
        assert_eq!(roles(&facts(), &WatchOptions::default()), expected);
    }

    #[test]
    fn a_veth_may_lead_to_a_bridge_or_into_a_namespace() {
        let mut facts = facts();
        for link in &mut facts.links {
            link.other_netns = true;
        }
        let state = network_state(&facts, &WatchOptions::default());
        let beyond = state.links.into_iter().map(|link| (link.name, link.beyond));
        let expected = [("vetha".into(), Beyond::Namespace), ("vethb".into(), Beyond::Bridge)];
        assert_eq!(beyond.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_nodes_address_makes_a_veth_an_uplink() {
        let mut options = WatchOptions::default();
        options.uplink_addresses.insert("10.0.0.1".parse().unwrap());
        let expected = [("vetha".into(), Role::Uplink), ("vethb".into(), Role::Pod)];
        assert_eq!(roles(&facts(), &options), expected);
    }

    #[test]
    fn clients_are_local_by_role_bridge_or_name() {
        let local = |local_clients| {
            let options = WatchOptions { local_clients, ..WatchOptions::default() };
            let links = network_state(&facts(), &options).links;
            links.iter().map(|link| link.local_clients).collect::<Vec<_>>()
        };
        assert_eq!(local(LocalClients::Pods), [true, true]);
        assert_eq!(local(LocalClients::PortsOf("br0".into())), [false, true]);
        assert_eq!(local(LocalClients::Named("vetha".into())), [true, false]);
        assert_eq!(local(LocalClients::None), [false, false]);
    }

    #[test]
    fn patterns_restrict_and_name() {
        let options = WatchOptions {
            interfaces: vec!["*b".parse().unwrap()],
            uplinks: vec!["vethb".parse().unwrap()],
            ..WatchOptions::default()
        };
        assert_eq!(roles(&facts(), &options), [("vethb".into(), Role::Uplink)]);
    }
}
