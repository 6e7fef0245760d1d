//! What a program asks of the kernel: the rows of the rig's own maps, which it may
//! change for itself alone, and as much of the other helpers as decides its way.

use super::Counts;
use super::memory::Memory;
use crate::bpf;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;

/// Maps, by their file descriptors.
pub(super) type Maps = BTreeMap<u64, Map>;

/// A map of the rig.
#[derive(Clone, Debug)]
pub(super) struct Map {
    pub(super) key: usize,
    /// Length of a value, as the kernel copies it out: of one for each CPU if
    /// there are.
    pub(super) copied: usize,
    /// And of a CPU's own.
    pub(super) value: usize,
    /// Its rows are found by hashing or by prefix, not by a number.
    pub(super) hashed: bool,
}

/// Where the context tells where the packet is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges {
    pub(super) begin: u64,
    pub(super) end: u64,
}

/// The kernel, to a program that runs.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) memory: Memory,
    pub(super) counts: Counts,
    maps: Maps,
    /// Rows that were asked for: their addresses, or that there are none.
    rows: BTreeMap<(u64, Vec<u8>), Option<u64>>,
    edges: Edges,
    packet: (u64, u64),
    /// The interface that routes lead to.
    route: u32,
}

// Numbers of helpers, by their names in linux/bpf.h.
const MAP_LOOKUP_ELEM: i32 = 1;
const MAP_UPDATE_ELEM: i32 = 2;
const MAP_DELETE_ELEM: i32 = 3;
const GET_PRANDOM_U32: i32 = 7;
const GET_SMP_PROCESSOR_ID: i32 = 8;
const SKB_STORE_BYTES: i32 = 9;
const L3_CSUM_REPLACE: i32 = 10;
const L4_CSUM_REPLACE: i32 = 11;
const REDIRECT: i32 = 23;
const SKB_LOAD_BYTES: i32 = 26;
const SKB_CHANGE_TAIL: i32 = 38;
const SKB_PULL_DATA: i32 = 39;
const FIB_LOOKUP: i32 = 69;
const SK_LOOKUP_TCP: i32 = 84;
const KTIME_GET_COARSE_NS: i32 = 160;

/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;
/// `-EEXIST`, and what else a helper says that fails.
const FAILED: u64 = 17_u64.wrapping_neg();
/// Offset of the interface in a `struct bpf_fib_lookup`.
const FIB_IFINDEX: u64 = 8;

impl Kernel {
    pub(super) fn new(maps: Maps, route: u32) -> Self {
        Self {
            memory: Memory::new(),
            counts: Counts::default(),
            maps,
            rows: BTreeMap::new(),
            edges: Edges { begin: 0, end: 0 },
            packet: (0, 0),
            route,
        }
    }

    /// Puts packet and context into memory; the context's address. `edges` are
    /// offsets in it.
    pub(super) fn enter(&mut self, packet: &[u8], context: Vec<u8>, edges: Edges) -> u64 {
        let begin = self.memory.add(packet.to_vec());
        self.packet = (begin, begin + packet.len() as u64);
        let context = self.memory.add(context);
        self.edges = Edges { begin: context + edges.begin, end: context + edges.end };
        context
    }

    /// The packet, as it is.
    pub(super) fn packet(&self) -> Result<&[u8]> {
        let (begin, end) = self.packet;
        self.memory.at(begin, usize::try_from(end - begin)?)
    }

    /// A load; the context's fields for the packet's edges are wider than they look.
    pub(super) fn load(&self, address: u64, length: usize) -> Result<u64> {
        match address {
            at if at == self.edges.begin => Ok(self.packet.0),
            at if at == self.edges.end => Ok(self.packet.1),
            _ => self.memory.load(address, length),
        }
    }

    /// Address of the only value of a map.
    pub(super) fn value(&mut self, map: u64) -> Result<u64> {
        self.row(map, vec![0; 4])?.context("a map without its value")
    }

