//! The data plane in the kernel: loads the programs, pins the maps, attaches
//! to interfaces, and takes all of it down again. The only part that knows aya.
//!
//! In come [`HookOptions`] and each new
//! [`NetworkState`](crate::netlink::NetworkState); what is attached stays so
//! when the process ends, until [`cleanup`].

pub mod abi;
mod attach;
mod behaviour;
mod bpffs;
mod cgroup;
mod clsact;
mod error;
mod grace;
mod grow;
mod holder;
mod hooks;
mod inspect;
mod keeper;
mod layout;
mod load;
mod log;
pub mod maps;
mod migrate;
mod pins;
mod probe;
mod rehearsal;
mod repair;
mod rows;
mod sockets;
mod spec;
mod sys;
mod teardown;
mod verify;
mod xdp;

pub use behaviour::{Behaviour, Delivery, LocalPods, Masquerade};
pub use error::DataplaneError;
pub(crate) use grace::wait_for_packets;
pub use holder::Holder;
pub use hooks::Hooks;
pub use layout::{Difference, Lost};
pub use migrate::outgrown;
pub use pins::PinDir;
pub use probe::{Probe, probe};
pub use rehearsal::{Rehearsal, RehearsalError};
pub use repair::Repaired;
pub use sockets::SocketStatus;
pub use spec::MapSizes;
pub use teardown::{CleanupReport, cleanup};
pub use verify::{Verified, verify};

use crate::netlink::Role;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

/// Where the pins are if nobody says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/lb";

/// Source ports that translation uses if nobody says otherwise: above what
/// Linux hands out to its own sockets (32768 to 60999).
pub const DEFAULT_SNAT_PORTS: RangeInclusive<u16> = 61_000..=65_535;

/// How XDP is used on uplinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum XdpPreference {
    /// In the driver of physical interfaces, nowhere else
    #[default]
    Auto,
    /// In the driver of every uplink
    Native,
    /// In the network stack of every uplink: works everywhere, gains nothing
    Generic,
    /// Not at all
    Off,
}

/// How the TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum TcPreference {
    /// By tcx where the kernel has it, else as filters of a clsact qdisc
    #[default]
    Auto,
    /// By tcx
    Tcx,
    /// As filters of a clsact qdisc
    Clsact,
}

/// Which sockets have Services translated in their calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum SocketClients {
    /// Those of this network namespace: processes of the node, and pods in its network
    #[default]
    Host,
    /// Those of every network namespace, so that other programs of pods never see the Service's
    /// address
    All,
    /// None: processes of the node can't reach Services
    Off,
}

impl fmt::Display for SocketClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::All => "all",
            Self::Off => "off",
        })
    }
}

/// How the data plane is set up.
#[derive(Clone, Debug)]
pub struct HookOptions {
    /// Directory on a BPF file system for everything that outlives the agent.
    pub pin_dir: PathBuf,
    /// How XDP is used.
    pub xdp: XdpPreference,
    /// How TC is used.
    pub tc: TcPreference,
    /// Whose sockets are served.
    pub socket_clients: SocketClients,
    /// Source ports for flows that get this node's address.
    pub snat_ports: RangeInclusive<u16>,
    /// How the programs treat clients.
    pub behaviour: Behaviour,
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// Whether pins of another layout are replaced, with the loss of flows.
    pub replace_layout: bool,
}

impl HookOptions {
    /// The defaults, with pins in the given directory.
    pub fn new(pin_dir: impl Into<PathBuf>) -> Self {
        Self {
            pin_dir: pin_dir.into(),
            xdp: XdpPreference::default(),
            tc: TcPreference::default(),
            socket_clients: SocketClients::default(),
            snat_ports: DEFAULT_SNAT_PORTS,
            behaviour: Behaviour::default(),
            sizes: MapSizes::default(),
            replace_layout: false,
        }
    }
}

/// Where a program sits on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HookPoint {
    /// TC, packets that enter.
    Ingress,
    /// TC, packets that leave.
    Egress,
    /// XDP.
    Xdp,
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Xdp => "xdp",
        })
    }
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// TC by a pinned tcx link.
    Tcx,
    /// TC as a filter of a clsact qdisc.
    Clsact,
    /// XDP in the driver.
    Native,
    /// XDP in the network stack.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// One hook of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub index: u32,
    /// What the interface is for.
    pub role: Role,
    /// Where.
    pub hook: HookPoint,
    /// How; none if nothing is attached.
    pub mode: Option<Mode>,
    /// Why nothing is attached, or what else is worth knowing.
    pub note: Option<String>,
    /// Whether this was asked for and could not be done: packets of Services
    /// may go untranslated here, or XDP is missing where it was demanded.
    pub failed: bool,
}

/// What [`Hooks::sync`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Hooks that were attached, or given this process's programs.
    pub attached: usize,
    /// Hooks that were detached.
    pub detached: usize,
    /// What could not be done, one sentence each.
    pub failures: Vec<String>,
}
