//! Every map. Sizes are the least: the agent overrides them at load.

use crate::datagrams::{Datagram, DatagramKey};
use crate::packet::Parsed;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_fib_lookup};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray};
use lb_common::limits::{
    MAX_HELD, MAX_INTERFACES, MAX_PREFIXES, MAX_SOCKET_PEERS, MAX_SOCKETS, MIN_AFFINITY,
    MIN_BACKENDS, MIN_FLOWS_V4, MIN_FLOWS_V6, MIN_FRONTENDS, MIN_SERVICES, MIN_SLOTS, young,
};
use lb_common::{
    Affinity, AffinityKey, Backend, Flow, FlowKey, Frontend, FrontendKey, Held, Interface,
    PrefixKey, RangeHeads, Service, ServiceName, SocketKey, SocketName, SocketPeer, Traffic, V4,
    V6, Verdict, filter, pressure, verdict,
};

/// A row that is made, and the key of a row that is asked for meanwhile.
#[repr(C)]
pub(crate) struct Scratch<A> {
    /// The row.
    pub(crate) flow: Flow<A>,
    /// The key.
    pub(crate) key: FlowKey<A>,
}

/// Keys and rows of lookups that only new flows need.
#[repr(C)]
pub(crate) struct Ask<A> {
    /// For source ranges and local pods.
    pub(crate) prefix: Key<PrefixKey<A>>,
    /// For session affinity.
    pub(crate) affinity: AffinityKey<A>,
    /// Its row.
    pub(crate) given: Affinity,
    /// For datagrams in fragments.
    pub(crate) datagram: DatagramKey<A>,
    /// Its row.
    pub(crate) fate: Datagram<A>,
    /// The verdict on the packet at hand.
    pub(crate) verdict: Verdict,
}

/// What IPv4 clients dial.
#[map]
pub(crate) static LB_FRONTENDS_V4: HashMap<FrontendKey<V4>, Frontend> =
    HashMap::with_max_entries(MIN_FRONTENDS, BPF_F_NO_PREALLOC);
/// What IPv6 clients dial.
#[map]
pub(crate) static LB_FRONTENDS_V6: HashMap<FrontendKey<V6>, Frontend> =
    HashMap::with_max_entries(MIN_FRONTENDS, BPF_F_NO_PREALLOC);
/// Service ports, by id.
#[map]
pub(crate) static LB_SERVICES: Array<Service> =
    Array::with_max_entries(MIN_SERVICES, BPF_F_MMAPABLE);
/// Backend ids, two to a word; a Service's segment is a slice of it.
#[map]
pub(crate) static LB_SLOTS: Array<u64> = Array::with_max_entries(MIN_SLOTS / 2, BPF_F_MMAPABLE);
/// Backends, by id.
#[map]
pub(crate) static LB_BACKENDS: Array<Backend> =
    Array::with_max_entries(MIN_BACKENDS, BPF_F_MMAPABLE);
/// IPv4 flows: what to do with a tuple.
#[map]
pub(crate) static LB_FLOWS_V4: LruHashMap<FlowKey<V4>, Flow<V4>> =
    LruHashMap::with_max_entries(MIN_FLOWS_V4, 0);
/// IPv6 flows: what to do with a tuple.
#[map]
pub(crate) static LB_FLOWS_V6: LruHashMap<FlowKey<V6>, Flow<V6>> =
    LruHashMap::with_max_entries(MIN_FLOWS_V6, 0);
/// Flags by hash of addresses, asked before any hash map.
#[map]
pub(crate) static LB_FILTER: Array<u64> = Array::with_max_entries(filter::WORDS, BPF_F_MMAPABLE);
/// Interfaces, by index.
#[map]
pub(crate) static LB_INTERFACES: HashMap<u32, Interface> =
    HashMap::with_max_entries(MAX_INTERFACES, 0);
/// Counters of Service ports.
#[map]
pub(crate) static LB_SVC_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(MIN_SERVICES, 0);
/// Counters of backends.
#[map]
pub(crate) static LB_BE_TRAFFIC: PerCpuArray<Traffic> =
    PerCpuArray::with_max_entries(MIN_BACKENDS, 0);
/// Packets by hook and verdict.
#[map]
pub(crate) static LB_VERDICTS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(verdict::VERDICT_COUNTERS, 0);
/// What people call the Service ports; no program reads it.
#[map]
pub(crate) static LB_NAMES: HashMap<u32, ServiceName> =
    HashMap::with_max_entries(MIN_SERVICES, BPF_F_NO_PREALLOC);
/// Round-robin positions, one a family: two clients that take turns in two
/// families must not each meet every other backend. Per CPU, so that a new
/// connection touches no cache line of another CPU.
#[map]
pub(crate) static LB_CURSORS: PerCpuArray<[u32; 2]> =
    PerCpuArray::with_max_entries(MIN_SERVICES, 0);
/// The backends that IPv4 clients were given, for session affinity.
#[map]
pub(crate) static LB_AFFINITY_V4: LruHashMap<AffinityKey<V4>, Affinity> =
    LruHashMap::with_max_entries(MIN_AFFINITY, 0);
/// The backends that IPv6 clients were given, for session affinity.
#[map]
pub(crate) static LB_AFFINITY_V6: LruHashMap<AffinityKey<V6>, Affinity> =
    LruHashMap::with_max_entries(MIN_AFFINITY, 0);
