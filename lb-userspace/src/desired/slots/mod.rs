//! From a policy and weighted backends to a slot table: which backend each slot
//! of a Service's segment names. The kernel only picks a slot, so this is where
//! policies and weights are made. Pure: the same input gives the same table on
//! every node, in whichever order the backends come.

mod maglev;
mod weighted;

use super::Policy;
use std::net::IpAddr;

/// A backend that takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Share {
    /// Its address: with the port the name that every node knows it by.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its share of new flows, relative to the others'; with 0 it gets none.
    pub weight: u16,
}

/// The slots of a Service: indices into `shares`. Empty if no backend has a
/// weight.
///
/// `previous` is the number of slots in force, or 0. A hash policy keeps it as
/// long as it is big enough: another size would move nearly every flow.
pub fn compile(policy: Policy, shares: &[Share], previous: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..shares.len()).filter(|&i| shares[i].weight != 0).collect();
    order.sort_by_key(|&index| shares[index]);
    let weights: Vec<u64> = order.iter().map(|&index| shares[index].weight.into()).collect();
    let table = if policy.is_by_hash() {
        let name = |&index: &usize| hash_of(shares[index].addr, shares[index].port);
        let names: Vec<u64> = order.iter().map(name).collect();
        maglev::table(&names, &weights, previous)
    } else {
        weighted::table(&weights)
    };
    table.into_iter().map(|position| order[position]).collect()
}

/// A hash of a backend's address and port: FNV-1a over the bytes of the wire,
/// and a finaliser, since FNV alone leaves the last bytes in the low bits.
fn hash_of(addr: IpAddr, port: u16) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = 0xcbf2_9ce4_8422_2325;
    let hash = match addr {
        IpAddr::V4(addr) => addr.octets().iter().fold(seed, fnv),
        IpAddr::V6(addr) => addr.octets().iter().fold(seed, fnv),
    };
    lb_common::hash::mix(port.to_be_bytes().iter().fold(hash, fnv))
}

#[cfg(test)]
mod tests;
