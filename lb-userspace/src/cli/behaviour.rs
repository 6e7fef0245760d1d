//! Flags that change what clients of Services observe.

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use std::fmt;
use std::str::FromStr;

use crate::dataplane::{Behaviour, Delivery, LocalPods, Masquerade};
use crate::netlink::LocalClients;

/// What `lb agent` can be told about the behaviour of all Services.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Behaviour")]
pub struct BehaviourArgs {
    /// Addresses on which node ports answer: `primary` (the first address of each family in this
    /// machine's Node object, or all without one), `all`, or ranges as in 192.0.2.0/24; a family
    /// without a range is open on all addresses
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "primary")]
    pub nodeport_addresses: Vec<NodePortAddress>,
    /// Whether node ports answer this node's own processes on loopback addresses
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = Switch::On)]
    pub localhost_nodeports: Switch,
    /// Whether externalIPs are served
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = Switch::On)]
    pub external_ips: Switch,
    /// What becomes of a client whose policy is Local on a node without an endpoint, while other
    /// nodes have some
    #[arg(long, value_name = "WHAT", value_enum, default_value_t)]
    pub no_local_endpoint: NoLocalEndpoint,
    /// Whether pings to addresses of Services are answered, by the first node that they meet
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = Switch::On)]
    pub answer_ping: Switch,
    /// Send packets of Services past the node's network stack, once both sides have sent one
    ///
    /// Straight into pods of this node that are behind a veth of their own, and out by uplinks.
    /// Faster than routing. But after the first packet and the first answer nothing of the stack
    /// sees a flow: no rule of iptables or nftables (those of network policies among them), no
    /// connection tracking, no egress program or qdisc of a pod's interface.
    #[arg(long)]
    pub skip_stack: bool,
    /// When a client's address is replaced by this node's
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub masquerade: Masquerade,
    /// With --masquerade kube-proxy: replace the address of every client of a ClusterIP
    #[arg(long)]
    pub masquerade_all: bool,
    /// How pods of this node are told from other clients
    ///
    /// Matters where the policy is Local, for pods that use a load balancer's address or a node
    /// port, and with --masquerade kube-proxy.
    #[arg(long, value_name = "MODE", value_enum, default_value_t, alias = "detect-local-mode")]
    pub detect_local: DetectLocal,
    /// Where pods are, for --detect-local cluster-cidr; the first range of each family counts
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cluster_cidr: Vec<IpNet>,
    /// The bridge of local pods, for --detect-local bridge-interface
    #[arg(long, value_name = "NAME", default_value = "")]
    pub pod_bridge_interface: String,
    /// How names of local pods' interfaces begin, for --detect-local interface-name-prefix
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub pod_interface_name_prefix: String,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Yes
    On,
    /// No
    Off,
}

impl Switch {
    /// Whether it is on.
    pub const fn is_on(self) -> bool {
        matches!(self, Self::On)
    }
}

/// What a client gets whose policy is Local where there is no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum NoLocalEndpoint {
    /// Nothing, as with kube-proxy: the client tries again
    #[default]
    Drop,
    /// A refusal
    Refuse,
}

/// How pods of this node are told from other clients; the other names are
/// those of kube-proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DetectLocal {
    /// By the interface that they are behind
    #[default]
    Interface,
    /// By --cluster-cidr
    #[value(alias = "ClusterCIDR")]
    ClusterCidr,
    /// By the podCIDRs of this machine's Node object
    #[value(alias = "NodeCIDR")]
    NodeCidr,
    /// By --pod-bridge-interface
    #[value(alias = "BridgeInterface")]
    BridgeInterface,
    /// By --pod-interface-name-prefix
    #[value(alias = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
    /// Not at all
    None,
}

/// An entry of `--nodeport-addresses`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodePortAddress {
    /// The first address of each family in the Node object.
    Primary,
    /// Every address of the node.
    All,
    /// Those in a range.
    Range(IpNet),
}

impl fmt::Display for NodePortAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::All => f.write_str("all"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

impl FromStr for NodePortAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "primary" => Ok(Self::Primary),
            "all" => Ok(Self::All),
            _ => text.parse().map(Self::Range).map_err(|_not_a_range| {
                format!("{text:?} is neither primary nor all nor a range as in 192.0.2.0/24")
            }),
        }
    }
}

