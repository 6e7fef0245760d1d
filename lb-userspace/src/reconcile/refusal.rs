//! Why a Service port could not be programmed.

use super::state::Programmed;
use crate::dataplane::maps::FrontendId;
use thiserror::Error;

/// Why a Service port could not be programmed. What it had before stays.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The map of names can't hold it.
    #[error("its {part} is longer than 63 characters")]
    NameTooLong {
        /// Which part of the name.
        part: &'static str,
    },
    /// Another Service port answers there.
    #[error("{frontend} already belongs to another Service port")]
    Taken {
        /// What both want.
        frontend: FrontendId,
    },
    /// Too many frontends.
    #[error("the {family} frontend map is full: all {max} rows are in use")]
    NoFrontend {
        /// Which family.
        family: &'static str,
        /// Most rows.
        max: u32,
    },
    /// Too many Service ports.
    #[error("the service map is full: all {max} ids are in use")]
    NoService {
        /// Most Service ports.
        max: usize,
    },
    /// Too many backends.
    #[error("the backend map is full: it needs {needed} more, and all {max} ids are in use")]
    NoBackend {
        /// How many the Service port needs.
        needed: usize,
        /// Most backends.
        max: usize,
    },
    /// Too many slots.
    #[error("the slot map is full: no run of {needed} free slots is left")]
    NoSlots {
        /// How many the Service port needs.
        needed: usize,
    },
    /// Too many source ranges.
    #[error("the {family} range map is full: it needs {needed} more, and it has {max} rows")]
    NoRange {
        /// Which family.
        family: &'static str,
        /// How many it needs.
        needed: usize,
        /// Most rows.
        max: u32,
    },
    /// Enough was freed a moment ago; it will be tried again.
    #[error("the {map} map is full until what was freed a moment ago may be used again")]
    Waiting {
        /// Which map.
        map: &'static str,
    },
}

impl Refusal {
    /// Says that a map is full only for now, where something in it is resting.
    pub(super) fn or_waiting(self, programmed: &Programmed) -> Self {
        let (map, resting) = match &self {
            Self::NoService { .. } => ("service", programmed.service_ids.free() > 0),
            Self::NoBackend { .. } => {
                ("backend", !programmed.removed.is_empty() || programmed.backend_ids.free() > 0)
            }
            Self::NoSlots { .. } => ("slot", programmed.extents.has_resting()),
            Self::NoRange { family, needed, max } => {
                let used = programmed.ranges(*family == "IPv6");
                ("range", used + needed <= *max as usize)
            }
            Self::NameTooLong { .. }
            | Self::Taken { .. }
            | Self::NoFrontend { .. }
            | Self::Waiting { .. } => return self,
        };
        if resting { Self::Waiting { map } } else { self }
    }

    /// Whether trying again soon may help.
    pub const fn is_temporary(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }
}
