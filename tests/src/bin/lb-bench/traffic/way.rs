//! The ways to a backend, and what must be in force in the node for each.

use crate::chart::Series;
use lb_tests::kube_proxy::Mode;
use std::fmt;

/// What is in force in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing: neither programs nor rules nor connection tracking.
    Bare,
    /// Nothing on the node on which the agent was, or will be: what differs from the
    /// other is noise.
    Again,
    /// Our agent with its programs.
    Agent,
    /// Likewise, told to let packets skip the node's stack.
    Skipping,
    /// kube-proxy's rules.
    Rules(Mode),
}

impl Stage {
    /// All of them, as they stand in the table.
    pub(crate) const ALL: [Self; 6] = [
        Self::Bare,
        Self::Again,
        Self::Agent,
        Self::Skipping,
        Self::Rules(Mode::Nftables),
        Self::Rules(Mode::Iptables),
    ];

    /// Whose it is.
    pub(crate) const fn series(self) -> Series {
        match self {
            Self::Bare | Self::Again => Series::Other,
            Self::Agent | Self::Skipping => Series::Ours,
            Self::Rules(_) => Series::Theirs,
        }
    }

    /// What takes turns without anything being started or ended, in the order of a
    /// round: the agent's hooks for sockets are met by every process of the machine,
    /// so no other way is measured while they are there.
    pub(crate) const TURNS: [&[Self]; 4] = [
        &[Self::Bare, Self::Rules(Mode::Nftables), Self::Rules(Mode::Iptables)],
        &[Self::Agent],
        &[Self::Skipping],
        &[Self::Again],
    ];

    /// Whether our agent runs.
    pub(crate) const fn has_agent(self) -> bool {
        matches!(self, Self::Agent | Self::Skipping)
    }
}

/// Whether the client is a pod, or a process of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Pod,
    Node,
}

impl From {
    /// What the report calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Node => "node",
        }
    }
}

/// From where, and through what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) from: From,
    pub(crate) stage: Stage,
}

impl Way {
    /// All of them, as they stand in the table.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [From::Pod, From::Node].into_iter().flat_map(|from| Self::through(from, &Stage::ALL))
    }

    /// Those of some stages. What a process of the node sends and gets goes through
    /// the stack.
    pub(crate) fn through(from: From, stages: &[Stage]) -> impl Iterator<Item = Self> {
        let ways = stages.iter().map(move |stage| Self { from, stage: *stage });
        ways.filter(|way| way.from == From::Pod || way.stage != Stage::Skipping)
    }

    /// Whether clients go to the backends' own addresses.
    pub(crate) const fn is_direct(self) -> bool {
        matches!(self.stage, Stage::Bare | Stage::Again)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through = match (self.from, self.stage) {
            (_, Stage::Bare) => "direct",
            (_, Stage::Again) => "direct again",
            (From::Pod, Stage::Agent) => "lb, by TC",
            (From::Node, Stage::Agent) => "lb, by socket hook",
            (_, Stage::Skipping) => "lb, past the stack",
            (_, Stage::Rules(Mode::Iptables)) => "kube-proxy, iptables",
            (_, Stage::Rules(Mode::Nftables)) => "kube-proxy, nftables",
        };
        f.pad(through)
    }
}
