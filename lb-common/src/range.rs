//! The cheap test for the ranges of the cluster's Service addresses: a packet
//! that is not ours pays one load for it where there are no ranges, and a few
//! comparisons in one cache line where there are. It says "maybe" or "certainly
//! not"; the prefix maps say whether.

use crate::addr::Address;

/// Ranges of one family that are told by comparing.
pub const HEADS: usize = 4;
/// [`RangeHeads::count`] for "ask the prefix map": there are more ranges, or the
/// agent is about to change them.
pub const ALL: u64 = u64::MAX;

/// The ranges of one family; an element of the range map. The word of the count
/// is stored last, so that all zeros are "no range".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RangeHeads {
    /// How many of the heads are in use, or [`ALL`].
    pub count: u64,
    /// How the ranges begin.
    pub heads: [Head; HEADS],
}

/// How a range begins: its first 64 bits, as [`Address::head`] gives them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// The bits, 0 where the mask is.
    pub bits: u64,
    /// Which bits count.
    pub mask: u64,
}

impl Head {
    /// Of the range that `first` begins and `netmask` bounds.
    pub fn new<A: Address>(first: A, netmask: A) -> Self {
        let mask = netmask.head();
        Self { bits: first.head() & mask, mask }
    }

    /// Whether an address begins like the range.
    #[inline(always)]
    pub const fn matches(self, head: u64) -> bool {
        head & self.mask == self.bits
    }
}

impl RangeHeads {
    /// For these ranges; without duplicates.
    pub fn new(heads: impl IntoIterator<Item = Head>) -> Self {
        let mut all = Self::default();
        for head in heads {
            let used = all.count as usize;
            if all.heads[..used].contains(&head) {
                continue;
            }
            let Some(free) = all.heads.get_mut(used) else {
                return Self { count: ALL, ..Self::default() };
            };
            *free = head;
            all.count += 1;
        }
        all
    }
}

const _: () = assert!(size_of::<RangeHeads>() == 8 + HEADS * 16);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{V4, V6};
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v4(text: &str) -> V4 {
        text.parse::<Ipv4Addr>().unwrap().into()
    }

    fn v6(text: &str) -> V6 {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    #[test]
    fn a_head_matches_what_is_in_the_range_and_little_else() {
        let range = Head::new(v4("10.96.0.0"), v4("255.240.0.0"));
        for (addr, inside) in [
            ("10.96.0.0", true),
            ("10.111.255.255", true),
            ("10.112.0.0", false),
            ("10.95.255.255", false),
            ("96.10.0.0", false),
        ] {
            assert_eq!(range.matches(v4(addr).head()), inside, "{addr}");
        }
        let range = Head::new(v6("fd00:10:96::"), v6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0"));
        assert!(range.matches(v6("fd00:10:96::1").head()));
        // Beyond 64 bits the prefix map must tell.
        assert!(range.matches(v6("fd00:10:96:0:1::1").head()));
        assert!(!range.matches(v6("fd00:10:96:1::1").head()));
        let range = Head::new(v6("fd00::"), v6("fff0::"));
        assert!(range.matches(v6("fd0f:1::1").head()) && !range.matches(v6("fd10::1").head()));
    }

    #[test]
    fn more_ranges_than_there_is_room_for_ask_always() {
        let head = |n: u32| Head { bits: u64::from(n), mask: u64::MAX };
        assert_eq!(RangeHeads::new([]), RangeHeads::default());
        assert_eq!(RangeHeads::new((0..4).map(head)).count, 4);
        assert_eq!(RangeHeads::new([1, 1, 2, 2, 1].map(head)).count, 2);
        assert_eq!(RangeHeads::new((0..5).map(head)).count, ALL);
    }
}
