//! Fragments that came before the first of their datagram, as they are kept
//! until that comes.

use crate::limits::MAX_FRAGMENT_FRAME;

/// For how long the fragments of a datagram belong together, in nanoseconds.
/// They are sent back to back, so no path pulls them apart by so much; and a
/// sender needs 32,000 datagrams a second to use an IPv4 identification again.
pub const LIFETIME: u64 = 2_000_000_000;

/// Whose fragment waits.
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
    /// Always 0.
    pub pad: u8,
}

/// A slot of the table of fragments that wait. A datagram's are in any of the
/// [`MAX_HELD_OF_DATAGRAM`] slots from its own on, so whoever looks for them
/// looks at all of these.
///
/// [`MAX_HELD_OF_DATAGRAM`]: crate::limits::MAX_HELD_OF_DATAGRAM
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Held {
    /// Bit 0 while somebody writes or copies the slot; whoever finds it set
    /// goes on to the next one.
    pub lock: u64,
    /// When it came: nanoseconds of the monotonic clock.
    pub came: u64,
    /// The interface by which it came or was about to leave.
    pub ifindex: u32,
    /// Offset of its IP header: what is before is the MAC header.
    pub l3: u32,
    /// Length of the frame; 0 if the slot is free.
    pub len: u32,
    /// Always 0.
    pub pad: u32,
    /// How many were given up here since the agent last looked.
    pub lost: u64,
    /// Whose it is.
    pub key: HeldKey,
    /// Its bytes.
    pub frame: [u8; MAX_FRAGMENT_FRAME as usize],
}

/// Whether a fragment that came at `came` is no use any more. One that came
/// after `now` was read still is of use.
#[inline(always)]
pub const fn is_late(came: u64, now: u64) -> bool {
    now.saturating_sub(came) >= LIFETIME
}

const _: () = {
    assert!(size_of::<HeldKey>() == 40);
    assert!(size_of::<Held>() == 80 + MAX_FRAGMENT_FRAME as usize);
    assert!(size_of::<Held>().is_multiple_of(8));
};
