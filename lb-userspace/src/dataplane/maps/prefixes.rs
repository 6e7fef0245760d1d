//! `LB_PREFIXES_V4` and `LB_PREFIXES_V6`: which clients a Service port serves,
//! where pods of this node are, and where Services' addresses are.

use super::error::MapsError;
use super::{capacity, typed};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::{PrefixKey, V4, V6, names};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Bits of the owner, which come before those of the address.
const OWNER_BITS: u32 = 32;

/// Both prefix maps.
pub struct PrefixTable {
    v4: LpmTrie<MapData, PrefixKey<V4>, u32>,
    v6: LpmTrie<MapData, PrefixKey<V6>, u32>,
    capacity: [u32; 2],
}

impl PrefixTable {
    pub(super) fn open(v4: MapData, v6: MapData) -> Result<Self, MapsError> {
        let capacity =
            [capacity(&v4, names::MAP_PREFIXES_V4)?, capacity(&v6, names::MAP_PREFIXES_V6)?];
        Ok(Self {
            v4: typed(v4, names::MAP_PREFIXES_V4)?,
            v6: typed(v6, names::MAP_PREFIXES_V6)?,
            capacity,
        })
    }

    /// Most rows by family (0 IPv4, 1 IPv6).
    pub const fn capacity(&self) -> [u32; 2] {
        self.capacity
    }

    /// Every row of both families: its owner and the range. A row whose value is
    /// not the range's length is none: to add the range replaces it.
    pub fn rows(&self) -> Result<Vec<(u32, IpNet)>, MapsError> {
        let read = |map| move |source| MapsError::Read { map, source };
        let mut rows = Vec::new();
        for row in &self.v4 {
            let (key, value) = row.map_err(read(names::MAP_PREFIXES_V4))?;
            let PrefixKey { owner, addr } = key.data();
            let length = length(key.prefix_len());
            if let Ok(range) = Ipv4Net::new(Ipv4Addr::from(addr), length)
                && value == u32::from(length)
            {
                rows.push((owner, range.into()));
            }
        }
        for row in &self.v6 {
            let (key, value) = row.map_err(read(names::MAP_PREFIXES_V6))?;
            let PrefixKey { owner, addr } = key.data();
            let length = length(key.prefix_len());
            if let Ok(range) = Ipv6Net::new(Ipv6Addr::from(addr), length)
                && value == u32::from(length)
            {
                rows.push((owner, range.into()));
            }
        }
        Ok(rows)
    }

    /// Adds a range of an owner. The value is the range's own length, so that the
    /// programs can tell single addresses.
    pub fn insert(&mut self, owner: u32, range: IpNet) -> Result<(), MapsError> {
        match range {
            IpNet::V4(range) => {
                self.v4.insert(&key_v4(owner, range), u32::from(range.prefix_len()), 0)
            }
            IpNet::V6(range) => {
                self.v6.insert(&key_v6(owner, range), u32::from(range.prefix_len()), 0)
            }
        }
        .map_err(|source| write_error(range, source))
    }

    /// Removes a range; one that is gone already is no error.
    pub fn remove(&mut self, owner: u32, range: IpNet) -> Result<(), MapsError> {
        let result = match range {
            IpNet::V4(range) => self.v4.remove(&key_v4(owner, range)),
            IpNet::V6(range) => self.v6.remove(&key_v6(owner, range)),
        };
        match result {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            // The trie says so of a key that it does not have.
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            Err(source) => Err(write_error(range, source)),
        }
    }
}

fn key_v4(owner: u32, range: Ipv4Net) -> Key<PrefixKey<V4>> {
    let data = PrefixKey { owner, addr: V4::from(range.network()) };
    Key::new(OWNER_BITS + u32::from(range.prefix_len()), data)
}

fn key_v6(owner: u32, range: Ipv6Net) -> Key<PrefixKey<V6>> {
    let data = PrefixKey { owner, addr: V6::from(range.network()) };
    Key::new(OWNER_BITS + u32::from(range.prefix_len()), data)
}

/// Length of the range, out of the length of the whole key.
fn length(bits: u32) -> u8 {
    u8::try_from(bits.saturating_sub(OWNER_BITS)).unwrap_or(u8::MAX)
}

fn write_error(range: IpNet, source: MapError) -> MapsError {
    let map = if range.addr().is_ipv4() { names::MAP_PREFIXES_V4 } else { names::MAP_PREFIXES_V6 };
    MapsError::Write { map, row: format!("range {range}"), source }
}
