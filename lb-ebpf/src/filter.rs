//! Asks the address filter.

use lb_common::{Address, BePort, filter};

use crate::maps::LB_FILTER;

#[inline(always)]
fn flags(bucket: u32) -> u8 {
    match LB_FILTER.get_ptr(bucket / 8) {
        // SAFETY: a valid element; the agent changes it by one aligned store.
        Some(word) => filter::flags(unsafe { *word }, bucket),
        None => 0,
    }
}

/// Flags of an address.
#[inline(always)]
pub(crate) fn address<A: Address>(addr: A) -> u8 {
    flags(filter::address_bucket(addr))
}

/// Flags of an address with port and protocol.
#[inline(always)]
pub(crate) fn socket<A: Address>(addr: A, port: BePort, proto: u8) -> u8 {
    flags(filter::socket_bucket(addr, port, proto))
}
