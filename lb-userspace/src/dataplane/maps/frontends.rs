//! `LB_FRONTENDS_V4` and `LB_FRONTENDS_V6`: which Service port answers where.

use super::error::MapsError;
use super::{batch, capacity, open_pin, typed};
use aya::maps::{HashMap, MapData, MapError};
use lb_common::key::place;
use lb_common::{BePort, Frontend, FrontendKey, V4, V6, names, proto};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Key of a frontend of either family; port and protocol 0 mean the address as
/// a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendId {
    /// The address dialled.
    pub addr: IpAddr,
    /// The port dialled.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// One of [`place`].
    pub place: u8,
}

impl FrontendId {
    /// The row of a port of an address.
    pub const fn port(addr: IpAddr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, place: place::ANYWHERE }
    }

    /// The row of a port of a loopback address.
    pub const fn loopback(addr: IpAddr, port: u16, proto: u8) -> Self {
        Self { addr, port, proto, place: place::LOOPBACK }
    }

    /// The row that claims the whole address.
    pub const fn address(addr: IpAddr) -> Self {
        Self { addr, port: 0, proto: 0, place: place::ANYWHERE }
    }

    fn key<A>(&self, addr: A) -> FrontendKey<A> {
        let Self { addr: _, port, proto, place } = *self;
        FrontendKey { addr, port: BePort::new(port), proto, place }
    }

    /// Whether this is the row that claims the whole address.
    pub const fn is_address(&self) -> bool {
        self.port == 0 && self.proto == 0
    }

    /// Index of the family: 0 IPv4, 1 IPv6.
    pub const fn family(&self) -> usize {
        self.addr.is_ipv6() as usize
    }
}

impl<A: Into<IpAddr>> From<FrontendKey<A>> for FrontendId {
    fn from(key: FrontendKey<A>) -> Self {
        Self { addr: key.addr.into(), port: key.port.get(), proto: key.proto, place: key.place }
    }
}

impl fmt::Display for FrontendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match proto::name(self.proto) {
            Some(protocol) => write!(f, "{} {protocol}", SocketAddr::new(self.addr, self.port)),
            None => write!(f, "address {}", self.addr),
        }
    }
}

/// Both frontend maps.
pub struct FrontendTable {
    v4: HashMap<MapData, FrontendKey<V4>, Frontend>,
    v6: HashMap<MapData, FrontendKey<V6>, Frontend>,
    /// The same maps; aya shows no descriptor of a typed one.
    data: (MapData, MapData),
    capacity: [u32; 2],
}

impl FrontendTable {
    pub(super) fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let open = |map| open_pin(pin_dir, map);
        let data = (open(names::MAP_FRONTENDS_V4)?, open(names::MAP_FRONTENDS_V6)?);
        let capacity = [
            capacity(&data.0, names::MAP_FRONTENDS_V4)?,
            capacity(&data.1, names::MAP_FRONTENDS_V6)?,
        ];
        Ok(Self {
            v4: typed(open(names::MAP_FRONTENDS_V4)?, names::MAP_FRONTENDS_V4)?,
            v6: typed(open(names::MAP_FRONTENDS_V6)?, names::MAP_FRONTENDS_V6)?,
            data,
            capacity,
        })
    }

    /// Most rows by family (0 IPv4, 1 IPv6).
    pub const fn capacity(&self) -> [u32; 2] {
        self.capacity
    }

    /// Every row of both families.
    pub fn rows(&self) -> Result<Vec<(FrontendId, Frontend)>, MapsError> {
        let blank = (FrontendKey::<V4>::default(), Frontend::default());
        let v4 = batch::rows(&self.data.0, names::MAP_FRONTENDS_V4, blank)?;
        let blank = (FrontendKey::<V6>::default(), Frontend::default());
        let v6 = batch::rows(&self.data.1, names::MAP_FRONTENDS_V6, blank)?;
        let v4 = v4.into_iter().map(|(key, row)| (key.into(), row));
        Ok(v4.chain(v6.into_iter().map(|(key, row)| (key.into(), row))).collect())
    }

    /// A row, if it is there.
    pub fn get(&self, id: FrontendId) -> Result<Option<Frontend>, MapsError> {
        let result = match id.addr {
            IpAddr::V4(addr) => self.v4.get(&id.key(addr.into()), 0),
            IpAddr::V6(addr) => self.v6.get(&id.key(addr.into()), 0),
        };
        match result {
            Ok(row) => Ok(Some(row)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => {
                let map = [names::MAP_FRONTENDS_V4, names::MAP_FRONTENDS_V6][id.family()];
                Err(MapsError::Read { map, source })
            }
        }
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, id: FrontendId, row: Frontend) -> Result<(), MapsError> {
        let result = match id.addr {
            IpAddr::V4(addr) => self.v4.insert(id.key(addr.into()), row, 0),
            IpAddr::V6(addr) => self.v6.insert(id.key(addr.into()), row, 0),
        };
        result.map_err(|source| write_error(id, source))
    }

    /// Removes a row; one that is gone already is no error.
    pub fn remove(&mut self, id: FrontendId) -> Result<(), MapsError> {
        let result = match id.addr {
            IpAddr::V4(addr) => self.v4.remove(&id.key(addr.into())),
            IpAddr::V6(addr) => self.v6.remove(&id.key(addr.into())),
        };
        match result {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(write_error(id, source)),
        }
    }
}

fn write_error(id: FrontendId, source: MapError) -> MapsError {
    let map = [names::MAP_FRONTENDS_V4, names::MAP_FRONTENDS_V6][id.family()];
    MapsError::Write { map, row: id.to_string(), source }
}
