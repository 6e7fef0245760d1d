//! How pods are connected to their node and to other nodes' pods, as data.

use crate::netfilter::Rules;

/// What a CNI makes of a node, as lines for `ip -batch`. In all of them `{n}` is the
/// node's number; `{o}` another node's, `{h}` the pod's (the end of its addresses),
/// `{link}` the node's end of its link and `{ns}` the namespace at the other end
/// of a link, where there are such.
#[derive(Debug, PartialEq, Eq)]
pub struct Layout {
    /// How names of the node's ends of pods' links begin.
    pub link: &'static str,
    /// In the router, before there are nodes.
    pub router: &'static str,
    /// In the router, for each node.
    pub router_node: &'static str,
    /// On the node.
    pub node: &'static str,
    /// On the node, for each other node.
    pub peer: &'static str,
    /// On the node, for each other node: an entry for `bridge fdb append`.
    pub forwarding: &'static str,
    /// On the node, for each pod.
    pub outer: &'static str,
    /// In each pod.
    pub inner: &'static str,
    /// Network parameters of the node, each with its value.
    pub node_sysctls: &'static [(&'static str, &'static str)],
    /// Network parameters of the node for each pod.
    pub pod_sysctls: &'static [(&'static str, &'static str)],
    /// On the node.
    pub rules: &'static [Rules],
}

/// Each pod by a link of its own, with a route, as the plugin `ptp` does.
pub const ROUTED: Layout = Layout {
    link: "veth",
    router: "",
    router_node: "",
    node: "",
    peer: "
        route add 10.244.{o}.0/24 via 192.0.2.{o}
        route add fd00:10:244:{o}::/64 via 2001:db8:2::{o}",
    forwarding: "",
    outer: "
        link add {link} type veth peer name eth0 netns {ns}
        addr add 10.244.{n}.1/32 dev {link}
        addr add fd00:10:244:{n}::1/128 dev {link} nodad
        link set {link} up
        route add 10.244.{n}.{h}/32 dev {link}
        route add fd00:10:244:{n}::{h}/128 dev {link}",
    inner: "
        addr add 10.244.{n}.{h}/32 dev eth0
        addr add fd00:10:244:{n}::{h}/128 dev eth0 nodad
        link set eth0 up
        route add 10.244.{n}.1/32 dev eth0
        route add fd00:10:244:{n}::1/128 dev eth0
        route add default via 10.244.{n}.1 dev eth0
        route add default via fd00:10:244:{n}::1 dev eth0",
    node_sysctls: &[],
    pod_sysctls: &[],
    rules: &[],
};

/// All pods as ports of one bridge, as the plugin `bridge` does.
pub const BRIDGED: Layout = Layout {
    node: "
        link add cni0 type bridge forward_delay 0 mcast_snooping 0
        addr add 10.244.{n}.1/24 dev cni0
        addr add fd00:10:244:{n}::1/64 dev cni0 nodad
        link set cni0 up",
    outer: "
        link add {link} type veth peer name eth0 netns {ns}
        link set {link} master cni0 up",
    inner: "
        addr add 10.244.{n}.{h}/24 dev eth0
        addr add fd00:10:244:{n}::{h}/64 dev eth0 nodad
        link set eth0 up
        route add default via 10.244.{n}.1 dev eth0
        route add default via fd00:10:244:{n}::1 dev eth0",
    ..ROUTED
};
