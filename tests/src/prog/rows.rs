//! Fills the maps as the agent does: filter flags first, then backends, slots
//! in a fresh segment, the Service's row, and its frontends last.

use std::net::{IpAddr, SocketAddr};

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues};
use ipnet::IpNet;
use lb_common::range::Head;
use lb_common::value::{backend_state, frontend_flag, frontend_kind, scope};
use lb_common::{
    Address as _, Affinity, AffinityKey, Backend, BePort, Frontend, FrontendKey, Interface,
    PrefixKey, RangeHeads, Segment, Service, Traffic, V4, V6, filter, key, names, pressure,
};

use super::{Family, Rig, net};

const SERVICES: u32 = 128;
/// Id 0 is nobody's.
const FIRST_SERVICE: u32 = 1;
const BACKENDS: u32 = 1_024;
const SLOT_WORDS: u32 = 65_536;

/// More flows than any test makes: none meets the ring by chance.
pub(super) const YOUNG: u32 = 1 << 18;
/// Small maps: a test clears them in no time.
pub(super) const SIZES: [(&str, u32); 18] = [
    (names::MAP_FRONTENDS_V4, 1_024),
    (names::MAP_FRONTENDS_V6, 1_024),
    (names::MAP_SERVICES, SERVICES),
    (names::MAP_SLOTS, SLOT_WORDS),
    (names::MAP_BACKENDS, BACKENDS),
    (names::MAP_FLOWS_V4, 16_384),
    (names::MAP_FLOWS_V6, 16_384),
    (names::MAP_YOUNG_V4, YOUNG),
    (names::MAP_YOUNG_V6, YOUNG),
    (names::MAP_SERVICE_TRAFFIC, SERVICES),
    (names::MAP_BACKEND_TRAFFIC, BACKENDS),
    (names::MAP_NAMES, SERVICES),
    (names::MAP_CURSORS, SERVICES),
    (names::MAP_AFFINITY_V4, 1_024),
    (names::MAP_AFFINITY_V6, 1_024),
    (names::MAP_PREFIXES_V4, 1_024),
    (names::MAP_PREFIXES_V6, 1_024),
    (names::MAP_OPEN, BACKENDS),
];

/// A Service port, as a test writes it down.
#[derive(Clone, Debug, Default)]
pub struct ServiceSpec {
    /// IP protocol number.
    pub proto: u8,
    /// One of [`lb_common::value::policy`].
    pub policy: u8,
    /// ClusterIPs with the Service's port.
    pub cluster: Vec<SocketAddr>,
    /// Node addresses with the node port.
    pub node: Vec<SocketAddr>,
    /// Active endpoints, of both families.
    pub backends: Vec<SocketAddr>,
    /// Which of them are on this node, by their place.
    pub local: Vec<usize>,
    /// A load balancer's addresses with the Service's port.
    pub load_balancer: Vec<SocketAddr>,
    /// External addresses with the Service's port.
    pub external: Vec<SocketAddr>,
    /// One of [`lb_common::value::scope`], for the ClusterIPs.
    pub internal_scope: u8,
    /// Likewise for all other addresses.
    pub external_scope: u8,
    /// Clients that may use the load balancer's addresses; all, if empty.
    pub ranges: Vec<IpNet>,
    /// Timeout of session affinity in seconds, or 0.
    pub affinity: u32,
}

/// The rows that a Service port has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// The Service's row.
    pub id: u32,
    /// The backends' rows, in the order of the specification.
    pub backends: Vec<u32>,
}

impl Rig {
    /// Programs a Service port.
    pub fn install(&mut self, spec: &ServiceSpec) -> Installed {
        let id = self.next_service;
        self.next_service += 1;
        let service = Service {
            policy: spec.policy,
            used: 1,
            proto: spec.proto,
            affinity: spec.affinity,
            ..Service::default()
        };
        self.set_array(names::MAP_SERVICES, id, service);
        let backends: Vec<u32> =
            spec.backends.iter().map(|addr| self.add_backend(id, spec.proto, *addr)).collect();
        self.set_endpoints(id, &backends);
        let local: Vec<u32> = spec.local.iter().map(|place| backends[*place]).collect();
        self.set_local_endpoints(id, &local);
        for range in &spec.ranges {
            self.add_range(id, *range);
        }
        let guard = if spec.ranges.is_empty() { 0 } else { frontend_flag::SOURCE_RANGES };
        for (kind, scope, flags, frontends) in [
            (frontend_kind::CLUSTER_IP, spec.internal_scope, 0, &spec.cluster),
            (frontend_kind::NODE_PORT, spec.external_scope, 0, &spec.node),
            (frontend_kind::LOAD_BALANCER, spec.external_scope, guard, &spec.load_balancer),
            (frontend_kind::EXTERNAL_IP, spec.external_scope, 0, &spec.external),
        ] {
            for addr in frontends {
                let row = Frontend { service: id, kind, scope, flags, pad: 0 };
                self.add_frontend(*addr, spec.proto, row);
            }
        }
        Installed { id, backends }
    }

