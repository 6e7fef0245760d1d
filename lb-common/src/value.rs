//! Values of the maps. Every byte is named, so that a row compares and
//! hashes the same on both sides.

use crate::addr::BePort;

/// What a frontend is; the value of [`Frontend::kind`].
pub mod frontend_kind {
    /// The row of a whole Service address (port 0): unknown ports are refused.
    pub const ADDRESS: u8 = 0;
    /// A Service's ClusterIP.
    pub const CLUSTER_IP: u8 = 1;
    /// A node's address with a Service's node port.
    pub const NODE_PORT: u8 = 2;
    /// An address that a load balancer gave the Service.
    pub const LOAD_BALANCER: u8 = 3;
    /// One of the Service's `externalIPs`.
    pub const EXTERNAL_IP: u8 = 4;
    /// The row of a whole load balancer's or external address (port 0):
    /// unknown ports are somebody else's.
    pub const EXTERNAL_ADDRESS: u8 = 5;
}

/// A row of the frontend maps: which Service port answers here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Frontend {
    /// Index into the service array.
    pub service: u32,
    /// One of [`frontend_kind`].
    pub kind: u8,
    /// One of [`scope`]: which of the Service's segments this frontend uses.
    pub scope: u8,
    /// Bits of [`frontend_flag`].
    pub flags: u8,
    /// Always 0.
    pub pad: u8,
}

/// Which endpoints may be picked; the value of [`Frontend::scope`].
pub mod scope {
    /// Those of the whole cluster.
    pub const CLUSTER: u8 = 0;
    /// Those of this node.
    pub const LOCAL: u8 = 1;
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flag {
    /// Only clients in the Service's ranges are served: rows of the prefix maps
    /// under the Service's id.
    pub const SOURCE_RANGES: u8 = 1 << 0;
}

/// A slice of the slot array. Eight aligned bytes: the agent replaces it with
/// one store, so a reader sees the old set of backends or the new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Segment {
    /// First slot.
    pub base: u32,
    /// Number of slots; 0 means that no backend can take a new connection.
    pub len: u32,
}

/// How a Service picks a slot for a new flow; the value of [`Service::policy`].
pub mod policy {
    /// The next slot, per CPU.
    pub const ROUND_ROBIN: u8 = 0;
    /// A random slot.
    pub const RANDOM: u8 = 1;
    /// By hash of the client's address, in a Maglev table.
    pub const SOURCE_HASH: u8 = 2;
    /// By hash of the client's address and port, in a Maglev table.
    pub const MAGLEV: u8 = 3;
    /// The one of two slots whose backend has fewer open connections for its
    /// weight.
    pub const LEAST_CONNECTIONS: u8 = 4;
}

/// A row of the service array: one port of one Service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Service {
    /// Slots by family and scope: see [`Service::segment_index`].
    pub segments: [Segment; 4],
    /// One of [`policy`].
    pub policy: u8,
    /// 1 while a Service port owns the row.
    pub used: u8,
    /// IP protocol number.
    pub proto: u8,
    /// Always 0.
    pub pad: u8,
    /// After how many seconds without a new connection a client may be given
    /// another backend; 0 without session affinity.
    pub affinity: u32,
    /// Always 0.
    pub reserved: [u32; 6],
}

impl Segment {
    /// From the word in memory. Both sides read and write the word, not the
    /// fields: only a single access of eight bytes is one access.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (low, high) = (word as u32, (word >> 32) as u32);
        if cfg!(target_endian = "little") {
            Self { base: low, len: high }
        } else {
            Self { base: high, len: low }
        }
    }

    /// The word in memory.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        if cfg!(target_endian = "little") {
            self.base as u64 | (self.len as u64) << 32
        } else {
            self.len as u64 | (self.base as u64) << 32
        }
    }
}

impl Service {
    /// Index of the segment of a family (0 IPv4, 1 IPv6) and scope (0 cluster,
    /// 1 local).
    #[inline(always)]
    pub const fn segment_index(family: usize, scope: u8) -> usize {
        (family & 1) * 2 + (scope & 1) as usize
    }
}

/// What a backend may receive; the value of [`Backend::state`].
pub mod backend_state {
    /// The row is free.
    pub const FREE: u8 = 0;
    /// New connections and datagrams.
    pub const ACTIVE: u8 = 1;
    /// Nothing new, but UDP flows that it has stay: it serves, and is not picked.
    pub const TERMINATING: u8 = 2;
    /// Gone from the Service: TCP connections that exist stay, all else leaves.
    pub const REMOVED: u8 = 3;
}

