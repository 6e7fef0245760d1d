//! Tables that a client's hash points into, after Maglev (Eisenbud et al.,
//! NSDI 2016, section 3.4): every backend has its own order in which it wants
//! the slots, and gets its exact share of them.
//!
//! In Maglev backends take turns, and each turn leads to a slot that is free.
//! With a hundred slots a backend that moves 2 to 5 % of the flows needlessly
//! when one of ten backends leaves: whoever finds a slot free earlier takes all
//! its later turns elsewhere. Here a backend goes through its order at the pace
//! of its weight whether slots are free or not, until it has its share. Without
//! the last condition nobody but the clients of the backend that leaves would
//! move at all; with it the shares are exact, and below 1.5 % move.
//!
//! A table has one of a few sizes. Tables of different sizes have nothing in
//! common: so one that has become bigger than needed stays as it is, and the
//! steps are wide. Nodes agree on every flow while their tables are of one
//! size; a node that joins after a Service has shrunk past a step has the
//! smaller one, until the Service grows again.

use super::weighted::apportion;
use lb_common::hash::mix;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Sizes, and for how many backends each is. What moves needlessly depends on
/// the size more than on the slots for each backend, so few backends get many.
/// The last also serves more backends, with fewer than a hundred slots each.
///
/// Primes that leave 2 when divided by 3: then every number below is the cube
/// of one of them, which [`Wishes`] needs.
const SIZES: [(usize, usize); 5] =
    [(3, 2_039), (40, 8_171), (160, 32_717), (640, 131_063), (5_240, 524_261)];

/// Slot by slot, positions in `names`: hashes of the backends, sorted by what
/// they are hashes of. None of the `weights` is 0.
pub(super) fn table(names: &[u64], weights: &[u64], previous: usize) -> Vec<usize> {
    if names.is_empty() {
        return Vec::new();
    }
    let size = size(names.len(), previous);
    let mut left = apportion(weights, size as u64);
    let mut wishes: Vec<Wishes> = names.iter().map(|&name| Wishes::new(name, size)).collect();
    let mut next: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
    next.extend((0..names.len()).map(|at| Reverse((wishes[at].time / weights[at], at))));
    let mut table = vec![usize::MAX; size];
    while let Some(Reverse((_, position))) = next.pop() {
        let wishes = &mut wishes[position];
        if table[wishes.slot()] == usize::MAX {
            table[wishes.slot()] = position;
            left[position] -= 1;
            if left[position] == 0 {
                continue;
            }
        }
        // There is a free one ahead: the shares add up to the size, and what
        // was passed was taken.
        while table[wishes.slot()] != usize::MAX {
            wishes.advance();
        }
        next.push(Reverse((wishes.time / weights[position], position)));
    }
    table
}

/// The size of the table for so many backends.
fn size(backends: usize, previous: usize) -> usize {
    let fits = SIZES.iter().find(|(most, _)| backends <= *most);
    let (_, needed) = *fits.unwrap_or(&SIZES[SIZES.len() - 1]);
    let known = SIZES.iter().any(|(_, size)| *size == previous);
    if known { needed.max(previous) } else { needed }
}

/// The slots that a backend wants, one after the other, each once:
/// `a * n * n * n + b` for successive `n`. With a linear step, as in Maglev,
/// the orders of some pairs of backends are too much alike.
struct Wishes {
    /// The slot, and its differences: what the next one adds, and so on.
    polynomial: [usize; 4],
    size: usize,
    /// Slots that were not wanted before, this one included.
    ahead: usize,
    /// When a backend of weight 1 comes to this slot. It takes the longer over
    /// a slot the fewer are ahead, as if it drew each at random from all: that
    /// keeps shares proportional to weights also while most slots are passed.
    time: u64,
}

impl Wishes {
    fn new(name: u64, size: usize) -> Self {
        let modulus = size as u64;
        let a = 1 + name % (modulus - 1);
        let more = mix(!name);
        let (n, b) = ((more >> 32) % modulus, more % modulus);
        let polynomial = [
            a * (n * n * n % modulus) + b,
            a * ((3 * n * n + 3 * n + 1) % modulus),
            a * ((6 * n + 6) % modulus),
            a * 6,
        ];
        let polynomial =
            polynomial.map(|value| usize::try_from(value % modulus).unwrap_or_default());
        Self { polynomial, size, ahead: size, time: Self::pace(size) }
    }

    const fn slot(&self) -> usize {
        self.polynomial[0]
    }

    fn advance(&mut self) {
        for order in 0..3 {
            let sum = self.polynomial[order] + self.polynomial[order + 1];
            self.polynomial[order] = if sum < self.size { sum } else { sum - self.size };
        }
        // The last slot is followed by the first again.
        self.ahead = if self.ahead == 1 { self.size } else { self.ahead - 1 };
        self.time += Self::pace(self.ahead);
    }

    const fn pace(ahead: usize) -> u64 {
        (1 << 48) / ahead as u64
    }
}
