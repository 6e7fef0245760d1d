//! Tables that are walked in turn: each backend as often as its weight says,
//! its slots spread evenly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Slots that a table may have without regard to the number of backends.
const SLOTS: u64 = 4_096;
/// Slots for each backend, where that is more.
const SLOTS_PER_BACKEND: u64 = 64;
/// Slots of one Service at most: an eighth of the slot array.
const MOST_SLOTS: u64 = 262_144;

/// Positions in `weights`, none of which is 0, in the order in which they take
/// their turns. Equal weights give each position once.
///
/// In the first `k` slots, for every `k`, a backend of the share `s` has less
/// than one slot more or less than `s * k`.
pub(super) fn table(weights: &[u64]) -> Vec<usize> {
    let turns = turns(weights);
    let total: u64 = turns.iter().sum();
    // The n-th turn of a backend belongs into the slots from n/s to (n+1)/s;
    // always taking the one that must come soonest keeps every such promise.
    let opens = |index: usize, turn: u64| turn * total / turns[index];
    let closes = |index: usize, turn: u64| ((turn + 1) * total).div_ceil(turns[index]);
    let mut waiting: BinaryHeap<Reverse<(u64, usize, u64)>> =
        (0..turns.len()).map(|index| Reverse((0, index, 0))).collect();
    let mut ready: BinaryHeap<Reverse<(u64, usize, u64)>> = BinaryHeap::new();
    let mut table = Vec::new();
    for slot in 0..total {
        while let Some(&Reverse((opening, index, turn))) = waiting.peek()
            && opening <= slot
        {
            waiting.pop();
            ready.push(Reverse((closes(index, turn), index, turn)));
        }
        let Some(Reverse((_, index, turn))) = ready.pop() else { break };
        table.push(index);
        if turn + 1 < turns[index] {
            waiting.push(Reverse((opens(index, turn + 1), index, turn + 1)));
        }
    }
    table
}

/// How many slots each backend gets: the weights in lowest terms, or, where
/// that would be too many, as near to them as fits, and at least one.
fn turns(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let turns: Vec<u64> = weights.iter().map(|weight| weight / divisor).collect();
    let number = weights.len() as u64;
    let most = (SLOTS_PER_BACKEND * number).clamp(SLOTS, MOST_SLOTS).max(number);
    if turns.iter().sum::<u64>() <= most { turns } else { apportion(&turns, most) }
}

/// Divides `slots` in proportion to `weights` by largest remainder. What is
/// less than one slot gets one first, and the others share the rest.
pub(super) fn apportion(weights: &[u64], slots: u64) -> Vec<u64> {
    let mut turns = vec![0; weights.len()];
    let mut open: Vec<usize> = (0..weights.len()).collect();
    let mut rest = slots;
    loop {
        let total: u64 = open.iter().map(|&index| weights[index]).sum();
        let (small, big): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|&index| weights[index] * rest < total);
        open = big;
        if small.is_empty() {
            share_out(weights, &open, total, rest, &mut turns);
            return turns;
        }
        for index in small {
            turns[index] = 1;
            rest -= 1;
        }
    }
}

fn share_out(weights: &[u64], open: &[usize], total: u64, slots: u64, turns: &mut [u64]) {
    let mut remainders = Vec::with_capacity(open.len());
    let mut left = slots;
    for &index in open {
        turns[index] = weights[index] * slots / total;
        left -= turns[index];
        remainders.push((Reverse(weights[index] * slots % total), index));
    }
    remainders.sort_unstable();
    for (_, index) in remainders.into_iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        turns[index] += 1;
    }
}

const fn gcd(a: u64, b: u64) -> u64 {
    let (mut a, mut b) = (a, b);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