/// A row of the backend array: one endpoint of one Service port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Backend {
    /// Address; IPv4 in the first word, the others 0.
    pub addr: [u32; 4],
    /// Port.
    pub port: BePort,
    /// One of [`backend_state`].
    pub state: u8,
    /// 0 for IPv4, 1 for IPv6.
    pub family: u8,
    /// Raised each time the row is given to another endpoint; a flow row that
    /// carries another generation means an endpoint that is gone.
    pub generation: u32,
    /// The Service port that owns the row.
    pub service: u32,
    /// In which scopes it takes new connections: bit 0 cluster, bit 1 local
    /// (`1 << scope`).
    pub scopes: u8,
    /// One of [`backend_reason`], for people.
    pub reason: u8,
    /// Its share of new connections, relative to the others'.
    pub weight: u16,
}

/// Why a backend takes no new connections; the value of [`Backend::reason`].
pub mod backend_reason {
    /// It does take them.
    pub const NONE: u8 = 0;
    /// It is ending.
    pub const TERMINATING: u8 = 1;
    /// Its weight is 0.
    pub const DRAINING: u8 = 2;
    /// Others are closer, by the topology hints.
    pub const FARTHER: u8 = 3;
    /// It serves, but is not ready.
    pub const NOT_READY: u8 = 4;
}

/// What an interface is for; the value of [`Interface::role`].
pub mod role {
    /// Leads to other hosts.
    pub const UPLINK: u8 = 1;
    /// Leads to one pod of this node.
    pub const POD: u8 = 2;
    /// Leads to other nodes' pods through an encapsulation.
    pub const TUNNEL: u8 = 3;
}

/// Key of the interface row that is no interface's: the addresses by which
/// processes of the node itself count as clients.
pub const NODE_ITSELF: u32 = 0;

/// A row of the interface map, by interface index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Interface {
    /// One of [`role`].
    pub role: u8,
    /// 1 if the XDP program is attached here, so that the XDP programs of other
    /// interfaces may redirect frames to this one.
    pub xdp: u8,
    /// 1 if clients behind it are pods of this node, by `--detect-local`.
    pub local: u8,
    /// 1 for a port of a bridge: what enters is for the bridge, or for what is
    /// behind another port, and yet is ours to see. Elsewhere a frame for
    /// another host's link-layer address is none of ours.
    pub port: u8,
    /// Source for IPv4 flows that need this node's address; 0 if none.
    pub snat_v4: u32,
    /// Source for IPv6 flows that need this node's address; 0 if none.
    pub snat_v6: [u32; 4],
    /// Its link-layer address; zeros if it has none.
    pub mac: [u8; 6],
    /// 1 for a veth whose other end is in another network namespace, so that
    /// packets may be put in there past the stack.
    pub peer: u8,
    /// Always 0.
    pub pad: [u8; 1],
}

/// Counters of a Service port or of a backend, per CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traffic {
    /// TCP connections and UDP flows that were given a backend.
    pub connections: u64,
    /// Packets from clients; a segmentation-offloaded packet counts as the
    /// segments that it will be on the wire.
    pub packets_in: u64,
    /// Packets to clients, counted likewise.
    pub packets_out: u64,
    /// Bytes from clients, from the IP header on.
    pub bytes_in: u64,
    /// Bytes to clients, from the IP header on.
    pub bytes_out: u64,
    /// Packets from clients that were refused.
    pub refused: u64,
    /// Packets from clients that were dropped, since the policy is Local and no
    /// backend is on this node.
    pub no_local: u64,
    /// Packets from clients that were dropped, since they are outside the
    /// Service's source ranges.
    pub out_of_range: u64,
}

/// Longest name that [`ServiceName`] holds (RFC 1123 label, as the API allows).
pub const NAME_LEN: usize = 63;

/// A row of the name map: what people call a Service port. Only userspace
/// reads it; it is a map so that the names outlive the agent.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct ServiceName {
    /// Namespace, padded with zero bytes.
    pub namespace: [u8; NAME_LEN],
    /// Name, padded with zero bytes.
    pub name: [u8; NAME_LEN],
    /// Name of the port, padded with zero bytes.
    pub port_name: [u8; NAME_LEN],
    /// IP protocol number.
    pub proto: u8,
    /// The Service's port.
    pub port: BePort,
    /// The node port, or 0.
    pub node_port: BePort,
}

/// A row of the affinity maps: the backend that a client was given last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Affinity {
    /// When the client last opened a connection: nanoseconds of the monotonic
    /// clock.
    pub last_used: u64,
    /// The backend's row.
    pub backend: u32,
    /// The generation of the backend's row.
    pub generation: u32,
}

const _: () = {
    assert!(size_of::<Frontend>() == 8);
    assert!(size_of::<Affinity>() == 16);
    assert!(size_of::<Segment>() == 8 && align_of::<Segment>() == 8);
    assert!(size_of::<Service>() == 64);
    assert!(size_of::<Backend>() == 32);
    assert!(size_of::<Interface>() == 32);
    assert!(size_of::<Traffic>() == 64);
    assert!(size_of::<ServiceName>() == 3 * NAME_LEN + 1 + 2 + 2);
};
