//! The contexts that `BPF_PROG_TEST_RUN` takes, at the offsets of the kernel's
//! `include/uapi/linux/bpf.h`. Fields that are not named must be zero.

/// How a packet will be cut into segments by the device; all zero if it won't.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gso {
    /// Number of segments.
    pub segments: u32,
    /// Payload of a segment.
    pub size: u32,
    /// Bytes on the wire, all segments with their headers.
    pub wire_len: u32,
}

/// What the kernel knows of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Interface that a packet which leaves came in by; 0 if it began here.
    pub came_by: u32,
    /// How it will be cut.
    pub gso: Gso,
}

const SK_BUFF_LEN: usize = 192;
const SK_BUFF_INGRESS_IFINDEX: usize = 36;
const SK_BUFF_IFINDEX: usize = 40;
const SK_BUFF_WIRE_LEN: usize = 160;
const SK_BUFF_GSO_SEGS: usize = 164;
const SK_BUFF_GSO_SIZE: usize = 176;

/// A `struct __sk_buff`.
pub(super) fn sk_buff(ifindex: u32, Context { came_by, gso }: Context) -> Vec<u8> {
    let mut bytes = vec![0; SK_BUFF_LEN];
    put(&mut bytes, SK_BUFF_INGRESS_IFINDEX, came_by);
    put(&mut bytes, SK_BUFF_IFINDEX, ifindex);
    put(&mut bytes, SK_BUFF_WIRE_LEN, gso.wire_len);
    put(&mut bytes, SK_BUFF_GSO_SEGS, gso.segments);
    put(&mut bytes, SK_BUFF_GSO_SIZE, gso.size);
    bytes
}

const SK_BUFF_PROTOCOL: usize = 16;
/// Where an Ethernet header has the protocol.
const ETHERTYPE: std::ops::Range<usize> = 12..14;

/// Likewise, with what the kernel finds out about a frame for this host itself.
pub(crate) fn received(ifindex: u32, frame: &[u8]) -> Vec<u8> {
    let mut bytes = sk_buff(ifindex, Context::default());
    put(&mut bytes, 0, u32::try_from(frame.len()).expect("a packet"));
    bytes[SK_BUFF_PROTOCOL..SK_BUFF_PROTOCOL + 2].copy_from_slice(&frame[ETHERTYPE]);
    bytes
}

const XDP_MD_LEN: usize = 24;
const XDP_MD_DATA_END: usize = 4;
const XDP_MD_INGRESS_IFINDEX: usize = 12;

/// A `struct xdp_md`.
pub(crate) fn xdp_md(ifindex: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; XDP_MD_LEN];
    put(&mut bytes, XDP_MD_DATA_END, u32::try_from(len).expect("a packet"));
    put(&mut bytes, XDP_MD_INGRESS_IFINDEX, ifindex);
    bytes
}

fn put(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
}
