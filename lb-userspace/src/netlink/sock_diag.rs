//! Connected UDP sockets of this namespace: which there are, and telling one
//! that its peer is gone. The application's next call fails with ECONNABORTED,
//! and the socket is connected to nobody.

use super::NetlinkError;
use super::request::{Family, Message, ask};
use std::io;

/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `SOCK_DESTROY`.
const DESTROY: u16 = 21;
/// `1 << TCP_ESTABLISHED`, which for UDP means connected.
const CONNECTED: u32 = 1 << 1;
/// Length of `struct inet_diag_sockid`.
const ID: usize = 48;
/// Where it stands in `struct inet_diag_msg`.
const ID_AT: usize = 4;
/// Where the cookie stands in it, as two words with the low one first.
const COOKIE_AT: usize = 40;

/// A connected UDP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The socket's cookie.
    pub cookie: u64,
    family: u8,
    id: [u8; ID],
}

/// What came of telling a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It knows.
    Told,
    /// It is gone, or connected to somebody else by now.
    Gone,
}

/// Every connected UDP socket of this network namespace.
pub fn connected_udp() -> Result<Vec<Connected>, NetlinkError> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let family = u8::try_from(family).unwrap_or_default();
        let body = request(family, &[0; ID]);
        let operation = "list the connected UDP sockets";
        let replies = ask(Family::SocketDiagnosis, operation, BY_FAMILY, libc::NLM_F_DUMP, &body)?;
        sockets.extend(replies.iter().filter_map(connected));
    }
    Ok(sockets)
}

/// Tells a socket that its peer is gone.
pub fn abort(socket: &Connected) -> Result<Outcome, NetlinkError> {
    let body = request(socket.family, &socket.id);
    match ask(Family::SocketDiagnosis, "end a UDP socket", DESTROY, libc::NLM_F_ACK, &body) {
        Ok(_) => Ok(Outcome::Told),
        Err(NetlinkError::Refused { source, .. }) if is_gone(&source) => Ok(Outcome::Gone),
        Err(error) => Err(error),
    }
}

/// Whether the kernel can end sockets: it refuses to end one that nobody has
/// in other words if it can't end any.
pub fn check() -> Result<(), NetlinkError> {
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    connected_udp()?;
    abort(&Connected { cookie: 0, family, id: [0; ID] }).map(drop)
}

/// There is no such socket, or its cookie is another one.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE))
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, id: &[u8; ID]) -> Vec<u8> {
    let protocol = u8::try_from(libc::IPPROTO_UDP).unwrap_or_default();
    let mut body = vec![family, protocol, 0, 0];
    body.extend(CONNECTED.to_ne_bytes());
    body.extend(id);
    body
}

/// A `struct inet_diag_msg`.
fn connected(message: &Message) -> Option<Connected> {
    let family = *message.payload.first()?;
    let id: [u8; ID] = *message.payload.get(ID_AT..)?.first_chunk()?;
    let word = |at: usize| Some(u32::from_ne_bytes(*id.get(at..)?.first_chunk()?));
    let cookie = u64::from(word(COOKIE_AT)?) | u64::from(word(COOKIE_AT + 4)?) << 32;
    Some(Connected { cookie, family, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_by_its_cookie() {
        let mut payload = vec![0; 72];
        payload[0] = 10;
        payload[ID_AT + COOKIE_AT..ID_AT + COOKIE_AT + 4].copy_from_slice(&7_u32.to_ne_bytes());
        payload[ID_AT + COOKIE_AT + 4..ID_AT + ID].copy_from_slice(&1_u32.to_ne_bytes());
        let socket = connected(&Message { kind: BY_FAMILY, payload: payload.clone() }).unwrap();
        assert_eq!((socket.cookie, socket.family), (7 | 1 << 32, 10));
        payload.truncate(51);
        assert_eq!(connected(&Message { kind: BY_FAMILY, payload }), None);
    }

    #[test]
    fn requests_have_the_kernels_layout() {
        let body = request(2, &[9; ID]);
        assert_eq!(body.len(), 56);
        assert_eq!(body[..2], [2, 17]);
        assert_eq!(body[4..8], 2_u32.to_ne_bytes());
    }
}
