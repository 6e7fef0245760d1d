//! What every pinned map has to be: one table, asked before a pin is reused.
//! aya opens a pin without looking at it.

use super::{DataplaneError, PinDir};
use aya::maps::lpm_trie::Key;
use aya::maps::{MapInfo, MapType};
use lb_common::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, FrontendKey, Held, Interface,
    PrefixKey, RangeHeads, Service, ServiceName, SocketKey, SocketName, SocketPeer, Traffic, V4,
    V6, filter, limits, names, pressure, verdict,
};

/// Sizes of the maps. Flow tables of other sizes are replaced with their rows, and so
/// are maps with too few rows of what Services need; those with more are left as they
/// are. For the others see [`HookOptions::replace_layout`](super::HookOptions).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Service ports.
    pub services: u32,
    /// Endpoints of Service ports.
    pub backends: u32,
    /// Slots, two to a word.
    pub slots: u32,
    /// Frontends of each family.
    pub frontends: u32,
    /// Rows of the IPv4 flow table.
    pub flows_v4: u32,
    /// Rows of the IPv6 flow table.
    pub flows_v6: u32,
    /// Interfaces.
    pub interfaces: u32,
    /// Clients with session affinity, of each family.
    pub affinity: u32,
    /// Source ranges of each family.
    pub prefixes: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            services: limits::MIN_SERVICES,
            backends: limits::MIN_BACKENDS,
            slots: limits::MIN_SLOTS,
            frontends: limits::MIN_FRONTENDS,
            flows_v4: limits::MIN_FLOWS_V4,
            flows_v6: limits::MIN_FLOWS_V6,
            interfaces: limits::MAX_INTERFACES,
            affinity: limits::MIN_AFFINITY,
            prefixes: limits::MAX_PREFIXES,
        }
    }
}

impl MapSizes {
    /// The defaults for this machine, whichever of its processors this process may use:
    /// all of them forward packets.
    pub fn for_this_machine() -> Self {
        Self::for_processors(aya::util::online_cpus().map_or(1, |online| online.len()))
    }

    /// More processors carry more flows: kube-proxy lets conntrack hold 32,768 for each,
    /// and a flow has two rows.
    fn for_processors(processors: usize) -> Self {
        let sizes = Self::default();
        let pairs = u32::try_from(processors / 2).unwrap_or(u32::MAX);
        let factor = pairs.clamp(1, limits::MAX_FLOWS_FACTOR);
        Self { flows_v4: sizes.flows_v4 * factor, flows_v6: sizes.flows_v6 * factor, ..sizes }
    }
}

/// What a map has to be.
pub(super) struct MapSpec {
    pub name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    pub entries: u32,
    /// Whether more rows mean nothing but room.
    elastic: bool,
}

/// A map whose number of rows means something.
const fn spec<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapSpec {
    MapSpec { name, kind, key: size_of::<K>(), value: size_of::<V>(), entries, elastic: false }
}

/// A map that may have more rows than are needed.
const fn room<K, V>(name: &'static str, kind: MapType, entries: u32) -> MapSpec {
    MapSpec { elastic: true, ..spec::<K, V>(name, kind, entries) }
}

/// Every pinned map.
pub(super) const fn specs(sizes: &MapSizes) -> [MapSpec; names::PINNED_MAPS.len()] {
    use MapType::{Array, Hash, LpmTrie, LruHash, PerCpuArray};
    let MapSizes {
        services,
        backends,
        slots,
        frontends,
        flows_v4,
        flows_v6,
        interfaces,
        affinity,
        prefixes,
    } = *sizes;
    [
        room::<FrontendKey<V4>, Frontend>(names::MAP_FRONTENDS_V4, Hash, frontends),
        room::<FrontendKey<V6>, Frontend>(names::MAP_FRONTENDS_V6, Hash, frontends),
        room::<u32, Service>(names::MAP_SERVICES, Array, services),
        room::<u32, u64>(names::MAP_SLOTS, Array, slots.div_ceil(2)),
        room::<u32, Backend>(names::MAP_BACKENDS, Array, backends),
        spec::<FlowKey<V4>, Flow<V4>>(names::MAP_FLOWS_V4, LruHash, flows_v4),
        spec::<FlowKey<V6>, Flow<V6>>(names::MAP_FLOWS_V6, LruHash, flows_v6),
        spec::<u32, u64>(names::MAP_FILTER, Array, filter::WORDS),
        spec::<u32, Interface>(names::MAP_INTERFACES, Hash, interfaces),
        room::<u32, Traffic>(names::MAP_SERVICE_TRAFFIC, PerCpuArray, services),
        room::<u32, Traffic>(names::MAP_BACKEND_TRAFFIC, PerCpuArray, backends),
        spec::<u32, u64>(names::MAP_VERDICTS, PerCpuArray, verdict::VERDICT_COUNTERS),
        room::<u32, ServiceName>(names::MAP_NAMES, Hash, services),
        room::<u32, [u32; 2]>(names::MAP_CURSORS, PerCpuArray, services),
        room::<AffinityKey<V4>, Affinity>(names::MAP_AFFINITY_V4, LruHash, affinity),
        room::<AffinityKey<V6>, Affinity>(names::MAP_AFFINITY_V6, LruHash, affinity),
        spec::<Key<PrefixKey<V4>>, u32>(names::MAP_PREFIXES_V4, LpmTrie, prefixes),
        spec::<Key<PrefixKey<V6>>, u32>(names::MAP_PREFIXES_V6, LpmTrie, prefixes),
        spec::<u32, RangeHeads>(names::MAP_RANGES, Array, 2),
        room::<u32, u64>(names::MAP_OPEN, Array, backends),
        room::<u64, SocketPeer>(names::MAP_SOCKETS_TCP, LruHash, limits::MAX_SOCKETS),
        room::<u64, SocketPeer>(names::MAP_SOCKETS_UDP, Hash, limits::MAX_SOCKETS),
        room::<SocketKey, SocketPeer>(names::MAP_SOCKET_PEERS, LruHash, limits::MAX_SOCKET_PEERS),
        room::<SocketKey, SocketName>(names::MAP_SOCKET_NAMES, LruHash, limits::MAX_SOCKET_PEERS),
        room::<u32, u64>(names::MAP_NO_PORT, PerCpuArray, services),
        spec::<u32, Held>(names::MAP_HELD, Array, limits::MAX_HELD),
        spec::<u32, FlowKey<V4>>(names::MAP_YOUNG_V4, Array, limits::young(flows_v4)),
        spec::<u32, FlowKey<V6>>(names::MAP_YOUNG_V6, Array, limits::young(flows_v6)),
        spec::<u32, u64>(names::MAP_YOUNG_NEXT, Array, 2),
        spec::<u32, u64>(names::MAP_PRESSURE, PerCpuArray, pressure::COUNTERS),
    ]
}

