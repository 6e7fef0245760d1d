//! Sizes of the maps and bounds of the packet path, each with its reason.

/// Service ports at most. The row is 64 bytes and so are its counters, by CPU;
/// the maps have as many rows as there is need for, from [`MIN_SERVICES`] on.
pub const MAX_SERVICES: u32 = 65_536;
/// Service ports that there is room for however few there are.
pub const MIN_SERVICES: u32 = 1_024;
/// Endpoints of Service ports at most; an endpoint behind two ports counts twice.
pub const MAX_BACKENDS: u32 = 524_288;
/// Endpoints that there is room for however few there are.
pub const MIN_BACKENDS: u32 = 4_096;
/// Slots at most, two to a word since array elements have a stride of 8 bytes. An
/// update needs room for the old and the new segment; a Maglev table has a
/// hundred slots a backend.
pub const MAX_SLOTS: u32 = 32 * MAX_BACKENDS;
/// Slots that there is room for however few are needed.
pub const MIN_SLOTS: u32 = 65_536;
/// Frontends of one family at most: ClusterIP, its address row, and node ports on
/// several addresses.
pub const MAX_FRONTENDS: u32 = 1_048_576;
/// Frontends of one family that there is room for however few there are. A row
/// takes memory when it is in use, and 16 bytes else.
pub const MIN_FRONTENDS: u32 = 8_192;
/// Clients of one family with session affinity, times the Service ports that
/// they use.
pub const MAX_AFFINITY: u32 = 65_536;
/// The same while no Service port has session affinity: a map can't be empty.
pub const MIN_AFFINITY: u32 = 1_024;
/// Prefixes of one family: source ranges, and ranges of Services' addresses.
pub const MAX_PREFIXES: u32 = 16_384;
/// Sockets of this node that are connected to Services, by protocol: more than a
/// node has ports of its own for one destination.
pub const MAX_SOCKETS: u32 = 32_768;
/// Peers of this node's sockets that send to Services without a connection.
pub const MAX_SOCKET_PEERS: u32 = 16_384;
/// Rows of the IPv4 flow table on a node with up to two processors, if nobody says
/// otherwise; a flow needs two, with source translation three. The kernel takes the
/// memory for all of them at once, 17 MiB.
pub const MIN_FLOWS_V4: u32 = 131_072;
/// The same of the IPv6 flow table: 13 MiB.
pub const MIN_FLOWS_V6: u32 = 65_536;
/// As many times [`MIN_FLOWS_V4`] are the most, with 16 processors and more, if nobody
/// says otherwise: 142 and 109 MB.
pub const MAX_FLOWS_FACTOR: u32 = 8;
/// Of the rows of a flow table, those that flows may have which have not proven
/// themselves, one for each flow: with two rows each they take a quarter of
/// the table, with source translation three eighths.
pub const YOUNG_SHARE: u32 = 8;

/// How many flows may be young beside a flow table of this size: a power of two.
#[must_use]
pub const fn young(flows: u32) -> u32 {
    let share = flows / YOUNG_SHARE;
    if share < 2 { 1 } else { 1 << share.ilog2() }
}

/// Interfaces of one network namespace.
pub const MAX_INTERFACES: u32 = 4_096;

/// Later fragments that wait for the first of their datagram, 4.7 MB: those of
/// eleven of the longest datagrams in Ethernet frames. None gives way to
/// another before its time. A power of two.
pub const MAX_HELD: u32 = 512;
/// Those of one datagram, and the slots where they can be: 65,535 bytes in
/// packets of 1,280, the least that IPv6 allows, are 54. The verifier walks
/// through every one.
pub const MAX_HELD_OF_DATAGRAM: u32 = 64;
/// The longest frame that waits: a jumbo frame, as switches have it.
pub const MAX_FRAGMENT_FRAME: u32 = 9_216;

/// How many ports of this node are tried for source translation before a
/// packet is dropped. The verifier walks through every try.
pub const SNAT_TRIES: u32 = 16;
/// How many of them are drawn: with half of the range taken by live flows to the
/// same backend, a flow finds none free once in 256 times.
pub const SNAT_DRAWS: u32 = SNAT_TRIES / 2;
/// How many source ports are tried at the client's edge: its own, then others.
/// Only flows of one client with one backend's port compete, so the range is
/// all but empty.
pub const REVERSE_TRIES: u32 = 6;

/// IPv6 extension headers walked to find the transport header. Longer chains
/// exist only in attacks: such a packet is left to the stack, or refused if it
/// is addressed to a ClusterIP.
pub const MAX_EXTENSION_HEADERS: u32 = 6;

/// Bytes of the original packet that an ICMPv4 error quotes at most: RFC 1812
/// section 4.3.2.3 limits the error to 576 bytes, less the new IP header (20)
/// and the ICMP header (8).
pub const QUOTE_MAX_V4: u32 = 548;
/// Likewise for ICMPv6: RFC 4443 section 3.1 limits the error to the minimum
/// IPv6 MTU of 1,280 bytes, less 40 and 8.
pub const QUOTE_MAX_V6: u32 = 1_232;
