//! Calico with iptables, without encapsulation: links without addresses that
//! answer for 169.254.1.1, a route to each pod, a black hole for the node's own
//! block, and Felix's chains, which police by interface and by pods' addresses
//! and drop what connection tracking calls invalid. Each of the node's first two
//! pods has its chains, and a profile that admits everybody.

use crate::netfilter::Rules;
use crate::topology::{Layout, ROUTED};

/// The filter table, which is the same for both families.
macro_rules! filter {
    () => {
        "*filter
:FORWARD ACCEPT [0:0]
:cali-FORWARD - [0:0]
:cali-from-wl-dispatch - [0:0]
:cali-to-wl-dispatch - [0:0]
:cali-fw-cali11 - [0:0]
:cali-fw-cali12 - [0:0]
:cali-tw-cali11 - [0:0]
:cali-tw-cali12 - [0:0]
:cali-pri-kns.default - [0:0]
:cali-pro-kns.default - [0:0]
-A FORWARD -j cali-FORWARD
-A FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT
-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000
-A cali-FORWARD -i cali+ -j cali-from-wl-dispatch
-A cali-FORWARD -o cali+ -j cali-to-wl-dispatch
-A cali-from-wl-dispatch -i cali11 -g cali-fw-cali11
-A cali-from-wl-dispatch -i cali12 -g cali-fw-cali12
-A cali-from-wl-dispatch -j DROP
-A cali-to-wl-dispatch -o cali11 -g cali-tw-cali11
-A cali-to-wl-dispatch -o cali12 -g cali-tw-cali12
-A cali-to-wl-dispatch -j DROP
-A cali-fw-cali11 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-cali11 -m conntrack --ctstate INVALID -j DROP
-A cali-fw-cali11 -j MARK --set-xmark 0x0/0x10000
-A cali-fw-cali11 -j cali-pro-kns.default
-A cali-fw-cali11 -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-cali11 -j DROP
-A cali-fw-cali12 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-fw-cali12 -m conntrack --ctstate INVALID -j DROP
-A cali-fw-cali12 -j MARK --set-xmark 0x0/0x10000
-A cali-fw-cali12 -j cali-pro-kns.default
-A cali-fw-cali12 -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-fw-cali12 -j DROP
-A cali-tw-cali11 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-cali11 -m conntrack --ctstate INVALID -j DROP
-A cali-tw-cali11 -j MARK --set-xmark 0x0/0x10000
-A cali-tw-cali11 -j cali-pri-kns.default
-A cali-tw-cali11 -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-cali11 -j DROP
-A cali-tw-cali12 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-tw-cali12 -m conntrack --ctstate INVALID -j DROP
-A cali-tw-cali12 -j MARK --set-xmark 0x0/0x10000
-A cali-tw-cali12 -j cali-pri-kns.default
-A cali-tw-cali12 -m mark --mark 0x10000/0x10000 -j RETURN
-A cali-tw-cali12 -j DROP
-A cali-pri-kns.default -j MARK --set-xmark 0x10000/0x10000
-A cali-pro-kns.default -j MARK --set-xmark 0x10000/0x10000
COMMIT
"
    };
}

/// As Felix and the CNI plugin set it up, with `natOutgoing`.
pub static CALICO: Layout = Layout {
    link: "cali",
    node: "
        route add blackhole 10.244.{n}.0/24 proto bird
        route add blackhole fd00:10:244:{n}::/64 proto bird",
    peer: "
        route add 10.244.{o}.0/24 via 192.0.2.{o} proto bird
        route add fd00:10:244:{o}::/64 via 2001:db8:2::{o} proto bird",
    outer: "
        link add {link} address ee:ee:ee:ee:ee:ee type veth peer name eth0 netns {ns}
        link set {link} up
        route add 10.244.{n}.{h}/32 dev {link} scope link
        route add fd00:10:244:{n}::{h}/128 dev {link}",
    inner: "
        addr add 10.244.{n}.{h}/32 dev eth0
        addr add fd00:10:244:{n}::{h}/128 dev eth0 nodad
        link set eth0 up
        route add 169.254.1.1 dev eth0 scope link
        route add default via 169.254.1.1 dev eth0
        route add default via fe80::ecee:eeff:feee:eeee dev eth0",
    pod_sysctls: &[
        ("net.ipv4.conf.{link}.proxy_arp", "1"),
        ("net.ipv4.neigh.{link}.proxy_delay", "0"),
        ("net.ipv4.conf.{link}.rp_filter", "1"),
        ("net.ipv6.conf.{link}.proxy_ndp", "1"),
    ],
    rules: &[
        Rules::V4(concat!(
            filter!(),
            "*nat
:POSTROUTING ACCEPT [0:0]
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -j cali-POSTROUTING
-A cali-POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE --random-fully
COMMIT
"
        )),
        Rules::V6(concat!(
            filter!(),
            "*nat
:POSTROUTING ACCEPT [0:0]
:cali-POSTROUTING - [0:0]
:cali-nat-outgoing - [0:0]
-A POSTROUTING -j cali-POSTROUTING
-A cali-POSTROUTING -j cali-nat-outgoing
-A cali-nat-outgoing -s fd00:10:244::/48 ! -d fd00:10:244::/48 -j MASQUERADE --random-fully
COMMIT
"
        )),
    ],
    ..ROUTED
};
