//! What an interface is for, told from its kind and surroundings. Pure.
//!
//! A wrong answer has a price either way: an uplink taken for a pod's
//! interface loses replies, since clients behind it keep their address and
//! backends may answer past this node; a pod's interface taken for an uplink
//! hides the addresses of clients. So a veth is a pod's unless something says
//! otherwise, and `--uplink` is there for what nothing can tell.

use super::Role;
use super::decode::LinkFacts;

/// `ARPHRD_IP6GRE`, which the libc crate lacks.
const ARPHRD_IP6GRE: u16 = 823;
/// `ARPHRD_RAWIP`, which the libc crate lacks.
const ARPHRD_RAWIP: u16 = 519;

/// What is known of an interface beyond its own description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyHints {
    /// A default route of the main table leads over it.
    pub default_route: bool,
    /// It carries an address by which the cluster knows this node.
    pub node_address: bool,
    /// The user named it an uplink.
    pub named_uplink: bool,
}

impl PolicyHints {
    const fn any(self) -> bool {
        self.default_route || self.node_address || self.named_uplink
    }
}

/// What an interface is for, and whether its packets begin with an Ethernet
/// header; none if no packet of a Service needs to be seen there. `master` is
/// the device that it is a port of.
pub fn classify(
    link: &LinkFacts,
    master: Option<&LinkFacts>,
    hints: PolicyHints,
) -> Option<(Role, bool)> {
    let has_mac = has_mac(link.hardware)?;
    let master = master.and_then(|master| master.kind.as_deref());
    // What passes a port of these passes the device itself, whole.
    if matches!(master, Some("bond" | "team" | "hsr" | "batadv")) {
        return None;
    }
    let role = match link.kind.as_deref() {
        // A bridge and a VRF are seen through their ports; the others never
        // carry what the stack routes.
        Some(
            "bridge" | "vrf" | "dummy" | "ifb" | "nlmon" | "vsockmon" | "can" | "vcan" | "vxcan"
            | "macvtap" | "ipvtap" | "lowpan",
        ) => return None,
        Some(
            "vxlan" | "geneve" | "gre" | "gretap" | "ip6gre" | "ip6gretap" | "erspan" | "ip6erspan"
            | "ipip" | "sit" | "ip6tnl" | "vti" | "vti6" | "xfrm" | "wireguard" | "bareudp" | "amt"
            | "gtp",
        ) if !hints.named_uplink => Role::Tunnel,
        // A device without a MAC address is a tunnel's (a VPN); with one it is
        // a virtual machine's.
        Some("tun") if !has_mac && !hints.named_uplink => Role::Tunnel,
        None
        | Some(
            "bond" | "team" | "vlan" | "macvlan" | "ipvlan" | "macsec" | "hsr" | "batadv" | "dsa"
            | "wwan" | "rmnet" | "virt_wifi" | "netdevsim" | "ipoib",
        ) => Role::Uplink,
        // veth, netkit, taps, ports of Open vSwitch, and what is yet to come.
        // As a bridge's port it has neither route nor address of its own, so
        // it is a pod's: a bridge with an uplink among its veths can't be told
        // from one without.
        Some(_) if hints.any() => Role::Uplink,
        Some(_) => Role::Pod,
    };
    Some((role, has_mac))
}

