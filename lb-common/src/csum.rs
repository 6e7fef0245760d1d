//! The Internet checksum, updated instead of recomputed (RFC 1624).
//!
//! Sums are one's complement over words in memory order; the checksum of a
//! byte-swapped sum is the byte-swapped checksum (RFC 1071 section 2(B)), so
//! nothing here converts.

use crate::addr::{Address, BePort};

/// Folds a sum to 16 bits.
#[inline(always)]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// What changes in a checksum when one value takes the place of another: a
/// sum for [`update`], or (folded) the difference that the kernel's helpers
/// take.
#[inline(always)]
pub fn address_diff<A: Address>(old: A, new: A) -> u64 {
    new.sum() + !(fold(old.sum())) as u64
}

/// Likewise for a port.
#[inline(always)]
pub const fn port_diff(old: BePort, new: BePort) -> u64 {
    new.0 as u64 + !old.0 as u64
}

/// A checksum field (memory order) after `diff`: RFC 1624 equation 3.
#[inline(always)]
pub const fn update(field: u16, diff: u64) -> u16 {
    !fold(!field as u64 + diff)
}

/// Like [`update`] for UDP over IPv4: zero means "no checksum" and stays; a
/// sum that comes out as zero is sent as all ones (RFC 768).
#[inline(always)]
pub const fn update_udp(field: u16, diff: u64) -> u16 {
    if field == 0 {
        return 0;
    }
    match update(field, diff) {
        0 => 0xffff,
        sum => sum,
    }
}

/// The pseudo-header's folded sum (RFC 9293 section 3.1, RFC 8200 section
/// 8.1). `len` is the length of the upper-layer packet in bytes.
#[inline(always)]
pub fn pseudo_header<A: Address>(src: A, dst: A, proto: u8, len: u16) -> u16 {
    fold(src.sum() + dst.sum() + u64::from(u16::from(proto).to_be()) + u64::from(len.to_be()))
}

/// The folded sum of bytes that begin on an even offset. For userspace and
/// tests: the BPF programs sum what they write.
pub fn sum_bytes(bytes: &[u8]) -> u16 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let mut sum: u64 = pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum();
    if let [last] = rest {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{V4, V6};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_update_equals_a_new_sum(
            rest in proptest::collection::vec(any::<u8>(), 0..64),
            old: [u32; 4], new: [u32; 4], old_port: u16, new_port: u16,
        ) {
            let sum = |addr: [u32; 4], port: u16| {
                !fold(u64::from(sum_bytes(&rest)) + V6(addr).sum() + u64::from(port))
            };
            let before = sum(old, old_port);
            let diff = address_diff(V6(old), V6(new))
                + port_diff(BePort(old_port), BePort(new_port));
            let after = update(before, diff);
            // +0 and -0 are the same number in one's complement.
            prop_assert!(after == sum(new, new_port) || after ^ sum(new, new_port) == 0xffff
                && (after == 0 || after == 0xffff));
        }

        #[test]
        fn udp_without_a_checksum_stays_without(old: u32, new: u32) {
            prop_assert_eq!(update_udp(0, address_diff(V4(old), V4(new))), 0);
        }

        #[test]
        fn udp_with_a_checksum_keeps_one(field in 1_u16.., old: u32, new: u32) {
            prop_assert_ne!(update_udp(field, address_diff(V4(old), V4(new))), 0);
        }
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // Section 4: checksum 0xdd2f, a 16-bit field goes from 0x5555 to 0x3285.
        let diff = port_diff(BePort(0x5555_u16.to_be()), BePort(0x3285_u16.to_be()));
        assert_eq!(update(0xdd2f_u16.to_be(), diff), 0x0000);
    }
}
