//! Transport protocols that Services may have, by their numbers in the IP
//! header.

/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// SCTP (RFC 9260), single-homed: addresses that an association's ends tell
/// each other are not translated.
pub const SCTP: u8 = 132;

/// Whether it is one of those. Each has its ports in the first four bytes of
/// its header, the source's first.
#[inline(always)]
pub const fn has_ports(proto: u8) -> bool {
    matches!(proto, TCP | UDP | SCTP)
}

/// Whether, of those, it is one with connections: they begin and end with
/// packets that say so, and stay with their backend in between. SCTP says
/// association for it.
#[inline(always)]
pub const fn connects(proto: u8) -> bool {
    matches!(proto, TCP | SCTP)
}

/// What people call it, if it is one of those.
pub const fn name(proto: u8) -> Option<&'static str> {
    match proto {
        TCP => Some("TCP"),
        UDP => Some("UDP"),
        SCTP => Some("SCTP"),
        _ => None,
    }
}
