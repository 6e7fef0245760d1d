//! The AWS VPC CNI: pods have addresses of a second interface's subnet, the
//! network delivers them there, and takes from each interface only what has an
//! address of its own (here by the router's strict reverse path check). What pods
//! send follows a table of that interface, by a rule for each pod. IPv6 is as in
//! its own mode, with a prefix of the first interface.

use crate::netfilter::Rules;
use crate::topology::{Layout, ROUTED};

/// As ipamd and the CNI plugin set it up, with pods on the second interface.
pub static VPC: Layout = Layout {
    link: "eni",
    router: "
        link add subnet type bridge forward_delay 0 mcast_snooping 0
        addr add 10.244.0.1/24 dev subnet
        link set subnet up",
    router_node: "
        link add s{n} type veth peer name eth1 netns {ns}
        link set s{n} master subnet up
        route add 10.244.{n}.0/24 via 10.244.0.1{n} dev subnet
        route add fd00:10:244:{n}::/64 via 2001:db8:2::{n}",
    node: "
        addr add 10.244.0.1{n}/24 dev eth1 noprefixroute
        link set eth1 up
        route add 10.244.0.1 dev eth1 scope link table 2
        route add default via 10.244.0.1 dev eth1 table 2
        rule add fwmark 0x80/0x80 lookup main pref 1024",
    peer: "",
    outer: "
        link add {link} address 02:00:00:00:e1:{h} type veth peer name eth0 netns {ns}
        link set {link} up
        route add 10.244.{n}.{h}/32 dev {link} scope link
        route add fd00:10:244:{n}::{h}/128 dev {link}
        rule add to 10.244.{n}.{h} lookup main pref 512
        rule add from 10.244.{n}.{h} lookup 2 pref 1536",
    inner: "
        addr add 10.244.{n}.{h}/32 dev eth0
        addr add fd00:10:244:{n}::{h}/128 dev eth0 nodad
        link set eth0 up
        route add 169.254.1.1 dev eth0 scope link
        neigh add 169.254.1.1 lladdr 02:00:00:00:e1:{h} dev eth0 nud permanent
        route add default via 169.254.1.1 dev eth0
        neigh add fe80::1 lladdr 02:00:00:00:e1:{h} dev eth0 nud permanent
        route add default via fe80::1 dev eth0",
    node_sysctls: &[("net.ipv4.conf.eth0.rp_filter", "2"), ("net.ipv4.conf.eth1.rp_filter", "2")],
    rules: &[Rules::V4(
        "*mangle
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth0 -m addrtype --dst-type LOCAL --limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:AWS-CONNMARK-CHAIN-0 - [0:0]
:AWS-SNAT-CHAIN-0 - [0:0]
-A PREROUTING -i eni+ -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -j CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80
-A POSTROUTING -j AWS-SNAT-CHAIN-0
-A AWS-CONNMARK-CHAIN-0 -d 10.244.0.0/16 -j RETURN
-A AWS-CONNMARK-CHAIN-0 -d 192.0.2.0/24 -j RETURN
-A AWS-CONNMARK-CHAIN-0 -j CONNMARK --set-xmark 0x80/0x80
-A AWS-SNAT-CHAIN-0 -d 10.244.0.0/16 -j RETURN
-A AWS-SNAT-CHAIN-0 -d 192.0.2.0/24 -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m addrtype ! --dst-type LOCAL -j SNAT --to-source 192.0.2.{n} --random-fully
COMMIT
",
    )],
    ..ROUTED
};
