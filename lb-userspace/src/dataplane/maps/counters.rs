//! The per-CPU counters: of Service ports, of backends, and of verdicts.

use super::error::MapsError;
use super::typed;
use aya::maps::{MapData, MapError, PerCpuArray, PerCpuValues};
use lb_common::verdict::{Hook, Verdict, counter_index};
use lb_common::{Traffic, names, pressure};

/// Counters by Service id or by backend id.
pub struct TrafficTable {
    map: &'static str,
    array: PerCpuArray<MapData, Traffic>,
}

impl TrafficTable {
    pub(super) fn open(data: MapData, map: &'static str) -> Result<Self, MapsError> {
        let array = typed(data, map)?;
        Ok(Self { map, array })
    }

    /// The sum over all CPUs.
    pub fn get(&self, id: u32) -> Result<Traffic, MapsError> {
        let rows = self.array.get(&id, 0).map_err(|source| self.read_error(id, source))?;
        Ok(rows.iter().fold(Traffic::default(), |sum, row| Traffic {
            connections: sum.connections.wrapping_add(row.connections),
            packets_in: sum.packets_in.wrapping_add(row.packets_in),
            packets_out: sum.packets_out.wrapping_add(row.packets_out),
            bytes_in: sum.bytes_in.wrapping_add(row.bytes_in),
            bytes_out: sum.bytes_out.wrapping_add(row.bytes_out),
            refused: sum.refused.wrapping_add(row.refused),
            no_local: sum.no_local.wrapping_add(row.no_local),
            out_of_range: sum.out_of_range.wrapping_add(row.out_of_range),
        }))
    }

    /// Starts from zero, for a new owner of the id.
    pub fn clear(&mut self, id: u32) -> Result<(), MapsError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| MapsError::Cpus { source })?;
        let zero = PerCpuValues::try_from(vec![Traffic::default(); cpus])
            .map_err(|source| MapsError::Cpus { source })?;
        self.array.set(id, zero, 0).map_err(|source| {
            let row = format!("the counters of id {id}");
            MapsError::Write { map: self.map, row, source }
        })
    }

    fn read_error(&self, index: u32, source: MapError) -> MapsError {
        if matches!(source, MapError::OutOfBounds { .. }) {
            MapsError::Index { map: self.map, index, len: self.array.len() }
        } else {
            MapsError::Read { map: self.map, source }
        }
    }
}

/// Packets by hook and verdict.
pub struct VerdictTable(PerCpuArray<MapData, u64>);

impl VerdictTable {
    pub(super) fn open(data: MapData) -> Result<Self, MapsError> {
        typed(data, names::MAP_VERDICTS).map(Self)
    }

    /// Packets that met this verdict at this hook, over all CPUs.
    pub fn get(&self, hook: Hook, verdict: Verdict) -> Result<u64, MapsError> {
        sum(&self.0, counter_index(hook, verdict), names::MAP_VERDICTS)
    }
}

/// Packets dropped for want of a source port, by Service id.
pub struct NoPortTable(PerCpuArray<MapData, u64>);

impl NoPortTable {
    pub(super) fn open(data: MapData) -> Result<Self, MapsError> {
        typed(data, names::MAP_NO_PORT).map(Self)
    }

    /// Packets over all CPUs.
    pub fn get(&self, id: u32) -> Result<u64, MapsError> {
        sum(&self.0, id, names::MAP_NO_PORT)
    }

    /// Starts from zero, for a new owner of the id.
    pub fn clear(&mut self, id: u32) -> Result<(), MapsError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, source)| MapsError::Cpus { source })?;
        let zero =
            PerCpuValues::try_from(vec![0; cpus]).map_err(|source| MapsError::Cpus { source })?;
        self.0.set(id, zero, 0).map_err(|source| {
            let row = format!("the counter of id {id}");
            MapsError::Write { map: names::MAP_NO_PORT, row, source }
        })
    }
}

/// What became of flows' rows under pressure since the maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Flows that gave way to newer ones, before they had proven themselves or
    /// after they were closed.
    pub gave_way: u64,
    /// Rows that were evicted while their flow lived, and made again.
    pub renewed: u64,
    /// Source ports that newer flows were given before they had rested, or that
    /// were taken from flows that had not proven themselves.
    pub ports: u64,
}

/// The counters of [`Pressure`].
pub struct PressureTable(PerCpuArray<MapData, u64>);

impl PressureTable {
    pub(super) fn open(data: MapData) -> Result<Self, MapsError> {
        typed(data, names::MAP_PRESSURE).map(Self)
    }

    /// Over all CPUs.
    pub fn read(&self) -> Result<Pressure, MapsError> {
        let counter = |index| sum(&self.0, index, names::MAP_PRESSURE);
        Ok(Pressure {
            gave_way: counter(pressure::GAVE_WAY)?,
            renewed: counter(pressure::RENEWED)?,
            ports: counter(pressure::PORT)?,
        })
    }
}

/// A counter over all CPUs.
fn sum(map: &PerCpuArray<MapData, u64>, index: u32, name: &'static str) -> Result<u64, MapsError> {
    let rows = map.get(&index, 0).map_err(|source| MapsError::Read { map: name, source })?;
    Ok(rows.iter().fold(0, |sum: u64, row| sum.wrapping_add(*row)))
}