/// Whether packets of this `ARPHRD_*` begin with an Ethernet header at the TC
/// hook (true) or with the IP header (false); none for hardware whose headers
/// the programs don't know. The second list is that of the kernel's
/// `dev_is_mac_header_xmit`.
const fn has_mac(hardware: u16) -> Option<bool> {
    match hardware {
        libc::ARPHRD_ETHER => Some(true),
        libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE
        | ARPHRD_IP6GRE
        | libc::ARPHRD_PPP
        | ARPHRD_RAWIP
        | libc::ARPHRD_NONE => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(kind: Option<&str>, hardware: u16) -> LinkFacts {
        LinkFacts {
            index: 7,
            name: "test0".into(),
            kind: kind.map(str::to_owned),
            hardware,
            ..LinkFacts::default()
        }
    }

    const NO_HINT: PolicyHints =
        PolicyHints { default_route: false, node_address: false, named_uplink: false };

    #[test]
    fn the_kind_decides_for_most_devices() {
        let ether = libc::ARPHRD_ETHER;
        for (kind, hardware, expected) in [
            (None, ether, Some((Role::Uplink, true))),
            (None, libc::ARPHRD_LOOPBACK, None),
            (None, ARPHRD_RAWIP, Some((Role::Uplink, false))),
            (None, libc::ARPHRD_INFINIBAND, None),
            (Some("veth"), ether, Some((Role::Pod, true))),
            (Some("netkit"), ether, Some((Role::Pod, true))),
            (Some("tun"), ether, Some((Role::Pod, true))),
            (Some("tun"), libc::ARPHRD_NONE, Some((Role::Tunnel, false))),
            (Some("wireguard"), libc::ARPHRD_NONE, Some((Role::Tunnel, false))),
            (Some("ipip"), libc::ARPHRD_TUNNEL, Some((Role::Tunnel, false))),
            (Some("ip6tnl"), libc::ARPHRD_TUNNEL6, Some((Role::Tunnel, false))),
            (Some("gre"), libc::ARPHRD_IPGRE, Some((Role::Tunnel, false))),
            (Some("gretap"), ether, Some((Role::Tunnel, true))),
            (Some("vxlan"), ether, Some((Role::Tunnel, true))),
            (Some("geneve"), ether, Some((Role::Tunnel, true))),
            (Some("bond"), ether, Some((Role::Uplink, true))),
            (Some("vlan"), ether, Some((Role::Uplink, true))),
            (Some("macvlan"), ether, Some((Role::Uplink, true))),
            (Some("bridge"), ether, None),
            (Some("dummy"), ether, None),
            (Some("vrf"), ether, None),
            (Some("vcan"), libc::ARPHRD_CAN, None),
        ] {
            assert_eq!(classify(&link(kind, hardware), None, NO_HINT), expected, "{kind:?}");
        }
    }

    #[test]
    fn a_veth_is_an_uplink_if_anything_says_so() {
        let veth = link(Some("veth"), libc::ARPHRD_ETHER);
        for hints in [
            PolicyHints { default_route: true, ..NO_HINT },
            PolicyHints { node_address: true, ..NO_HINT },
            PolicyHints { named_uplink: true, ..NO_HINT },
        ] {
            assert_eq!(classify(&veth, None, hints), Some((Role::Uplink, true)), "{hints:?}");
        }
    }

    #[test]
    fn ports_take_after_their_master() {
        let bridge = link(Some("bridge"), libc::ARPHRD_ETHER);
        let bond = link(Some("bond"), libc::ARPHRD_ETHER);
        let nic = link(None, libc::ARPHRD_ETHER);
        let veth = link(Some("veth"), libc::ARPHRD_ETHER);
        let vxlan = link(Some("vxlan"), libc::ARPHRD_ETHER);
        assert_eq!(classify(&nic, Some(&bond), NO_HINT), None);
        assert_eq!(classify(&nic, Some(&bridge), NO_HINT), Some((Role::Uplink, true)));
        assert_eq!(classify(&veth, Some(&bridge), NO_HINT), Some((Role::Pod, true)));
        assert_eq!(classify(&vxlan, Some(&bridge), NO_HINT), Some((Role::Tunnel, true)));
    }

    #[test]
    fn a_vpn_with_the_default_route_stays_a_tunnel_unless_named() {
        let vpn = link(Some("wireguard"), libc::ARPHRD_NONE);
        let route = PolicyHints { default_route: true, ..NO_HINT };
        let named = PolicyHints { named_uplink: true, ..NO_HINT };
        assert_eq!(classify(&vpn, None, route), Some((Role::Tunnel, false)));
        assert_eq!(classify(&vpn, None, named), Some((Role::Uplink, false)));
    }
}
