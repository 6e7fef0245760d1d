//! Rows about sockets of this node: what a socket believes to talk to, and
//! whom it talks to in truth.
//!
//! A socket is known by its cookie, which the kernel gives once until the next
//! boot. Addresses of both families are written as IPv6, IPv4 ones in the
//! mapped form (`::ffff:a.b.c.d`) that sockets of both families know.

use crate::addr::{Address, BePort, V4, V6};

/// The third word of an IPv4 address in its mapped form.
const MAPPED: u32 = 0xffff_u32.to_be();

impl V4 {
    /// The address as sockets of the other family write it.
    #[inline(always)]
    pub const fn to_mapped(self) -> V6 {
        V6([0, 0, MAPPED, self.0])
    }
}

impl V6 {
    /// The IPv4 address that this one stands for, if it does.
    #[inline(always)]
    pub const fn to_unmapped(self) -> Option<V4> {
        let [a, b, c, d] = self.0;
        if a | b | (c ^ MAPPED) == 0 { Some(V4(d)) } else { None }
    }
}

/// Address and port, as they stand in a socket's calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketName {
    /// The address, IPv4 in the mapped form.
    pub addr: V6,
    /// The port.
    pub port: BePort,
    /// Always 0.
    pub pad: u16,
}

impl SocketName {
    /// From an address in the form of this module, and a port.
    #[inline(always)]
    pub const fn new(addr: V6, port: BePort) -> Self {
        Self { addr, port, pad: 0 }
    }
}

/// Key of the rows that a socket has for each of those that it talks to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketKey {
    /// The socket.
    pub cookie: u64,
    /// The frontend of a datagram that is sent, or the backend of one that is
    /// received.
    pub name: SocketName,
    /// Always 0.
    pub pad: u32,
}

impl SocketKey {
    /// The key of one socket and one of its peers.
    #[inline(always)]
    pub const fn new(cookie: u64, name: SocketName) -> Self {
        Self { cookie, name, pad: 0 }
    }
}

/// Whom a socket was given in place of the Service that it dialled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SocketPeer {
    /// What it dialled.
    pub frontend: SocketName,
    /// Whom it got.
    pub peer: SocketName,
    /// The Service port.
    pub service: u32,
    /// The backend's row.
    pub backend: u32,
    /// The generation of the backend's row.
    pub generation: u32,
}

/// An address that a socket dials, and whether that is a loopback address:
/// then the row of the family's first one counts for all of them. The
/// unspecified address means the same, as Linux has it.
#[inline(always)]
pub fn at_place<A: Address>(addr: A) -> (A, bool) {
    if addr.is_loopback() || addr == A::NONE { (A::LOOPBACK, true) } else { (addr, false) }
}

const _: () = {
    assert!(size_of::<SocketName>() == 20);
    assert!(size_of::<SocketKey>() == 32);
    assert!(size_of::<SocketPeer>() == 52);
};

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn ipv4_addresses_are_known_in_the_mapped_form_and_no_others() {
        let v4: Ipv4Addr = "10.96.0.1".parse().unwrap();
        assert_eq!(Ipv6Addr::from(V4::from(v4).to_mapped()), v4.to_ipv6_mapped());
        assert_eq!(V4::from(v4).to_mapped().to_unmapped(), Some(v4.into()));
        for other in ["::", "::1", "::10.96.0.1", "fd00::1", "64:ff9b::10.96.0.1"] {
            let other: Ipv6Addr = other.parse().unwrap();
            assert_eq!(V6::from(other).to_unmapped(), None, "{other}");
        }
    }

    #[test]
    fn all_of_loopback_is_one_place() {
        for addr in ["127.0.0.1", "127.255.3.4", "0.0.0.0"] {
            let addr: Ipv4Addr = addr.parse().unwrap();
            assert_eq!(at_place(V4::from(addr)), (Ipv4Addr::LOCALHOST.into(), true), "{addr}");
        }
        for addr in ["::1", "::"] {
            let addr: Ipv6Addr = addr.parse().unwrap();
            assert_eq!(at_place(V6::from(addr)), (Ipv6Addr::LOCALHOST.into(), true), "{addr}");
        }
        let other: Ipv4Addr = "128.0.0.1".parse().unwrap();
        assert_eq!(at_place(V4::from(other)), (other.into(), false));
    }
}
