//! Typed views of the pinned maps, opened from their pins alone: what the agent
//! writes, and what every other command reads whether or not an agent runs.
//!
//! Nothing here decides anything; [`crate::reconcile`] says what to write.

mod backends;
mod batch;
mod counters;
mod error;
mod fill;
mod filter;
mod flows;
mod frontends;
mod held;
mod open;
mod prefixes;
mod ranges;
mod region;
mod service_names;
mod services;
mod slots;
mod sockets;

pub use backends::BackendTable;
pub use counters::{NoPortTable, Pressure, PressureTable, TrafficTable, VerdictTable};
pub use error::MapsError;
pub(super) use fill::count_rows;
pub use fill::{MapFill, costs, fill};
pub use filter::FilterTable;
pub use flows::{FlowFamily, FlowRows, FlowTable};
pub use frontends::{FrontendId, FrontendTable};
pub use held::HeldTable;
pub use open::OpenTable;
pub use prefixes::PrefixTable;
pub use ranges::RangeTable;
pub use service_names::NameTable;
pub use services::{ServiceHeader, ServiceTable};
pub use slots::SlotTable;
pub use sockets::{ConnectedSockets, SocketTable, forget_tcp_sockets};

use super::{PinDir, abi};
use aya::maps::{Map, MapData, MapError};
use lb_common::names;
use std::io::ErrorKind;
use std::path::Path;

/// Every map that the agent programs or that people read.
pub struct Maps {
    /// Service ports.
    pub services: ServiceTable,
    /// Slots.
    pub slots: SlotTable,
    /// Backends.
    pub backends: BackendTable,
    /// The address filter.
    pub filter: FilterTable,
    /// Frontends of both families.
    pub frontends: FrontendTable,
    /// Source ranges, where local pods are, and where Services' addresses are.
    pub prefixes: PrefixTable,
    /// How the last of these begin.
    pub ranges: RangeTable,
    /// Names of Service ports.
    pub names: NameTable,
    /// Counters of Service ports.
    pub service_traffic: TrafficTable,
    /// Counters of backends.
    pub backend_traffic: TrafficTable,
    /// Counters of verdicts.
    pub verdicts: VerdictTable,
    /// Open connections of backends.
    pub open: OpenTable,
    /// Packets dropped for want of a source port.
    pub no_port: NoPortTable,
    /// What became of flows' rows under pressure.
    pub pressure: PressureTable,
}

impl Maps {
    /// Opens the maps that are pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        check_version(pin_dir)?;
        let open = |map| open_pin(pin_dir, map);
        Ok(Self {
            services: ServiceTable::open(&open(names::MAP_SERVICES)?)?,
            slots: SlotTable::open(&open(names::MAP_SLOTS)?)?,
            backends: BackendTable::open(&open(names::MAP_BACKENDS)?)?,
            filter: FilterTable::open(&open(names::MAP_FILTER)?)?,
            frontends: FrontendTable::open(pin_dir)?,
            prefixes: PrefixTable::open(
                open(names::MAP_PREFIXES_V4)?,
                open(names::MAP_PREFIXES_V6)?,
            )?,
            ranges: RangeTable::open(&open(names::MAP_RANGES)?)?,
            names: NameTable::open(pin_dir)?,
            service_traffic: TrafficTable::open(
                open(names::MAP_SERVICE_TRAFFIC)?,
                names::MAP_SERVICE_TRAFFIC,
            )?,
            backend_traffic: TrafficTable::open(
                open(names::MAP_BACKEND_TRAFFIC)?,
                names::MAP_BACKEND_TRAFFIC,
            )?,
            verdicts: VerdictTable::open(open(names::MAP_VERDICTS)?)?,
            open: OpenTable::open(&open(names::MAP_OPEN)?)?,
            no_port: NoPortTable::open(open(names::MAP_NO_PORT)?)?,
            pressure: PressureTable::open(open(names::MAP_PRESSURE)?)?,
        })
    }
}

/// Refuses to misread the maps of another release. What can't be told here will
/// be when the maps are opened.
fn check_version(pin_dir: &Path) -> Result<(), MapsError> {
    let expected = u64::from(lb_common::ABI_VERSION);
    match abi::read(&PinDir::new(pin_dir)) {
        Ok(Some(abi)) if abi.version != expected => {
            Err(MapsError::Version { pin_dir: pin_dir.to_path_buf(), found: abi.version, expected })
        }
        _ => Ok(()),
    }
}

/// Opens one pinned map and tells the usual reasons for failure apart.
fn open_pin(pin_dir: &Path, map: &'static str) -> Result<MapData, MapsError> {
    let path = pin_dir.join("maps").join(map);
    MapData::from_pin(&path).map_err(|source| match error_kind(&source) {
        Some(ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            MapsError::NotLoaded { pin_dir: pin_dir.to_path_buf() }
        }
        Some(ErrorKind::PermissionDenied) => {
            MapsError::Permission { pin_dir: pin_dir.to_path_buf() }
        }
        _ => MapsError::Open { map, path, source },
    })
}

/// The typed view of a map.
fn typed<T: TryFrom<Map, Error = MapError>>(
    data: MapData,
    map: &'static str,
) -> Result<T, MapsError> {
    Map::from_map_data(data).and_then(T::try_from).map_err(|_mismatch| MapsError::Layout { map })
}

/// Most rows of a map.
fn capacity(data: &MapData, map: &'static str) -> Result<u32, MapsError> {
    data.info().map(|info| info.max_entries()).map_err(|source| MapsError::Info { map, source })
}

fn error_kind(error: &MapError) -> Option<ErrorKind> {
    if let MapError::SyscallError(error) = error {
        Some(error.io_error.kind())
    } else if let MapError::IoError(error) = error {
        Some(error.kind())
    } else {
        None
    }
}