    /// Gives a new backend row to an endpoint.
    pub fn add_backend(&mut self, service: u32, proto: u8, addr: SocketAddr) -> u32 {
        let id = self.next_backend;
        self.next_backend += 1;
        self.give_backend(id, service, proto, addr);
        id
    }

    /// Gives a backend row to an endpoint and raises its generation.
    pub fn give_backend(&mut self, id: u32, service: u32, proto: u8, addr: SocketAddr) {
        self.flag_socket(addr, proto, filter::BACKEND);
        self.flag_address(addr.ip(), filter::BACKEND_ADDR);
        let old: Backend = self.backend(id);
        let (words, family) = match addr.ip() {
            IpAddr::V4(ip) => (V4::from(ip).to_words(), 0),
            IpAddr::V6(ip) => (V6::from(ip).to_words(), 1),
        };
        let backend = Backend {
            addr: words,
            port: BePort::new(addr.port()),
            state: backend_state::ACTIVE,
            family,
            generation: old.generation + 1,
            service,
            scopes: 1,
            reason: 0,
            weight: 1,
        };
        self.set_array(names::MAP_BACKENDS, id, backend);
    }

    /// A backend's row.
    pub fn backend(&self, id: u32) -> Backend {
        self.array(names::MAP_BACKENDS).get(&id, 0).expect("a backend's row")
    }

    /// Sets a backend's state: one of [`backend_state`].
    pub fn set_backend_state(&mut self, id: u32, state: u8) {
        let backend = Backend { state, ..self.backend(id) };
        self.set_array(names::MAP_BACKENDS, id, backend);
    }

    /// Gives a Service these endpoints, in fresh segments.
    pub fn set_endpoints(&mut self, service: u32, backends: &[u32]) {
        self.set_segments(service, scope::CLUSTER, backends);
    }

    /// Likewise those on this node.
    pub fn set_local_endpoints(&mut self, service: u32, backends: &[u32]) {
        for id in backends {
            let row = self.backend(*id);
            let scopes = row.scopes | 1 << scope::LOCAL;
            self.set_array(names::MAP_BACKENDS, *id, Backend { scopes, ..row });
        }
        self.set_segments(service, scope::LOCAL, backends);
    }

    /// Takes a backend out of some scopes: bits `1 << scope` are those that stay.
    pub fn set_backend_scopes(&mut self, id: u32, scopes: u8) {
        let row = self.backend(id);
        self.set_array(names::MAP_BACKENDS, id, Backend { scopes, ..row });
    }

    /// Adds a range of an owner: a Service's id, or [`lb_common::key::PODS`].
    pub fn add_range(&mut self, owner: u32, range: IpNet) {
        let bits = 32 + u32::from(range.prefix_len());
        match range {
            IpNet::V4(range) => {
                let data = PrefixKey { owner, addr: V4::from(range.network()) };
                self.put_range(names::MAP_PREFIXES_V4, &Key::new(bits, data), bits - 32);
            }
            IpNet::V6(range) => {
                let data = PrefixKey { owner, addr: V6::from(range.network()) };
                self.put_range(names::MAP_PREFIXES_V6, &Key::new(bits, data), bits - 32);
            }
        }
    }

    /// Puts ranges of Services' addresses in force; single addresses are spared.
    pub fn set_service_cidrs(&mut self, ranges: &[IpNet]) {
        for range in ranges {
            self.add_range(key::SERVICE_CIDRS, *range);
        }
        for (family, v6) in [(0, false), (1, true)] {
            let wide = |range: &&IpNet| range.prefix_len() < range.max_prefix_len();
            let heads = ranges.iter().filter(wide).filter(|range| range.addr().is_ipv6() == v6);
            let heads = RangeHeads::new(heads.map(|range| match range {
                IpNet::V4(range) => Head::new(V4::from(range.network()), range.netmask().into()),
                IpNet::V6(range) => Head::new(V6::from(range.network()), range.netmask().into()),
            }));
            self.set_array(names::MAP_RANGES, family, heads);
        }
    }

