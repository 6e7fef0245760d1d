//! Addresses and ports as they stand in packets and in map keys: network byte
//! order in memory, held in words so that the BPF programs load and compare
//! them without going byte by byte.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address; the four bytes in memory are those of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct V4(pub u32);

/// An IPv6 address; the sixteen bytes in memory are those of the wire.
#[derive(Clone, Copy, Debug, Default, Eq, PartialOrd, Ord)]
#[repr(transparent)]
pub struct V6(pub [u32; 4]);

impl Hash for V6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialEq for V6 {
    /// Word by word: the derived comparison is a call to a `memcmp` that goes
    /// byte by byte on the BPF target.
    #[inline(always)]
    fn eq(&self, other: &Self) -> bool {
        let (a, b) = (self.0, other.0);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
    }
}

/// What the packet path needs to know of an address family.
pub trait Address: Copy + Eq + Default + fmt::Debug {
    /// Index of the family in per-family tables: 0 for IPv4, 1 for IPv6.
    const FAMILY: usize;
    /// The address that means "none".
    const NONE: Self;
    /// The first loopback address.
    const LOOPBACK: Self;
    /// Whether it is a loopback address.
    fn is_loopback(self) -> bool;
    /// One's complement sum of the address's 32-bit words (RFC 1071), not
    /// folded, in memory order.
    fn sum(self) -> u64;
    /// A word that depends on every bit; input of [`crate::filter`].
    fn mix(self) -> u32;
    /// Its first 64 bits, or all that it has, as they lie in memory.
    fn head(self) -> u64;
    /// The address as the low words of a [`crate::Backend`] row.
    fn to_words(self) -> [u32; 4];
    /// The reverse of [`Address::to_words`].
    fn from_words(words: [u32; 4]) -> Self;
}

impl Address for V4 {
    const FAMILY: usize = 0;
    const NONE: Self = Self(0);
    const LOOPBACK: Self = Self(0x7f00_0001_u32.to_be());

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self.0.to_ne_bytes()[0] == 127
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn head(self) -> u64 {
        u64::from(self.0)
    }

    #[inline(always)]
    fn to_words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn from_words(words: [u32; 4]) -> Self {
        Self(words[0])
    }
}

impl Address for V6 {
    const FAMILY: usize = 1;
    const NONE: Self = Self([0; 4]);
    const LOOPBACK: Self = Self([0, 0, 0, 1_u32.to_be()]);

    #[inline(always)]
    fn is_loopback(self) -> bool {
        self == Self::LOOPBACK
    }

    #[inline(always)]
    fn sum(self) -> u64 {
        let [a, b, c, d] = self.0;
        u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d)
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        // Odd multipliers keep addresses apart that differ in swapped words.
        let [a, b, c, d] = self.0;
        a.wrapping_mul(0x85eb_ca6b) ^ b.wrapping_mul(0xc2b2_ae35) ^ c.wrapping_mul(0x27d4_eb2f) ^ d
    }

    #[inline(always)]
    fn head(self) -> u64 {
        u64::from(self.0[0]) | (u64::from(self.0[1]) << 32)
    }

    #[inline(always)]
    fn to_words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }
}

impl From<Ipv4Addr> for V4 {
    fn from(addr: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(addr.octets()))
    }
}

impl From<V4> for Ipv4Addr {
    fn from(addr: V4) -> Self {
        Self::from(addr.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(addr: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        let octets = addr.octets();
        for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self(words)
    }
}

impl From<V6> for Ipv6Addr {
    fn from(addr: V6) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(addr.0) {
            *bytes = word.to_ne_bytes();
        }
        Self::from(octets)
    }
}

impl From<V4> for IpAddr {
    fn from(addr: V4) -> Self {
        Self::V4(addr.into())
    }
}

impl From<V6> for IpAddr {
    fn from(addr: V6) -> Self {
        Self::V6(addr.into())
    }
}

/// A TCP or UDP port; the two bytes in memory are those of the wire.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct BePort(pub u16);

impl BePort {
    /// The port that means "none".
    pub const NONE: Self = Self(0);

    /// From a number in host byte order.
    #[inline(always)]
    pub const fn new(port: u16) -> Self {
        Self(port.to_be())
    }

    /// As a number in host byte order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for BePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_the_bytes_of_the_wire() {
        let v4: Ipv4Addr = "10.96.0.1".parse().unwrap();
        assert_eq!(V4::from(v4).0.to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(Ipv4Addr::from(V4::from(v4)), v4);
        let v6: Ipv6Addr = "fd00:10:96::c900".parse().unwrap();
        assert_eq!(V6::from(v6).0[0].to_ne_bytes(), [0xfd, 0, 0, 0x10]);
        assert_eq!(Ipv6Addr::from(V6::from(v6)), v6);
        assert_eq!(BePort::new(80).0.to_ne_bytes(), [0, 80]);
        assert_eq!(BePort::new(80).get(), 80);
    }
}
