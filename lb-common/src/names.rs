//! Names of programs and maps, once. The kernel keeps 15 characters of them.

/// TC program for packets that enter, on interfaces with an Ethernet header.
pub const PROG_INGRESS: &str = "lb_ingress";
/// TC program for packets that leave, on interfaces with an Ethernet header.
pub const PROG_EGRESS: &str = "lb_egress";
/// [`PROG_INGRESS`] for interfaces whose packets begin with the IP header.
pub const PROG_INGRESS_L3: &str = "lb_ingress_l3";
/// [`PROG_EGRESS`] for interfaces whose packets begin with the IP header.
pub const PROG_EGRESS_L3: &str = "lb_egress_l3";
/// XDP program for uplinks.
pub const PROG_XDP: &str = "lb_xdp";
/// Programs for the calls of this node's sockets: name, and what it is for.
/// In the order in which they are attached: nothing is given a backend before
/// replies are given the Service's name.
pub const PROGS_SOCKET: [(&str, &str); 9] = [
    ("lb_release", "release"),
    ("lb_getpeername4", "getpeername4"),
    ("lb_getpeername6", "getpeername6"),
    ("lb_recvmsg4", "recvmsg4"),
    ("lb_recvmsg6", "recvmsg6"),
    ("lb_sendmsg4", "sendmsg4"),
    ("lb_sendmsg6", "sendmsg6"),
    ("lb_connect4", "connect4"),
    ("lb_connect6", "connect6"),
];

/// IPv4 frontends.
pub const MAP_FRONTENDS_V4: &str = "LB_FRONTENDS_V4";
/// IPv6 frontends.
pub const MAP_FRONTENDS_V6: &str = "LB_FRONTENDS_V6";
/// Service ports, by id.
pub const MAP_SERVICES: &str = "LB_SERVICES";
/// Slots: backend ids, two to a word.
pub const MAP_SLOTS: &str = "LB_SLOTS";
/// Backends, by id.
pub const MAP_BACKENDS: &str = "LB_BACKENDS";
/// IPv4 flows.
pub const MAP_FLOWS_V4: &str = "LB_FLOWS_V4";
/// IPv6 flows.
pub const MAP_FLOWS_V6: &str = "LB_FLOWS_V6";
/// The address filter.
pub const MAP_FILTER: &str = "LB_FILTER";
/// Interfaces, by index.
pub const MAP_INTERFACES: &str = "LB_INTERFACES";
/// Counters of Service ports, by service id.
pub const MAP_SERVICE_TRAFFIC: &str = "LB_SVC_TRAFFIC";
/// Counters of backends, by backend id.
pub const MAP_BACKEND_TRAFFIC: &str = "LB_BE_TRAFFIC";
/// Packets by hook and verdict.
pub const MAP_VERDICTS: &str = "LB_VERDICTS";
/// Names of Service ports, by service id.
pub const MAP_NAMES: &str = "LB_NAMES";
/// Round-robin positions, by service id.
pub const MAP_CURSORS: &str = "LB_CURSORS";
/// IPv4 clients with session affinity.
pub const MAP_AFFINITY_V4: &str = "LB_AFFINITY_V4";
/// IPv6 clients with session affinity.
pub const MAP_AFFINITY_V6: &str = "LB_AFFINITY_V6";
/// IPv4 prefixes: source ranges of Services, and where local pods are.
pub const MAP_PREFIXES_V4: &str = "LB_PREFIXES_V4";
/// IPv6 prefixes.
pub const MAP_PREFIXES_V6: &str = "LB_PREFIXES_V6";
/// How the ranges of the cluster's Service addresses begin, by family.
pub const MAP_RANGES: &str = "LB_RANGES";
/// Open connections, by backend id.
pub const MAP_OPEN: &str = "LB_OPEN";
/// TCP sockets of this node that are connected to Services, by cookie.
pub const MAP_SOCKETS_TCP: &str = "LB_SOCKETS_TCP";
/// UDP sockets of this node that are connected to Services, by cookie.
pub const MAP_SOCKETS_UDP: &str = "LB_SOCKETS_UDP";
/// Backends of datagrams that sockets of this node send without a connection.
pub const MAP_SOCKET_PEERS: &str = "LB_SOCKET_PEERS";
/// Names of Services that such sockets know their backends by.
pub const MAP_SOCKET_NAMES: &str = "LB_SOCKET_NAMES";
/// Packets dropped for want of a source port, by service id.
pub const MAP_NO_PORT: &str = "LB_NO_PORT";
/// Later fragments that wait for the first of their datagram.
pub const MAP_HELD: &str = "LB_HELD";
/// IPv4 flows that have not proven themselves.
pub const MAP_YOUNG_V4: &str = "LB_YOUNG_V4";
/// IPv6 flows that have not proven themselves.
pub const MAP_YOUNG_V6: &str = "LB_YOUNG_V6";
/// How many flows were ever young, by family.
pub const MAP_YOUNG_NEXT: &str = "LB_YOUNG_NEXT";
/// What became of rows under pressure, by [`crate::pressure`].
pub const MAP_PRESSURE: &str = "LB_PRESSURE";

