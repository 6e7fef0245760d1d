//! flannel with VXLAN: the plugin `bridge` with hairpin on its ports, `flannel.1`,
//! the chains `FLANNEL-POSTRTG` and `FLANNEL-FWD`, and `br_netfilter`, which
//! flannel asks for. Nothing else is forwarded, as beside Docker.

use crate::netfilter::Rules;
use crate::topology::{BRIDGED, Layout, ROUTED};

/// As the kube-flannel DaemonSet sets it up.
pub static FLANNEL: Layout = Layout {
    node: "
        link add cni0 mtu 1450 type bridge forward_delay 0 mcast_snooping 0
        addr add 10.244.{n}.1/24 dev cni0
        addr add fd00:10:244:{n}::1/64 dev cni0 nodad
        link set cni0 up
        link add flannel.1 address 02:00:00:00:0f:0{n} type vxlan id 1 dstport 8472 \
            local 192.0.2.{n} dev eth0 nolearning
        addr add 10.244.{n}.0/32 dev flannel.1
        addr add fd00:10:244:{n}::/128 dev flannel.1 nodad
        link set flannel.1 up",
    peer: "
        neigh add 10.244.{o}.0 lladdr 02:00:00:00:0f:0{o} dev flannel.1 nud permanent
        neigh add fd00:10:244:{o}:: lladdr 02:00:00:00:0f:0{o} dev flannel.1 nud permanent
        route add 10.244.{o}.0/24 via 10.244.{o}.0 dev flannel.1 onlink
        route add fd00:10:244:{o}::/128 dev flannel.1
        route add fd00:10:244:{o}::/64 via fd00:10:244:{o}:: dev flannel.1",
    forwarding: "02:00:00:00:0f:0{o} dev flannel.1 dst 192.0.2.{o}",
    outer: "
        link add {link} mtu 1450 type veth peer name eth0 mtu 1450 netns {ns}
        link set {link} master cni0 up
        link set {link} type bridge_slave hairpin on",
    node_sysctls: &[
        ("net.bridge.bridge-nf-call-iptables", "1"),
        ("net.bridge.bridge-nf-call-ip6tables", "1"),
    ],
    rules: &[
        Rules::V4(
            "*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.0.0/16 -j RETURN
-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.{n}.0/24 -j RETURN
-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD DROP [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s 10.244.0.0/16 -j ACCEPT
-A FLANNEL-FWD -d 10.244.0.0/16 -j ACCEPT
COMMIT
",
        ),
        Rules::V6(
            "*nat
:POSTROUTING ACCEPT [0:0]
:FLANNEL-POSTRTG - [0:0]
-A POSTROUTING -j FLANNEL-POSTRTG
-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -j RETURN
-A FLANNEL-POSTRTG -s fd00:10:244::/48 -d fd00:10:244::/48 -j RETURN
-A FLANNEL-POSTRTG -s fd00:10:244::/48 ! -d ff00::/8 -j MASQUERADE --random-fully
-A FLANNEL-POSTRTG ! -s fd00:10:244::/48 -d fd00:10:244:{n}::/64 -j RETURN
-A FLANNEL-POSTRTG ! -s fd00:10:244::/48 -d fd00:10:244::/48 -j MASQUERADE --random-fully
COMMIT
*filter
:FORWARD DROP [0:0]
:FLANNEL-FWD - [0:0]
-A FORWARD -j FLANNEL-FWD
-A FLANNEL-FWD -s fd00:10:244::/48 -j ACCEPT
-A FLANNEL-FWD -d fd00:10:244::/48 -j ACCEPT
COMMIT
",
        ),
    ],
    inner: BRIDGED.inner,
    ..ROUTED
};
