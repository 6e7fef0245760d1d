//! Hashes of clients, for the policies that pick by hash. They take in only
//! what is the same on every node: so whichever node a packet comes to, it goes
//! to the same backend. Neither the address that was dialled nor any id is.

use crate::addr::{Address, BePort};

/// Spreads every bit over all of them; a bijection (David Stafford's variant 13
/// of MurmurHash3's finaliser).
#[inline(always)]
pub const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Any odd constant, so that an address of zeros does not hash to zero.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of a client's address.
#[inline(always)]
pub fn source<A: Address>(client: A) -> u32 {
    (address(client) >> 32) as u32
}

/// Of a flow's client.
#[inline(always)]
pub fn flow<A: Address>(client: A, port: BePort, proto: u8) -> u32 {
    let rest = u64::from(port.get()) << 8 | u64::from(proto);
    (mix(address(client) ^ rest) >> 32) as u32
}

/// By the number that the wire's bytes are, not by the words in memory, which
/// differ with the processor.
#[inline(always)]
fn address<A: Address>(client: A) -> u64 {
    let [a, b, c, d] = client.to_words().map(|word| u64::from(u32::from_be(word)));
    mix(mix(SEED ^ (a << 32 | b)) ^ (c << 32 | d))
}

/// The place of a hash among `len` slots: its high bits, without a division.
#[inline(always)]
pub const fn index(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{V4, V6};
    use std::vec;

    #[test]
    fn the_hashes_of_a_client_never_change() {
        let v4 = V4::from(core::net::Ipv4Addr::new(192, 0, 2, 1));
        let v6 = V6::from(core::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
        // All nodes of a cluster must agree, also while one of them is upgraded.
        let hashes = [source(v4), flow(v4, BePort::new(4000), 6), source(v6)];
        assert_eq!(hashes, [1_843_843_081, 3_159_661_528, 1_285_072_841]);
        assert_ne!(flow(v4, BePort::new(4000), 6), flow(v4, BePort::new(4000), 17));
        assert_ne!(flow(v4, BePort::new(4000), 6), flow(v4, BePort::new(4001), 6));
    }

    #[test]
    fn neighbours_spread_evenly() {
        const SLOTS: u32 = 97;
        let mut by_port = vec![0_u32; SLOTS as usize];
        let mut by_address = by_port.clone();
        for n in 0..97_000_u32 {
            let client = V4((0x0a00_0000 + n).to_be());
            by_address[index(source(client), SLOTS) as usize] += 1;
            let (client, port) = (V4((0x0a00_0000 + n / 20_000).to_be()), 20_000 + n % 20_000);
            by_port[index(flow(client, BePort::new(port as u16), 6), SLOTS) as usize] += 1;
        }
        for counts in [by_port, by_address] {
            // 1000 expected, standard deviation 32: within six of them.
            assert!(counts.iter().all(|n| (810..=1_190).contains(n)), "{counts:?}");
        }
    }
}
