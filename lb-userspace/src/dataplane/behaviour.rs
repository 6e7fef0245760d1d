//! What the agent's flags switch in the programs: constants that are set when
//! they are loaded.

use lb_common::names::option;

/// When a client's address is replaced by this node's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Masquerade {
    /// Where the reply would otherwise not come back through this node
    #[default]
    Minimal,
    /// As kube-proxy does
    KubeProxy,
}

/// How pods of this node are told from other clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LocalPods {
    /// By the interface that they are behind.
    #[default]
    ByInterface,
    /// By their address.
    ByAddress,
    /// Not at all.
    Unknown,
}

/// How packets get through the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// Through the node's stack.
    #[default]
    Routed,
    /// Past it, once a flow is answered.
    PastStack,
}

/// How the programs treat clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behaviour {
    /// When a client's address is replaced.
    pub masquerade: Masquerade,
    /// In kube-proxy's way: for every client of a ClusterIP.
    pub masquerade_all: bool,
    /// How pods of this node are told from other clients.
    pub local_pods: LocalPods,
    /// Whether a client whose policy is Local is refused, not dropped, where no
    /// endpoint is local.
    pub refuse_no_local: bool,
    /// Whether pings to addresses of Services are not answered.
    pub refuse_ping: bool,
    /// How packets get through the node.
    pub delivery: Delivery,
}

impl Behaviour {
    /// The constant [`lb_common::names::GLOBAL_OPTIONS`].
    pub const fn options(&self) -> u32 {
        let mut options = if self.refuse_ping { 0 } else { option::ANSWER_ECHO };
        if matches!(self.masquerade, Masquerade::KubeProxy) {
            options |= option::MASQUERADE_EXTERNAL;
            if !matches!(self.local_pods, LocalPods::Unknown) {
                options |= option::MASQUERADE_CLUSTER;
            }
            if self.masquerade_all {
                options |= option::MASQUERADE_ALL;
            }
        }
        if matches!(self.local_pods, LocalPods::ByAddress) {
            options |= option::LOCAL_BY_PREFIX;
        }
        if self.refuse_no_local {
            options |= option::REFUSE_NO_LOCAL;
        }
        if matches!(self.delivery, Delivery::PastStack) {
            options |= option::SKIP_STACK;
        }
        options
    }
}