    fn put_range<K: Pod>(&mut self, map: &str, key: &Key<K>, len: u32) {
        let mut map: LpmTrie<_, K, u32> =
            LpmTrie::try_from(self.map_mut(map)).expect("a prefix map");
        map.insert(key, len, 0).expect("room for a range");
    }

    fn clear_ranges<K: Pod>(&mut self, map: &str) {
        let mut map: LpmTrie<_, K, u32> =
            LpmTrie::try_from(self.map_mut(map)).expect("a prefix map");
        let keys: Vec<Key<K>> = map.keys().collect::<Result<_, _>>().expect("the keys");
        for key in keys {
            map.remove(&key).expect("the key is there");
        }
    }

    /// Makes every client's last connection through a Service with affinity
    /// this many seconds older.
    pub fn age_affinity(&mut self, seconds: u64) {
        self.age_clients::<AffinityKey<V4>>(names::MAP_AFFINITY_V4, seconds);
        self.age_clients::<AffinityKey<V6>>(names::MAP_AFFINITY_V6, seconds);
    }

    fn age_clients<K: Pod>(&mut self, map: &str, seconds: u64) {
        let mut map: HashMap<_, K, Affinity> =
            HashMap::try_from(self.map_mut(map)).expect("a hash map");
        let rows: Vec<(K, Affinity)> = map.iter().collect::<Result<_, _>>().expect("the rows");
        for (key, row) in rows {
            let last_used = row.last_used.saturating_sub(seconds * 1_000_000_000);
            map.insert(key, Affinity { last_used, ..row }, 0).expect("the row is there");
        }
    }

    pub(super) fn set_segments(&mut self, service: u32, scope: u8, backends: &[u32]) {
        let mut row: Service =
            self.array(names::MAP_SERVICES).get(&service, 0).expect("a Service's row");
        for family in 0..2 {
            let ids: Vec<u32> = backends
                .iter()
                .copied()
                .filter(|id| usize::from(self.backend(*id).family) == family)
                .collect();
            row.segments[Service::segment_index(family, scope)] = self.new_segment(&ids);
        }
        self.set_array(names::MAP_SERVICES, service, row);
    }

    /// Writes backend ids to slots that were never used since the reset. Every
    /// segment begins at an odd slot, so that both halves of words are met.
    fn new_segment(&mut self, ids: &[u32]) -> Segment {
        let base = self.next_slot | 1;
        let len = u32::try_from(ids.len()).expect("few");
        self.next_slot = base + len;
        assert!(self.next_slot < 2 * SLOT_WORDS, "the test has slots enough");
        for (slot, id) in (base..).zip(ids) {
            let word: u64 =
                self.array(names::MAP_SLOTS).get(&(slot / 2), 0).expect("a word of slots");
            let shift = 32 * (slot % 2);
            let word = word & !(0xffff_ffff << shift) | u64::from(*id) << shift;
            self.set_array(names::MAP_SLOTS, slot / 2, word);
        }
        Segment { base, len }
    }

    /// Adds a frontend row, and the row of its address unless that is a node's.
    pub fn add_frontend(&mut self, addr: SocketAddr, proto: u8, frontend: Frontend) {
        self.flag_socket(addr, proto, filter::FRONTEND);
        let mut rows = vec![(addr.port(), proto, frontend)];
        let whole = match frontend.kind {
            frontend_kind::NODE_PORT => None,
            frontend_kind::CLUSTER_IP => Some(frontend_kind::ADDRESS),
            _ => Some(frontend_kind::EXTERNAL_ADDRESS),
        };
        if let Some(kind) = whole {
            self.flag_address(addr.ip(), filter::SERVICE_ADDR);
            rows.push((0, 0, Frontend { kind, ..Frontend::default() }));
        }
        for (port, proto, row) in rows {
            let port = BePort::new(port);
            match addr.ip() {
                IpAddr::V4(ip) => {
                    self.put_frontend(FrontendKey::new(V4::from(ip), port, proto), row);
                }
                IpAddr::V6(ip) => {
                    self.put_frontend(FrontendKey::new(V6::from(ip), port, proto), row);
                }
            }
        }
    }

