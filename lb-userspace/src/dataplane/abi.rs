//! What made the pins: the layout version and the network namespace, in a
//! pinned map of their own, since a BPF file system holds no other files.

use super::{DataplaneError, PinDir};
use aya::maps::{Array, Map, MapData};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use std::os::fd::{AsRawFd as _, OwnedFd};

/// Name of the map.
pub const MAP: &str = "LB_ABI";

/// Index of the layout version.
const VERSION: u32 = 0;
/// Index of the cookie of the network namespace; 0 if the kernel has none.
const NAMESPACE: u32 = 1;

/// What made the pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abi {
    /// `lb_common::ABI_VERSION` of the program that made them.
    pub version: u64,
    /// The network namespace that they serve.
    pub namespace: u64,
}

impl Abi {
    /// What this process would write.
    pub(super) fn current() -> Self {
        Self { version: lb_common::ABI_VERSION.into(), namespace: namespace_cookie() }
    }
}

/// Reads what made the pins; none if there are none.
pub fn read(pins: &PinDir) -> Result<Option<Abi>, DataplaneError> {
    let path = pins.map(MAP);
    if !path.exists() {
        return Ok(None);
    }
    let fail = |source| DataplaneError::Map { map: MAP, source };
    let data = MapData::from_pin(&path).map_err(fail)?;
    let map: Array<MapData, u64> = Map::Array(data).try_into().map_err(fail)?;
    let word = |index| map.get(&index, 0).map_err(fail);
    Ok(Some(Abi { version: word(VERSION)?, namespace: word(NAMESPACE)? }))
}

/// Records what makes the pins, keeping the map if it is there.
pub(super) fn write(pins: &PinDir, abi: Abi) -> Result<(), DataplaneError> {
    let fail = |source| DataplaneError::Map { map: MAP, source };
    let path = pins.map(MAP);
    let mut map: Array<MapData, u64> = if path.exists() {
        Map::Array(MapData::from_pin(&path).map_err(fail)?).try_into().map_err(fail)?
    } else {
        let map = Array::<MapData, u64>::create(2, 0).map_err(fail)?;
        map.pin(&path).map_err(|error| {
            fail(aya::maps::MapError::PinError { name: Some(MAP.into()), error })
        })?;
        Map::Array(MapData::from_pin(&path).map_err(fail)?).try_into().map_err(fail)?
    };
    map.set(VERSION, abi.version, 0).map_err(fail)?;
    map.set(NAMESPACE, abi.namespace, 0).map_err(fail)
}

/// The cookie of this network namespace: unique until the next boot, unlike
/// its inode number. 0 before Linux 5.14.
pub(super) fn namespace_cookie() -> u64 {
    let socket: Result<OwnedFd, _> =
        socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let Ok(socket) = socket else { return 0 };
    let mut cookie = 0_u64;
    let mut length: libc::socklen_t = 8;
    // SAFETY: `cookie` is the eight bytes that `length` says, and both live
    // through the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { cookie } else { 0 }
}
