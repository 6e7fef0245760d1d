//! Fragments that came before the first of their datagram, as they are kept
//! until that comes.

use crate::limits::MAX_FRAGMENT_FRAME;

/// For how long the fragments of a datagram belong together, in nanoseconds.
/// They are sent back to back, so no path pulls them apart by so much; and a
/// sender needs 32,000 datagrams a second to use an IPv4 identification again.
pub const LIFETIME: u64 = 2_000_000_000;

/// Key of the map of fragments that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct HeldKey {
    /// Source; IPv4 in the first word, the others 0.
    pub src: [u32; 4],
    /// Destination, likewise.
    pub dst: [u32; 4],
    /// What the fragments of a datagram have in common.
    pub id: u32,
    /// IP protocol number.
    pub proto: u8,
    /// Where it was met: a [`crate::Hook`].
    pub hook: u8,
    /// 0 for IPv4, 1 for IPv6.
    pub family: u8,
    /// Its place among those of its datagram that wait.
    pub number: u8,
}

/// A fragment that waits.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Held {
    /// When it came: nanoseconds of the monotonic clock.
    pub came: u64,
    /// The interface by which it came or was about to leave.
    pub ifindex: u32,
    /// Offset of its IP header: what is before is the MAC header.
    pub l3: u32,
    /// Length of the frame.
    pub len: u32,
    /// Always 0.
    pub pad: u32,
    /// Its key, while the programs make the row or look for it.
    pub key: HeldKey,
    /// Its bytes.
    pub frame: [u8; MAX_FRAGMENT_FRAME as usize],
}

const _: () = {
    assert!(size_of::<HeldKey>() == 40);
    assert!(size_of::<Held>() == 64 + MAX_FRAGMENT_FRAME as usize);
};