    /// Adds a frontend that only sockets of the node may use.
    pub fn add_loopback(&mut self, addr: SocketAddr, proto: u8, frontend: Frontend) {
        self.flag_socket(addr, proto, filter::FRONTEND);
        let port = BePort::new(addr.port());
        match addr.ip() {
            IpAddr::V4(ip) => {
                self.put_frontend(FrontendKey::loopback(V4::from(ip), port, proto), frontend);
            }
            IpAddr::V6(ip) => {
                self.put_frontend(FrontendKey::loopback(V6::from(ip), port, proto), frontend);
            }
        }
    }

    /// Removes a frontend row, and the row of its address if there is one.
    pub fn remove_frontend(&mut self, addr: SocketAddr, proto: u8) {
        let port = BePort::new(addr.port());
        match addr.ip() {
            IpAddr::V4(ip) => self.drop_frontend(V4::from(ip), port, proto),
            IpAddr::V6(ip) => self.drop_frontend(V6::from(ip), port, proto),
        }
    }

    fn drop_frontend<A: Family>(&mut self, addr: A, port: BePort, proto: u8) {
        let mut map: HashMap<_, A::FrontendKey, Frontend> =
            HashMap::try_from(self.map_mut(A::FRONTENDS)).expect("a hash map");
        map.remove(&FrontendKey::new(addr, port, proto).into()).expect("the row is there");
        // A node's address has no row of its own.
        let _absent = map.remove(&FrontendKey::address(addr).into());
    }

    fn put_frontend<A: Family>(&mut self, key: FrontendKey<A>, row: Frontend) {
        let mut map: HashMap<_, A::FrontendKey, Frontend> =
            HashMap::try_from(self.map_mut(A::FRONTENDS)).expect("a hash map");
        map.insert(A::FrontendKey::from(key), row, 0).expect("room for a frontend");
    }

    /// Counters of a Service port.
    pub fn service_traffic(&self, id: u32) -> Traffic {
        self.traffic(names::MAP_SERVICE_TRAFFIC, id)
    }

    /// Counters of a backend.
    pub fn backend_traffic(&self, id: u32) -> Traffic {
        self.traffic(names::MAP_BACKEND_TRAFFIC, id)
    }

    /// Packets of a Service port that were dropped for want of a source port.
    pub fn no_port(&self, id: u32) -> u64 {
        self.count(names::MAP_NO_PORT, id)
    }

    /// Flows that gave way to newer ones.
    pub fn gave_way(&self) -> u64 {
        self.count(names::MAP_PRESSURE, pressure::GAVE_WAY)
    }

    /// Ports that flows lost to newer ones.
    pub fn ports_gave_way(&self) -> u64 {
        self.count(names::MAP_PRESSURE, pressure::PORT)
    }

    /// A counter over all CPUs.
    fn count(&self, map: &str, index: u32) -> u64 {
        let values = self.per_cpu::<u64>(map).get(&index, 0);
        values.expect("an array element").iter().sum()
    }

    fn traffic(&self, map: &str, id: u32) -> Traffic {
        let values = self.per_cpu::<Traffic>(map).get(&id, 0).expect("an array element");
        values.iter().fold(Traffic::default(), |sum, cpu| Traffic {
            connections: sum.connections + cpu.connections,
            packets_in: sum.packets_in + cpu.packets_in,
            packets_out: sum.packets_out + cpu.packets_out,
            bytes_in: sum.bytes_in + cpu.bytes_in,
            bytes_out: sum.bytes_out + cpu.bytes_out,
            refused: sum.refused + cpu.refused,
            no_local: sum.no_local + cpu.no_local,
            out_of_range: sum.out_of_range + cpu.out_of_range,
        })
    }