    /// Address of a row, if there is one.
    fn row(&mut self, map: u64, key: Vec<u8>) -> Result<Option<u64>> {
        if let Some(row) = self.rows.get(&(map, key.clone())) {
            return Ok(*row);
        }
        let described = self.maps.get(&map).context("no such map")?;
        let mut value = vec![0; described.copied];
        let is_there = bpf::get_element(i32::try_from(map)?, &key, &mut value)?;
        value.truncate(described.value);
        let row = is_there.then(|| self.memory.add(value));
        self.rows.insert((map, key), row);
        Ok(row)
    }

    fn key(&self, map: u64, address: u64) -> Result<Vec<u8>> {
        let length = self.maps.get(&map).context("no such map")?.key;
        Ok(self.memory.at(address, length)?.to_vec())
    }

    /// A helper.
    pub(super) fn call(&mut self, helper: i32, arguments: [u64; 5]) -> Result<u64> {
        let [first, second, third, fourth, _] = arguments;
        let counter = match helper {
            MAP_LOOKUP_ELEM if self.maps.get(&first).is_some_and(|map| map.hashed) => {
                &mut self.counts.lookups
            }
            MAP_LOOKUP_ELEM => &mut self.counts.elements,
            MAP_UPDATE_ELEM | MAP_DELETE_ELEM => &mut self.counts.changes,
            _ => &mut self.counts.helpers,
        };
        *counter += 1;
        match helper {
            MAP_LOOKUP_ELEM => {
                let key = self.key(first, second)?;
                Ok(self.row(first, key)?.unwrap_or(0))
            }
            MAP_UPDATE_ELEM => {
                let key = self.key(first, second)?;
                if fourth == NOEXIST && self.row(first, key.clone())?.is_some() {
                    return Ok(FAILED);
                }
                let length = self.maps.get(&first).context("no such map")?.value;
                let value = self.memory.at(third, length)?.to_vec();
                let row = self.memory.add(value);
                self.rows.insert((first, key), Some(row));
                Ok(0)
            }
            MAP_DELETE_ELEM => {
                let key = self.key(first, second)?;
                let was_there = self.row(first, key.clone())?.is_some();
                self.rows.insert((first, key), None);
                Ok(if was_there { 0 } else { FAILED })
            }
            SKB_STORE_BYTES => {
                let bytes = self.memory.at(third, usize::try_from(fourth)?)?.to_vec();
                let at = self.packet.0 + second;
                self.memory.at_mut(at, bytes.len())?.copy_from_slice(&bytes);
                Ok(0)
            }
            SKB_LOAD_BYTES => {
                let length = usize::try_from(fourth)?;
                let bytes = self.memory.at(self.packet.0 + second, length)?.to_vec();
                self.memory.at_mut(third, length)?.copy_from_slice(&bytes);
                Ok(0)
            }
            SKB_CHANGE_TAIL => {
                let length = usize::try_from(second)?;
                self.memory.resize(self.packet.0, length)?;
                self.packet.1 = self.packet.0 + second;
                // The first word of a `struct __sk_buff`.
                self.memory.store(first, 4, second)?;
                Ok(0)
            }
            FIB_LOOKUP => {
                self.memory.store(second + FIB_IFINDEX, 4, u64::from(self.route))?;
                Ok(0)
            }
            // TC's and XDP's, in that order: both "send it".
            REDIRECT => Ok(7),
            KTIME_GET_COARSE_NS => now(),
            // Checksums decide no way, nor do sockets that there are not.
            L3_CSUM_REPLACE | L4_CSUM_REPLACE | SKB_PULL_DATA | SK_LOOKUP_TCP
            | GET_SMP_PROCESSOR_ID => Ok(0),
            // The same each time.
            GET_PRANDOM_U32 => Ok(0x9e37_79b1),
            other => bail!("helper {other} is not known here"),
        }
    }
}

/// The clock that the programs go by.
fn now() -> Result<u64> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
}