impl BehaviourArgs {
    /// What the programs must know.
    pub fn programs(&self) -> Behaviour {
        Behaviour {
            masquerade: self.masquerade,
            masquerade_all: self.masquerade_all,
            local_pods: self.local_pods(),
            refuse_no_local: self.no_local_endpoint == NoLocalEndpoint::Refuse,
            refuse_ping: !self.answer_ping.is_on(),
            delivery: if self.skip_stack { Delivery::PastStack } else { Delivery::Routed },
        }
    }

    /// Which interfaces local pods are behind.
    pub fn local_clients(&self) -> LocalClients {
        match self.detect_local {
            DetectLocal::Interface => LocalClients::Pods,
            DetectLocal::BridgeInterface => {
                LocalClients::PortsOf(self.pod_bridge_interface.clone())
            }
            DetectLocal::InterfaceNamePrefix => {
                LocalClients::Named(self.pod_interface_name_prefix.clone())
            }
            DetectLocal::ClusterCidr | DetectLocal::NodeCidr | DetectLocal::None => {
                LocalClients::None
            }
        }
    }

    /// As with kube-proxy, a mode without what it needs detects nothing.
    const fn local_pods(&self) -> LocalPods {
        let (how, has_what_it_needs) = match self.detect_local {
            DetectLocal::Interface => (LocalPods::ByInterface, true),
            DetectLocal::NodeCidr => (LocalPods::ByAddress, true),
            DetectLocal::ClusterCidr => (LocalPods::ByAddress, !self.cluster_cidr.is_empty()),
            DetectLocal::BridgeInterface => {
                (LocalPods::ByInterface, !self.pod_bridge_interface.is_empty())
            }
            DetectLocal::InterfaceNamePrefix => {
                (LocalPods::ByInterface, !self.pod_interface_name_prefix.is_empty())
            }
            DetectLocal::None => (LocalPods::Unknown, true),
        };
        if has_what_it_needs { how } else { LocalPods::Unknown }
    }

    /// What a mode lacks, in a sentence.
    pub fn complaint(&self) -> Option<String> {
        let needs = match self.detect_local {
            DetectLocal::ClusterCidr => "cluster-cidr needs --cluster-cidr",
            DetectLocal::BridgeInterface => "bridge-interface needs --pod-bridge-interface",
            DetectLocal::InterfaceNamePrefix => {
                "interface-name-prefix needs --pod-interface-name-prefix"
            }
            DetectLocal::Interface | DetectLocal::NodeCidr | DetectLocal::None => return None,
        };
        (self.local_pods() == LocalPods::Unknown).then(|| {
            format!("--detect-local {needs}; without it no client is taken for a local pod")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        behaviour: BehaviourArgs,
    }

    fn parse(args: &[&str]) -> BehaviourArgs {
        Only::parse_from([&["lb"], args].concat()).behaviour
    }

    #[test]
    fn defaults_keep_the_address_of_clients() {
        let behaviour = parse(&[]).programs();
        assert_eq!(behaviour.masquerade, Masquerade::Minimal);
        assert_eq!(behaviour.local_pods, LocalPods::ByInterface);
        assert_eq!(parse(&[]).local_clients(), LocalClients::Pods);
        assert_eq!(parse(&[]).nodeport_addresses, [NodePortAddress::Primary]);
    }

    #[test]
    fn names_of_kube_proxy_are_understood() {
        let args =
            parse(&["--detect-local", "ClusterCIDR", "--cluster-cidr", "10.0.0.0/8,fd00::/8"]);
        assert_eq!(args.cluster_cidr.len(), 2);
        assert_eq!(args.programs().local_pods, LocalPods::ByAddress);
        assert_eq!(args.complaint(), None);
        let args = parse(&["--detect-local", "BridgeInterface"]);
        assert_eq!(args.programs().local_pods, LocalPods::Unknown);
        assert!(args.complaint().is_some());
    }

    #[test]
    fn node_port_addresses_are_words_or_ranges() {
        let args = parse(&["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"]);
        assert_eq!(args.nodeport_addresses.len(), 2);
        assert!("localhost".parse::<NodePortAddress>().is_err());
    }
}