/// These sizes, or those that are pinned where there is more room.
pub(super) fn with_pinned(pins: &PinDir, sizes: &MapSizes) -> MapSizes {
    let rows = |map, least: u32| {
        MapInfo::from_pin(pins.map(map)).map_or(least, |info| info.max_entries().max(least))
    };
    MapSizes {
        services: rows(names::MAP_SERVICES, sizes.services),
        backends: rows(names::MAP_BACKENDS, sizes.backends),
        slots: rows(names::MAP_SLOTS, sizes.slots.div_ceil(2)).saturating_mul(2),
        frontends: rows(names::MAP_FRONTENDS_V4, sizes.frontends),
        affinity: rows(names::MAP_AFFINITY_V4, sizes.affinity),
        ..*sizes
    }
}

/// How a pinned map differs from what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mismatch {
    pub map: &'static str,
    /// What differs: its type, a size of its rows, or how many rows it has.
    pub property: &'static str,
    pub found: String,
    pub expected: String,
    /// Whether it only has too few rows, and may have more.
    pub grows: bool,
}

impl Mismatch {
    /// How many rows the map has, and nothing else.
    pub(super) fn is_number_of_rows(&self) -> bool {
        self.property == ROWS
    }
}

/// [`Mismatch::property`] of a map with more or fewer rows.
const ROWS: &str = "size";

/// How pins differ from what this process needs, one thing a map. Absent ones
/// are fine.
pub(super) fn mismatches(pins: &PinDir, sizes: &MapSizes) -> Result<Vec<Mismatch>, DataplaneError> {
    let mut mismatches = Vec::new();
    for spec in specs(sizes) {
        let path = pins.map(spec.name);
        if !path.exists() {
            continue;
        }
        let fail = |source| DataplaneError::Map { map: spec.name, source };
        let info = MapInfo::from_pin(&path).map_err(fail)?;
        let kind = info.map_type().map_err(fail)?;
        let differ = |property, found: String, expected: String| {
            let (differs, grows) = (found != expected, false);
            differs.then_some(Mismatch { map: spec.name, property, found, expected, grows })
        };
        let (rows, entries) = (info.max_entries(), spec.entries);
        let differ_in_rows = || {
            let differs = differ(ROWS, rows.to_string(), entries.to_string())?;
            let enough = spec.elastic && rows >= entries;
            (!enough).then_some(Mismatch { grows: spec.elastic, ..differs })
        };
        mismatches.extend(
            differ("type", format!("{kind:?}"), format!("{:?}", spec.kind))
                .or_else(|| differ("key size", info.key_size().to_string(), spec.key.to_string()))
                .or_else(|| {
                    differ("value size", info.value_size().to_string(), spec.value.to_string())
                })
                .or_else(differ_in_rows),
        );
    }
    Ok(mismatches)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_processors_have_room_for_more_flows() {
        let flows = |processors| {
            let MapSizes { flows_v4, flows_v6, .. } = MapSizes::for_processors(processors);
            [flows_v4, flows_v6]
        };
        assert_eq!([0, 1, 2, 3].map(flows), [[131_072, 65_536]; 4]);
        assert_eq!(flows(8), [524_288, 262_144]);
        assert_eq!([16, 17, 256].map(flows), [[1_048_576, 524_288]; 3]);
    }

    #[test]
    fn every_pinned_map_has_a_specification_in_the_same_order() {
        let named = specs(&MapSizes::default()).map(|spec| spec.name);
        assert_eq!(named, names::PINNED_MAPS);
    }
}
