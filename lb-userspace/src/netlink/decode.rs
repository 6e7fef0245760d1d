//! What netlink says of links, addresses and routes, reduced to the facts that
//! matter here. An attribute that is not understood is passed over.

use super::NetlinkError;
use super::request::{Message, request};
use rtnetlink::packet_core::{NlaBuffer, NlasIterator};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Length of `struct ifinfomsg`.
const LINK_HEADER: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_HEADER: usize = 8;
/// Length of `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// Length of `struct rtnexthop`.
const NEXT_HOP_HEADER: usize = 8;

/// `IFA_F_*` of an address whose uniqueness is not known, or known not to be:
/// the kernel takes no packets for it.
const UNCONFIRMED: u32 = libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED;

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkFacts {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Kind; none for a physical device.
    pub kind: Option<String>,
    /// `ARPHRD_*`.
    pub hardware: u16,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Index of the bridge, bond or the like that this is a port of.
    pub master: Option<u32>,
    /// Whether its other end, or what it stands on, is in another network namespace.
    pub other_netns: bool,
    /// Whether it is up and has a carrier.
    pub running: bool,
}

/// An address of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressFacts {
    /// Interface index.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
    /// Whether new connections may use it as their source.
    pub usable: bool,
    /// Whether its uniqueness is not known yet, or known not to be.
    pub unconfirmed: bool,
    /// Whether it is an IPv6 privacy address.
    pub temporary: bool,
}

/// All that is known of the network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every link, by index.
    pub links: Vec<LinkFacts>,
    /// Every address, in the kernel's order of preference.
    pub addresses: Vec<AddressFacts>,
    /// Interfaces that carry a default route of the main table.
    pub default_routes: BTreeSet<u32>,
}

/// Every link.
pub(super) fn links() -> Result<Vec<LinkFacts>, NetlinkError> {
    let mut body = vec![0_u8; LINK_HEADER];
    // Statistics would be most of the reply.
    attribute(&mut body, libc::IFLA_EXT_MASK, 1 << 3);
    let replies = request("list the links", libc::RTM_GETLINK, libc::NLM_F_DUMP, &body)?;
    let mut links: Vec<LinkFacts> = replies.iter().filter_map(link).collect();
    links.sort_by_key(|link| link.index);
    Ok(links)
}

/// Every address.
pub(super) fn addresses() -> Result<Vec<AddressFacts>, NetlinkError> {
    let body = [0_u8; ADDRESS_HEADER];
    let replies = request("list the addresses", libc::RTM_GETADDR, libc::NLM_F_DUMP, &body)?;
    Ok(replies.iter().filter_map(address).collect())
}

/// The interfaces of every default route of the main table.
pub(super) fn default_routes() -> Result<BTreeSet<u32>, NetlinkError> {
    let body = [0_u8; ROUTE_HEADER];
    let replies = request("list the routes", libc::RTM_GETROUTE, libc::NLM_F_DUMP, &body)?;
    Ok(replies.iter().flat_map(default_route).collect())
}

fn link(message: &Message) -> Option<LinkFacts> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let payload = &message.payload;
    let flags = u32_at(payload, 8)?;
    let running = libc::IFF_UP | libc::IFF_RUNNING;
    let mut facts = LinkFacts {
        hardware: u16_at(payload, 2)?,
        index: u32_at(payload, 4)?,
        running: i32::from_ne_bytes(flags.to_ne_bytes()) & running == running,
        ..LinkFacts::default()
    };
    for nla in attributes(payload, LINK_HEADER) {
        match nla.kind() {
            libc::IFLA_ADDRESS => facts.mac = nla.value().try_into().ok(),
            libc::IFLA_IFNAME => facts.name = text(nla.value()),
            libc::IFLA_MASTER => facts.master = u32_at(nla.value(), 0),
            libc::IFLA_LINK_NETNSID => facts.other_netns = true,
            libc::IFLA_LINKINFO => {
                facts.kind = attributes(nla.value(), 0)
                    .find(|info| info.kind() == libc::IFLA_INFO_KIND)
                    .map(|info| text(info.value()));
            }
            _ => {}
        }
    }
    Some(facts)
}

fn address(message: &Message) -> Option<AddressFacts> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let payload = &message.payload;
    let &[family, prefix, flags, _] = payload.first_chunk()?;
    let mut flags = u32::from(flags);
    let (mut peer, mut local) = (None, None);
    for nla in attributes(payload, ADDRESS_HEADER) {
        match nla.kind() {
            libc::IFA_ADDRESS => peer = ip(nla.value()),
            // On a point-to-point link IFA_ADDRESS is the other end's.
            libc::IFA_LOCAL => local = ip(nla.value()),
            libc::IFA_FLAGS => flags = u32_at(nla.value(), 0).unwrap_or(flags),
            _ => {}
        }
    }
    let v6 = i32::from(family) == libc::AF_INET6;
    Some(AddressFacts {
        index: u32_at(payload, 4)?,
        address: local.or(peer)?,
        prefix,
        usable: flags & (UNCONFIRMED | libc::IFA_F_DEPRECATED | libc::IFA_F_OPTIMISTIC) == 0,
        unconfirmed: flags & UNCONFIRMED != 0,
        // The same bit says "secondary" of an IPv4 address.
        temporary: v6 && flags & libc::IFA_F_TEMPORARY != 0,
    })
}

/// The interfaces that a message names, if it is about a default route of the
/// main table.
pub(super) fn default_route(message: &Message) -> Vec<u32> {
    route_interfaces(message).unwrap_or_default()
}

fn route_interfaces(message: &Message) -> Option<Vec<u32>> {
    if message.kind != libc::RTM_NEWROUTE && message.kind != libc::RTM_DELROUTE {
        return None;
    }
    let payload = &message.payload;
    let &[_, destination, _, _, table, _, _, kind] = payload.first_chunk()?;
    if destination != 0 || table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let mut interfaces = Vec::new();
    for nla in attributes(payload, ROUTE_HEADER) {
        match nla.kind() {
            libc::RTA_OIF => interfaces.extend(u32_at(nla.value(), 0)),
            libc::RTA_MULTIPATH => {
                let mut hops = nla.value();
                while let (Some(length), Some(index)) = (u16_at(hops, 0), u32_at(hops, 4)) {
                    interfaces.push(index);
                    let next = usize::from(length).max(NEXT_HOP_HEADER).next_multiple_of(4);
                    hops = hops.get(next..).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    Some(interfaces)
}

/// The attributes behind a header of the given length, up to the first that
/// is cut short.
pub(super) fn attributes(payload: &[u8], header: usize) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(payload.get(header..).unwrap_or_default()).map_while(Result::ok)
}

/// Appends an attribute with a 32-bit value.
fn attribute(body: &mut Vec<u8>, kind: u16, value: u32) {
    body.extend(8_u16.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value.to_ne_bytes());
}

/// A string attribute, without the zero byte that ends it.
pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// A 32-bit number at an offset.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets).into()),
        16 => bytes.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into()),
        _ => None,
    }
}
