//! The address filter: one byte of flags per hash bucket, asked before any
//! hash map, so that a packet that is not ours costs next to nothing.
//!
//! A flag that is set says "maybe": the exact maps decide. A flag that is not
//! set says "certainly not". The agent only ever sets flags of what it has
//! programmed or is about to program, before it programs it.

use crate::addr::{Address, BePort};

/// The address is a Service's own (a ClusterIP): every port of it concerns us.
pub const SERVICE_ADDR: u8 = 1 << 0;
/// The address is this node's: source translation may have used it.
pub const NODE_ADDR: u8 = 1 << 1;
/// Address, port and protocol are a frontend.
pub const FRONTEND: u8 = 1 << 2;
/// Address, port and protocol are, or were, a backend.
pub const BACKEND: u8 = 1 << 3;
/// The address is, or was, a backend's: what is in fragments has no port.
pub const BACKEND_ADDR: u8 = 1 << 4;

/// Buckets, of a byte each; a power of two. A false positive costs a stranger's
/// packet hash lookups, and a stranger's connection rows in the flow table:
/// with 65,536 backends that is one in sixteen, with 262,144 one in five.
pub const BUCKETS: u32 = 1 << 20;
/// Words of eight buckets: elements of the filter map.
pub const WORDS: u32 = BUCKETS / 8;

/// A multiplicative hash (Knuth): its high bits depend on every bit of `x`.
#[inline(always)]
const fn bucket(x: u32) -> u32 {
    x.wrapping_mul(0x9e37_79b1) >> (32 - BUCKETS.trailing_zeros())
}

/// Bucket of an address.
#[inline(always)]
pub fn address_bucket<A: Address>(addr: A) -> u32 {
    bucket(addr.mix())
}

/// Bucket of an address with port and protocol.
#[inline(always)]
pub fn socket_bucket<A: Address>(addr: A, port: BePort, proto: u8) -> u32 {
    let port = (port.0 as u32) | ((proto as u32) << 16);
    bucket(addr.mix() ^ port.wrapping_mul(0x85eb_ca6b))
}

/// The flags of a bucket, out of the word (index `bucket / 8`) that holds it.
#[inline(always)]
pub const fn flags(word: u64, bucket: u32) -> u8 {
    (word >> ((bucket % 8) * 8)) as u8
}

/// The word with the flags of a bucket added.
pub const fn with_flags(word: u64, bucket: u32, flags: u8) -> u64 {
    word | ((flags as u64) << ((bucket % 8) * 8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{V4, V6};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_flag_is_found_in_its_bucket_and_no_other(a: u32, b: u32, port: u16) {
            let one = socket_bucket(V4(a), BePort(port), 6);
            let other = address_bucket(V6([a, b, b, a]));
            prop_assert!(one < BUCKETS && other < BUCKETS);
            let word = with_flags(0, one, BACKEND);
            prop_assert_eq!(flags(word, one), BACKEND);
            if one % 8 != other % 8 {
                prop_assert_eq!(flags(word, other), 0);
            }
        }
    }

    #[test]
    fn neighbouring_addresses_spread() {
        let mut seen = std::collections::HashSet::new();
        for host in 0..4096_u32 {
            seen.insert(address_bucket(V4((0x0a60_0000 | host).to_be())));
        }
        assert!(seen.len() > 3600, "{} buckets for 4096 addresses", seen.len());
    }
}
