//! What the kernel holds otherwise than it should. `reconcile` finds it in
//! rows, `dataplane` in hooks and pins; the agent and `lb verify` tell it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Rows of frontends.
    Frontends,
    /// Rows of Service ports.
    Services,
    /// Slots.
    Slots,
    /// Rows of backends.
    Backends,
    /// Flags of the filter.
    Filter,
    /// Source ranges, local pods, ServiceCIDRs.
    Prefixes,
    /// How ServiceCIDRs begin.
    Ranges,
    /// Names of Service ports.
    Names,
    /// Rows of interfaces.
    Interfaces,
    /// Programs on interfaces.
    Hooks,
    /// Programs for the calls of sockets.
    Sockets,
    /// Pins.
    Pins,
}

impl Part {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Frontends,
        Self::Services,
        Self::Slots,
        Self::Backends,
        Self::Filter,
        Self::Prefixes,
        Self::Ranges,
        Self::Names,
        Self::Interfaces,
        Self::Hooks,
        Self::Sockets,
        Self::Pins,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "frontends",
            Self::Services => "services",
            Self::Slots => "slots",
            Self::Backends => "backends",
            Self::Filter => "filter",
            Self::Prefixes => "prefixes",
            Self::Ranges => "ranges",
            Self::Names => "names",
            Self::Interfaces => "interfaces",
            Self::Hooks => "hooks",
            Self::Sockets => "sockets",
            Self::Pins => "pins",
        }
    }
}

/// One thing that is otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// What kind of thing it is.
    pub part: Part,
    /// Whose it is, if anybody's: a Service port or an interface.
    pub object: Option<String>,
    /// The map, the hook or the file.
    pub place: String,
    /// What is wrong there.
    pub message: String,
}

impl Drift {
    /// In a map, a hook or a file that belongs to nobody in particular.
    pub fn new(part: Part, place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { part, object: None, place: place.into(), message: message.into() }
    }

    /// The same, of somebody.
    #[must_use]
    pub fn of(self, object: impl Into<String>) -> Self {
        Self { object: Some(object.into()), ..self }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// What was looked at, and what is otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Service ports that there should be.
    pub service_ports: usize,
    /// Their backends.
    pub backends: usize,
    /// Hooks that there should be.
    pub hooks: usize,
    /// Pins.
    pub pins: usize,
    /// What is otherwise.
    pub differences: Vec<Drift>,
}
