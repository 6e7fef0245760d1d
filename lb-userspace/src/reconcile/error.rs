//! Why the kernel could not be brought up to date, in the words of people.

use super::change::Change;
use super::name::key_of;
use super::state::Programmed;
use crate::dataplane::maps::{Maps, MapsError};
use lb_common::key::{PODS, SERVICE_CIDRS};
use thiserror::Error;

/// The kernel could not be brought up to date. What is in force serves on.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// What is in force can't be read.
    #[error(transparent)]
    Read(Box<MapsError>),
    /// A write failed.
    #[error("{object}: {source}")]
    Write {
        /// What it was for.
        object: String,
        /// Why.
        source: Box<MapsError>,
    },
}

impl From<MapsError> for ApplyError {
    fn from(source: MapsError) -> Self {
        Self::Read(Box::new(source))
    }
}

impl ApplyError {
    /// A write failed on the way to `programmed`.
    pub(super) fn write(
        change: &Change,
        programmed: &Programmed,
        maps: &Maps,
        source: MapsError,
    ) -> Self {
        Self::Write { object: object(change, programmed, maps), source: Box::new(source) }
    }
}

/// What a write is for.
fn object(change: &Change, programmed: &Programmed, maps: &Maps) -> String {
    let id = match change {
        Change::Prefix { owner: PODS, .. } => return "ranges of local pods".into(),
        Change::Prefix { owner: SERVICE_CIDRS, .. } | Change::Heads { .. } => {
            return "ranges of Services' addresses".into();
        }
        Change::Filter { .. } | Change::Slots { .. } => return "Services".into(),
        Change::Frontend { id, .. } if id.is_address() => {
            return format!("Services on {}", id.addr);
        }
        // One that goes is only in the map.
        Change::Frontend { id, row } => {
            row.or_else(|| maps.frontends.get(*id).ok().flatten()).map_or(0, |row| row.service)
        }
        Change::ClearBackendTraffic(backend) => programmed.row(*backend).service,
        Change::Backend { row, .. } => row.service,
        Change::ClearServiceTraffic(service)
        | Change::Name { service, .. }
        | Change::Header { service, .. }
        | Change::Segment { service, .. }
        | Change::Prefix { owner: service, .. } => *service,
    };
    // One that comes is not named in the map, one that goes only there.
    let known = programmed.services.iter().find(|(_, service)| service.id == id);
    let named = || maps.names.get(id).ok().flatten().and_then(|name| key_of(&name));
    match known.map(|(key, _)| key.clone()).or_else(named) {
        Some(key) => format!("Service {key} ({})", key.protocol),
        None => format!("Service id {id}"),
    }
}