/// IPv4 source ranges of Services, where local pods are, and where Services'
/// addresses are.
#[map]
pub(crate) static LB_PREFIXES_V4: LpmTrie<PrefixKey<V4>, u32> =
    LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);
/// IPv6 source ranges of Services, where local pods are, and where Services'
/// addresses are.
#[map]
pub(crate) static LB_PREFIXES_V6: LpmTrie<PrefixKey<V6>, u32> =
    LpmTrie::with_max_entries(MAX_PREFIXES, BPF_F_NO_PREALLOC);
/// How the ranges of the cluster's Service addresses begin, by family; asked of
/// every packet that is not ours.
#[map]
pub(crate) static LB_RANGES: Array<RangeHeads> = Array::with_max_entries(2, BPF_F_MMAPABLE);
/// Open connections, by backend id: what least-connections compares. Shared by
/// all CPUs; the agent puts right what flows that ended unseen left behind.
#[map]
pub(crate) static LB_OPEN: Array<u64> = Array::with_max_entries(MIN_BACKENDS, BPF_F_MMAPABLE);
/// Whom TCP sockets of this node are connected to, by cookie. A row lost only
/// makes the backend's name show.
#[map]
pub(crate) static LB_SOCKETS_TCP: LruHashMap<u64, SocketPeer> =
    LruHashMap::with_max_entries(MAX_SOCKETS, 0);
/// Whom UDP sockets of this node are connected to, by cookie. No row may be
/// lost: it is how the agent finds those whose backend is gone.
#[map]
pub(crate) static LB_SOCKETS_UDP: HashMap<u64, SocketPeer> =
    HashMap::with_max_entries(MAX_SOCKETS, BPF_F_NO_PREALLOC);
/// Whom a socket's datagrams to a Service go to, without a connection.
#[map]
pub(crate) static LB_SOCKET_PEERS: LruHashMap<SocketKey, SocketPeer> =
    LruHashMap::with_max_entries(MAX_SOCKET_PEERS, 0);
/// By which name a socket knows the backend that a datagram comes from.
#[map]
pub(crate) static LB_SOCKET_NAMES: LruHashMap<SocketKey, SocketName> =
    LruHashMap::with_max_entries(MAX_SOCKET_PEERS, 0);
/// Packets dropped for want of a source port, by service id: beside the other
/// counters, which fill a cache line.
#[map]
pub(crate) static LB_NO_PORT: PerCpuArray<u64> = PerCpuArray::with_max_entries(MIN_SERVICES, 0);
/// IPv4 flows that have not proven themselves, by their forward keys: a ring.
#[map]
pub(crate) static LB_YOUNG_V4: Array<FlowKey<V4>> = Array::with_max_entries(young(MIN_FLOWS_V4), 0);
/// IPv6 flows that have not proven themselves, by their forward keys: a ring.
#[map]
pub(crate) static LB_YOUNG_V6: Array<FlowKey<V6>> = Array::with_max_entries(young(MIN_FLOWS_V6), 0);
/// How many flows have entered the rings, by family.
#[map]
pub(crate) static LB_YOUNG_NEXT: Array<u64> = Array::with_max_entries(2, 0);
/// What became of rows under pressure.
#[map]
pub(crate) static LB_PRESSURE: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(pressure::COUNTERS, 0);
/// Later fragments that wait for the first of their datagram.
#[map]
pub(crate) static LB_HELD: Array<Held> = Array::with_max_entries(MAX_HELD, BPF_F_MMAPABLE);
/// Room for the flow row that is being made: too big for the stack.
#[map]
pub(crate) static LB_SCRATCH_V4: PerCpuArray<Scratch<V4>> = PerCpuArray::with_max_entries(1, 0);
/// Room for the flow row that is being made: too big for the stack.
#[map]
pub(crate) static LB_SCRATCH_V6: PerCpuArray<Scratch<V6>> = PerCpuArray::with_max_entries(1, 0);
/// Room for keys and rows of lookups that only new flows need: the stack is
/// too small for all of them.
#[map]
pub(crate) static LB_ASK_V4: PerCpuArray<Ask<V4>> = PerCpuArray::with_max_entries(1, 0);
/// Room for keys and rows of lookups that only new flows need.
#[map]
pub(crate) static LB_ASK_V6: PerCpuArray<Ask<V6>> = PerCpuArray::with_max_entries(1, 0);
/// Room for what the parser found, and for the packet that an ICMP error quotes.
#[map]
pub(crate) static LB_PACKET_V4: PerCpuArray<Parsed<V4>> = PerCpuArray::with_max_entries(2, 0);
/// Likewise.
#[map]
pub(crate) static LB_PACKET_V6: PerCpuArray<Parsed<V6>> = PerCpuArray::with_max_entries(2, 0);
/// Length of [`bpf_fib_lookup`] in words.
pub(crate) const ROUTE_WORDS: usize = size_of::<bpf_fib_lookup>() / 8;
/// Room for a route lookup, in words, so that few stores make it zero.
#[map]
pub(crate) static LB_ROUTE: PerCpuArray<[u64; ROUTE_WORDS]> = PerCpuArray::with_max_entries(1, 0);
/// Room for the packet that an ICMP error quotes.
#[map]
pub(crate) static LB_QUOTE: PerCpuArray<[u64; 256]> = PerCpuArray::with_max_entries(1, 0);