    /// Empties every map and sets the rows of the interfaces.
    pub fn reset(&mut self) {
        self.clear_hash::<FrontendKey<V4>, Frontend>(names::MAP_FRONTENDS_V4);
        self.clear_hash::<FrontendKey<V6>, Frontend>(names::MAP_FRONTENDS_V6);
        self.clear_hash::<AffinityKey<V4>, Affinity>(names::MAP_AFFINITY_V4);
        self.clear_hash::<AffinityKey<V6>, Affinity>(names::MAP_AFFINITY_V6);
        self.clear_ranges::<PrefixKey<V4>>(names::MAP_PREFIXES_V4);
        self.clear_ranges::<PrefixKey<V6>>(names::MAP_PREFIXES_V6);
        self.set_service_cidrs(&[]);
        self.clear_flows();
        self.clear_datagrams();
        for id in FIRST_SERVICE..self.next_service {
            self.set_array(names::MAP_SERVICES, id, Service::default());
            self.zero_per_cpu(names::MAP_SERVICE_TRAFFIC, id, Traffic::default());
            self.zero_per_cpu(names::MAP_CURSORS, id, [0_u32; 2]);
        }
        for id in 0..self.next_backend {
            self.set_array(names::MAP_BACKENDS, id, Backend::default());
            self.set_array(names::MAP_OPEN, id, 0_u64);
            self.zero_per_cpu(names::MAP_BACKEND_TRAFFIC, id, Traffic::default());
        }
        for word in std::mem::take(&mut self.filter).into_keys() {
            self.set_array(names::MAP_FILTER, word, 0_u64);
        }
        (self.next_service, self.next_backend, self.next_slot) = (FIRST_SERVICE, 0, 0);
        // As at boot: full buckets of answers to refused packets and to pings.
        for answer in 0..2 {
            self.zero_per_cpu("LB_ANSWERS", answer, [0_u64; 2]);
        }
        for port in net::PORTS {
            self.set_interface(port.index, port.row());
            for ip in [port.address(IpAddr::from([0; 4])), port.address(IpAddr::from([0; 16]))] {
                self.flag_address(ip, filter::NODE_ADDR);
            }
        }
        self.seen = self.counters();
    }

    /// Sets the row of an interface.
    pub fn set_interface(&mut self, index: u32, row: Interface) {
        let mut map: HashMap<_, u32, Interface> =
            HashMap::try_from(self.map_mut(names::MAP_INTERFACES)).expect("a hash map");
        map.insert(index, row, 0).expect("room for an interface");
    }

    fn flag_socket(&mut self, addr: SocketAddr, proto: u8, flags: u8) {
        let port = BePort::new(addr.port());
        let bucket = match addr.ip() {
            IpAddr::V4(ip) => filter::socket_bucket(V4::from(ip), port, proto),
            IpAddr::V6(ip) => filter::socket_bucket(V6::from(ip), port, proto),
        };
        self.flag(bucket, flags);
    }

    fn flag_address(&mut self, addr: IpAddr, flags: u8) {
        let bucket = match addr {
            IpAddr::V4(ip) => filter::address_bucket(V4::from(ip)),
            IpAddr::V6(ip) => filter::address_bucket(V6::from(ip)),
        };
        self.flag(bucket, flags);
    }

    fn flag(&mut self, bucket: u32, flags: u8) {
        let word = self.filter.entry(bucket / 8).or_default();
        *word = filter::with_flags(*word, bucket, flags);
        let word = *word;
        self.set_array(names::MAP_FILTER, bucket / 8, word);
    }

    pub(super) fn array<V: Pod>(&self, name: &str) -> Array<&MapData, V> {
        Array::try_from(self.map(name)).expect("an array")
    }

    pub(super) fn set_array<V: Pod>(&mut self, name: &str, index: u32, value: V) {
        let mut map: Array<_, V> = Array::try_from(self.map_mut(name)).expect("an array");
        map.set(index, value, 0).expect("an array element");
    }

    fn zero_per_cpu<V: Pod>(&mut self, name: &str, index: u32, zero: V) {
        let cpus = aya::util::nr_cpus().expect("the number of CPUs");
        let values = PerCpuValues::try_from(vec![zero; cpus]).expect("one a CPU");
        let mut map: PerCpuArray<_, V> =
            PerCpuArray::try_from(self.map_mut(name)).expect("a per-CPU array");
        map.set(index, values, 0).expect("an array element");
    }

    pub(super) fn clear_hash<K: Pod, V: Pod>(&mut self, name: &str) {
        let mut map: HashMap<_, K, V> = HashMap::try_from(self.map_mut(name)).expect("a hash map");
        let keys: Vec<K> = map.keys().collect::<Result<_, _>>().expect("the keys");
        for key in keys {
            map.remove(&key).expect("the key is there");
        }
    }
}
