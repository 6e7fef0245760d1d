//! `LB_FLOWS_V4` and `LB_FLOWS_V6`: one row for each tuple of a flow.
//!
//! The programs change the tables at any time. A walk sees each row that stays
//! where it is once, may miss what comes or goes meanwhile, and always ends.

use super::error::MapsError;
use super::{capacity, open_pin, typed};
use crate::dataplane::sys::{self, Batch};
use aya::Pod;
use aya::maps::{HashMap, MapData, MapError};
use lb_common::{Address, Flow, FlowKey, V4, V6, names};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::slice;

/// Rows that are read with one call.
const BATCH: usize = 4096;

/// Address families, each with its flow table.
pub trait FlowFamily: Address + Pod + Into<IpAddr> {
    /// Name of the table.
    const MAP: &'static str;
    /// Name of the family in metrics and lists.
    const NAME: &'static str;
}

impl FlowFamily for V4 {
    const MAP: &'static str = names::MAP_FLOWS_V4;
    const NAME: &'static str = "ipv4";
}

impl FlowFamily for V6 {
    const MAP: &'static str = names::MAP_FLOWS_V6;
    const NAME: &'static str = "ipv6";
}

/// The flow table of a family.
pub struct FlowTable<A: FlowFamily> {
    rows: HashMap<MapData, FlowKey<A>, Flow<A>>,
    /// The same map; aya shows no descriptor of a typed one.
    data: MapData,
    capacity: u32,
}

/// A walk through a flow table: some of its rows at a time.
pub struct FlowRows<A: FlowFamily> {
    keys: Vec<FlowKey<A>>,
    flows: Vec<Flow<A>>,
    /// How many of both are filled.
    filled: usize,
    place: Place<A>,
}

/// Where a walk stands.
enum Place<A> {
    InBatches(Batch),
    /// On kernels that can't read batches: behind this key. How many rows have
    /// been read bounds the walk: it starts anew if the key is gone.
    KeyByKey {
        behind: Option<FlowKey<A>>,
        read: u32,
    },
}

impl<A: FlowFamily> FlowRows<A> {
    /// Before the first row.
    pub fn new() -> Self {
        Self {
            keys: vec![FlowKey::default(); BATCH],
            flows: vec![Flow::default(); BATCH],
            filled: 0,
            place: Place::InBatches(Batch::At(None)),
        }
    }

    /// A walk that reads key by key, as on old kernels.
    #[doc(hidden)]
    pub fn key_by_key() -> Self {
        Self { place: Place::KeyByKey { behind: None, read: 0 }, ..Self::new() }
    }

    /// The rows that were read last.
    pub fn rows(&self) -> impl Iterator<Item = (&FlowKey<A>, &Flow<A>)> {
        self.keys.iter().zip(&self.flows).take(self.filled)
    }
}

impl<A: FlowFamily> Default for FlowRows<A> {
    fn default() -> Self {
        Self::new()
    }
}

impl<A: FlowFamily> FlowTable<A> {
    /// Opens the table that is pinned below `pin_dir`.
    pub fn open(pin_dir: &Path) -> Result<Self, MapsError> {
        let data = open_pin(pin_dir, A::MAP)?;
        let rows = typed(open_pin(pin_dir, A::MAP)?, A::MAP)?;
        let capacity = capacity(&data, A::MAP)?;
        Ok(Self { rows, data, capacity })
    }

    /// Most rows.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Reads the next rows of a walk; false if there are no more.
    pub fn read(&self, walk: &mut FlowRows<A>) -> Result<bool, MapsError> {
        loop {
            walk.filled = match walk.place {
                Place::InBatches(Batch::End) => return Ok(false),
                Place::InBatches(Batch::At(from)) => self.batch(walk, from)?,
                Place::KeyByKey { behind, read } => {
                    self.one_by_one(walk, behind, read)?;
                    return Ok(walk.filled != 0);
                }
            };
            if walk.filled != 0 {
                return Ok(true);
            }
        }
    }

    fn batch(&self, walk: &mut FlowRows<A>, from: Option<u32>) -> Result<usize, MapsError> {
        let map = self.data.fd().as_fd();
        match sys::lookup_batch(map, from, &mut walk.keys, &mut walk.flows) {
            Ok((count, next)) => {
                walk.place = Place::InBatches(next);
                Ok(count)
            }
            Err(error) if from.is_none() && is_unknown(&error) => {
                walk.place = Place::KeyByKey { behind: None, read: 0 };
                Ok(0)
            }
            Err(error) => Err(MapsError::Read { map: A::MAP, source: MapError::IoError(error) }),
        }
    }

    fn one_by_one(
        &self,
        walk: &mut FlowRows<A>,
        mut behind: Option<FlowKey<A>>,
        mut read: u32,
    ) -> Result<(), MapsError> {
        walk.filled = 0;
        while walk.filled < BATCH && read < self.capacity {
            let Some(key) = self.key_behind(behind.as_ref()) else {
                read = self.capacity;
                break;
            };
            (behind, read) = (Some(key), read + 1);
            if let Some(flow) = self.get(&key)? {
                (walk.keys[walk.filled], walk.flows[walk.filled]) = (key, flow);
                walk.filled += 1;
            }
        }
        walk.place = Place::KeyByKey { behind, read };
        Ok(())
    }

    fn key_behind(&self, key: Option<&FlowKey<A>>) -> Option<FlowKey<A>> {
        let mut next = FlowKey::default();
        let (behind, into) = (key.map(slice::from_ref), slice::from_mut(&mut next));
        sys::next_key(self.data.fd().as_fd(), behind, into).then_some(next)
    }

    /// How many rows there are.
    pub fn count(&self) -> Result<u32, MapsError> {
        let (mut walk, mut count) = (FlowRows::new(), 0_u32);
        while self.read(&mut walk)? {
            count = count.saturating_add(u32::try_from(walk.filled).unwrap_or(u32::MAX));
        }
        Ok(count)
    }

    /// A row. Looking does not count as use: the table's eviction is not
    /// misled.
    pub fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, MapsError> {
        match self.rows.get(key, 0) {
            Ok(flow) => Ok(Some(flow)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(MapsError::Read { map: A::MAP, source }),
        }
    }

    /// Adds or replaces a row.
    pub fn insert(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<(), MapsError> {
        self.rows.insert(key, flow, 0).map_err(|source| write_error::<A>(source))
    }

    /// Adds a row if there is none with its key; whether there was none.
    pub fn add(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<bool, MapsError> {
        /// `BPF_NOEXIST`.
        const ONLY_NEW: u64 = 1;
        match self.rows.insert(key, flow, ONLY_NEW) {
            Ok(()) => Ok(true),
            Err(error) if is_there(&error) => Ok(false),
            Err(source) => Err(write_error::<A>(source)),
        }
    }

    /// Removes a row; one that is gone already is no error.
    pub fn remove(&mut self, key: &FlowKey<A>) -> Result<(), MapsError> {
        match self.rows.remove(key) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(write_error::<A>(source)),
        }
    }
}

fn is_there(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EEXIST))
}

fn write_error<A: FlowFamily>(source: MapError) -> MapsError {
    MapsError::Write { map: A::MAP, row: "a flow".to_owned(), source }
}

/// Whether the kernel does not know how to read batches of this map (before
/// 5.6): the command is unknown, or this kind of map has no such operation.
fn is_unknown(error: &io::Error) -> bool {
    /// `ENOTSUPP` of linux/errno.h, which the kernel lets out here.
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}
