//! The ways through a node, and who sends.

use crate::chart::Series;
use lb_tests::kube_proxy::Mode;
use lb_tests::live::Clients;
use std::fmt;

/// What is in force on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// There is no node: frames come to their end at once.
    Nothing,
    /// Our agent, and what it is told about XDP.
    Agent(&'static str),
    /// kube-proxy's rules.
    Rules(Mode),
}

impl Stage {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Nothing,
        Self::NATIVE,
        Self::Agent("generic"),
        Self::Agent("off"),
        Self::NFTABLES,
        Self::Rules(Mode::Iptables),
    ];

    /// Whose it is.
    pub(crate) const fn series(self) -> Series {
        match self {
            Self::Nothing => Series::Other,
            Self::Agent(_) => Series::Ours,
            Self::Rules(_) => Series::Theirs,
        }
    }

    /// Those whose ratio is promised.
    pub(crate) const NATIVE: Self = Self::Agent("native");
    pub(crate) const NFTABLES: Self = Self::Rules(Mode::Nftables);
}

/// A way, and whether it is measured once more: what differs then is noise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) stage: Stage,
    pub(crate) again: bool,
}

impl Way {
    /// All of them, as they take turns.
    pub(crate) fn all() -> Vec<Self> {
        let once = Stage::ALL.map(|stage| Self { stage, again: false });
        let again = [Stage::NATIVE, Stage::NFTABLES].map(|stage| Self { stage, again: true });
        once.into_iter().chain(again).collect()
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let through = match self.stage {
            Stage::Nothing => "no node".to_owned(),
            Stage::Agent("off") => "lb, TC alone".to_owned(),
            Stage::Agent(xdp) => format!("lb, XDP {xdp}"),
            Stage::Rules(mode) => format!("kube-proxy, {mode}"),
        };
        f.pad(&if self.again { through + ", again" } else { through })
    }
}

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    One,
    Thousand,
    New,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::One, Self::Thousand, Self::New];

    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::One => "one flow",
            Self::Thousand => "1,000 flows",
            Self::New => "new flows",
        }
    }

    /// The clients; no flow is of two kinds.
    pub(crate) const fn clients(self) -> Clients {
        match self {
            Self::One => Clients { flows: 1, port: 10_000 },
            Self::Thousand => Clients { flows: 1_000, port: 10_001 },
            // More than are sent.
            Self::New => Clients { flows: 1 << 30, port: 20_000 },
        }
    }

    /// How many are sent in a turn. New flows of all rounds have room in the tables of all.
    pub(crate) const fn frames(self) -> u32 {
        match self {
            Self::One | Self::Thousand => 100_000,
            Self::New => 8_000,
        }
    }

    /// Whether the backend has answered before.
    pub(crate) const fn is_established(self) -> bool {
        !matches!(self, Self::New)
    }
}
