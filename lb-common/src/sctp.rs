//! What SCTP needs beside TCP: what its chunks mean to a connection, and its
//! checksum (RFC 9260).

use crate::BePort;
use crate::tcp::flag;

/// What the first chunk of a packet says of the connection, as the flags of a
/// TCP segment that would say the same; 0 for chunks that say nothing, such as
/// DATA and HEARTBEAT. (RFC 9260 section 3.2; no chunk of these but ABORT and
/// SHUTDOWN may stand behind another, and what those end then is ended by what
/// follows, or by silence.)
#[inline(always)]
pub const fn flags(chunk: u8) -> u8 {
    match chunk {
        chunk::INIT => flag::SYN,
        chunk::INIT_ACK => flag::SYN | flag::ACK,
        // The third of the handshake, and like there it quotes the second.
        chunk::COOKIE_ECHO => flag::ACK,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK => flag::FIN | flag::ACK,
        // Nothing follows either, and neither is ever answered.
        chunk::ABORT | chunk::SHUTDOWN_COMPLETE => flag::RST | flag::ACK,
        _ => 0,
    }
}

/// Types of chunks (RFC 9260 section 3.2).
pub mod chunk {
    /// Asks for an association.
    pub const INIT: u8 = 1;
    /// The answer to that.
    pub const INIT_ACK: u8 = 2;
    /// Refuses or ends an association at once.
    pub const ABORT: u8 = 6;
    /// The sender has no more data.
    pub const SHUTDOWN: u8 = 7;
    /// Neither side has more data.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// The client's second packet, with what the answer to its first gave it.
    pub const COOKIE_ECHO: u8 = 10;
    /// The association is over.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// The polynomial of CRC32c (RFC 9260 appendix A), lowest power first.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A polynomial's product with x.
const fn by_x(p: u32) -> u32 {
    (p >> 1) ^ (POLYNOMIAL & 0_u32.wrapping_sub(p & 1))
}

/// The product of two polynomials; the highest bit is the lowest power.
#[inline(always)]
const fn product(a: u32, mut b: u32) -> u32 {
    let mut sum = 0;
    let mut bit = 0;
    while bit < 32 {
        // Without a branch: a program's verifier would follow both ways.
        sum ^= b & 0_u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = by_x(b);
        bit += 1;
    }
    sum
}

/// The powers of x by multiples of `bytes * 8`.
const fn powers(bytes: usize) -> [u32; 256] {
    let mut step = 1 << 31;
    let mut n = 0;
    while n < bytes * 8 {
        step = by_x(step);
        n += 1;
    }
    let mut table = [1 << 31; 256];
    let mut n = 1;
    while n < table.len() {
        table[n] = product(table[n - 1], step);
        n += 1;
    }
    table
}

static BY_BYTES: [u32; 256] = powers(1);
static BY_256_BYTES: [u32; 256] = powers(256);

/// The checksum of a packet of `len` bytes, common header included, after its
/// ports were replaced. `field` and the result are halves as they stand in
/// memory.
///
/// A CRC is linear: what changes in it depends on what changes in the packet
/// and on how many bytes follow, and not on which bytes those are.
///
/// A zero stays: it says that a sender on this machine, or behind a virtual
/// link, leaves the sum to a device. (It is right by itself once in 2^32
/// packets; that packet is lost like one that was damaged on its way.)
#[inline(always)]
pub fn update(field: [u16; 2], old: [BePort; 2], new: [BePort; 2], len: u32) -> [u16; 2] {
    if field == [0; 2] {
        return field;
    }
    let change = word(old.map(|port| port.0)) ^ word(new.map(|port| port.0));
    let low = BY_BYTES[(len & 0xff) as usize];
    let high = BY_256_BYTES[((len >> 8) & 0xff) as usize];
    let sum = word(field) ^ product(product(change, low), high);
    [(sum as u16).to_le(), ((sum >> 16) as u16).to_le()]
}

/// Four bytes as the CRC takes them in, and as its result is sent: the first
/// byte in memory is the lowest (RFC 9260 appendix A).
#[inline(always)]
const fn word(halves: [u16; 2]) -> u32 {
    u16::from_le(halves[0]) as u32 | (u16::from_le(halves[1]) as u32) << 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// CRC32c from its definition, bit by bit.
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = !0_u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 0 { crc >> 1 } else { (crc >> 1) ^ POLYNOMIAL };
            }
        }
        !crc
    }

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn an_update_equals_a_new_sum(
            old: [u16; 2], new: [u16; 2],
            rest in prop_oneof![
                proptest::collection::vec(any::<u8>(), 8..2000),
                proptest::collection::vec(any::<u8>(), 65_000..65_531),
            ],
        ) {
            // The field itself counts as zero.
            let mut rest: Vec<u8> = rest;
            rest[4..8].fill(0);
            let sum = |ports: [u16; 2]| {
                let ports = ports.map(u16::to_ne_bytes).concat();
                let [a, b, c, d] = crc32c(&[&ports[..], &rest].concat()).to_le_bytes();
                [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
            };
            let len = u32::try_from(rest.len() + 4).expect("a packet");
            prop_assume!(sum(old) != [0; 2]);
            let after = update(sum(old), old.map(BePort), new.map(BePort), len);
            prop_assert_eq!(after, sum(new));
        }

        #[test]
        fn a_sum_that_is_left_to_a_device_stays(old: [u16; 2], new: [u16; 2], len in 12_u32..65_536) {
            let after = update([0; 2], old.map(BePort), new.map(BePort), len);
            prop_assert_eq!(after, [0; 2]);
        }
    }

    #[test]
    fn chunks_open_and_end_connections_like_segments() {
        use crate::tcp::{From, is_closed, is_syn, state::ASSURED};
        assert!(is_syn(flags(chunk::INIT)));
        let data = 0;
        let step = |state, from, chunk| crate::tcp::step(state, from, flags(chunk), false);
        for other in [data, chunk::INIT_ACK, chunk::ABORT, chunk::SHUTDOWN, 10, 11] {
            assert!(!is_syn(flags(other)), "{other}");
        }
        let state = step(0, From::Client, chunk::INIT);
        let state = step(state, From::Backend, chunk::INIT_ACK);
        assert_eq!(state & ASSURED, 0, "anybody may have asked");
        let state = step(state, From::Client, chunk::COOKIE_ECHO);
        assert_ne!(state & ASSURED, 0, "the client has the cookie");
        let state = step(state, From::Client, chunk::SHUTDOWN);
        assert!(!is_closed(state), "the other side may still send");
        assert!(is_closed(step(state, From::Backend, chunk::SHUTDOWN_ACK)));
        assert!(is_closed(step(0, From::Backend, chunk::ABORT)));
        assert!(is_closed(step(0, From::Client, chunk::SHUTDOWN_COMPLETE)));
    }
}