/// Every map that is pinned: all that must outlive the agent.
pub const PINNED_MAPS: [&str; 30] = [
    MAP_FRONTENDS_V4,
    MAP_FRONTENDS_V6,
    MAP_SERVICES,
    MAP_SLOTS,
    MAP_BACKENDS,
    MAP_FLOWS_V4,
    MAP_FLOWS_V6,
    MAP_FILTER,
    MAP_INTERFACES,
    MAP_SERVICE_TRAFFIC,
    MAP_BACKEND_TRAFFIC,
    MAP_VERDICTS,
    MAP_NAMES,
    MAP_CURSORS,
    MAP_AFFINITY_V4,
    MAP_AFFINITY_V6,
    MAP_PREFIXES_V4,
    MAP_PREFIXES_V6,
    MAP_RANGES,
    MAP_OPEN,
    MAP_SOCKETS_TCP,
    MAP_SOCKETS_UDP,
    MAP_SOCKET_PEERS,
    MAP_SOCKET_NAMES,
    MAP_NO_PORT,
    MAP_HELD,
    MAP_YOUNG_V4,
    MAP_YOUNG_V6,
    MAP_YOUNG_NEXT,
    MAP_PRESSURE,
];

/// Load-time constant: first source port that translation may use.
pub const GLOBAL_SNAT_PORT_MIN: &str = "SNAT_PORT_MIN";
/// Load-time constant: last source port that translation may use.
pub const GLOBAL_SNAT_PORT_MAX: &str = "SNAT_PORT_MAX";
/// Load-time constant: bits of [`option`].
pub const GLOBAL_OPTIONS: &str = "OPTIONS";
/// Load-time constant: size of [`MAP_YOUNG_V4`] less one.
pub const GLOBAL_YOUNG_MASK_V4: &str = "YOUNG_MASK_V4";
/// Load-time constant: size of [`MAP_YOUNG_V6`] less one.
pub const GLOBAL_YOUNG_MASK_V6: &str = "YOUNG_MASK_V6";

/// Load-time constant: cookie of the network namespace whose sockets are this
/// node's own.
pub const GLOBAL_NETNS_COOKIE: &str = "NETNS_COOKIE";
/// Load-time constant: bits of [`socket_option`].
pub const GLOBAL_SOCKET_OPTIONS: &str = "SOCKET_OPTIONS";

/// What the agent switches in the programs for sockets.
pub mod socket_option {
    /// Sockets of other network namespaces are served too.
    pub const ALL_NAMESPACES: u32 = 1 << 0;
    /// The kernel lets these programs choose the error that a call ends with.
    pub const CHOOSE_ERROR: u32 = 1 << 1;
}

/// What the agent's flags switch in the programs.
pub mod option {
    /// Source translation for every client of a node port, load balancer's or
    /// external address whose policy is Cluster (kube-proxy).
    pub const MASQUERADE_EXTERNAL: u32 = 1 << 0;
    /// Source translation for clients of a ClusterIP that are not local pods
    /// (kube-proxy with a detector).
    pub const MASQUERADE_CLUSTER: u32 = 1 << 1;
    /// Source translation for every client of a ClusterIP
    /// (kube-proxy's `masqueradeAll`).
    pub const MASQUERADE_ALL: u32 = 1 << 2;
    /// Local pods are told by prefix, not by the interface.
    pub const LOCAL_BY_PREFIX: u32 = 1 << 3;
    /// Refuse instead of drop if the policy is Local and no backend is local.
    pub const REFUSE_NO_LOCAL: u32 = 1 << 4;
    /// Answer pings to Service addresses.
    pub const ANSWER_ECHO: u32 = 1 << 5;
    /// Packets of answered flows go past the stack.
    pub const SKIP_STACK: u32 = 1 << 6;
}
