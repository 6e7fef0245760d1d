//! Requests to the kernel over a netlink socket, and their replies as bytes.
//!
//! Synchronous: a reply takes microseconds, and both the agent and one-shot
//! commands use it. A reply is not decoded further than its framing, so that
//! attributes of newer kernels never get in the way.

use super::NetlinkError;
use rtnetlink::sys::{Socket, SocketAddr, protocols};
use std::io;

/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A message: its type and what follows the header.
pub(super) struct Message {
    /// `RTM_*`.
    pub kind: u16,
    /// Fixed part and attributes.
    pub payload: Vec<u8>,
}

/// Whom a request is for.
#[derive(Clone, Copy)]
pub(super) enum Family {
    /// Links, addresses, routes, filters.
    Route,
    /// Sockets.
    SocketDiagnosis,
}

/// Sends one request about the network and collects the replies.
pub(super) fn request(
    operation: &'static str,
    kind: u16,
    flags: i32,
    body: &[u8],
) -> Result<Vec<Message>, NetlinkError> {
    ask(Family::Route, operation, kind, flags, body)
}

/// Sends one request and collects the replies until the kernel says that it
/// is done. `flags` are added to `NLM_F_REQUEST`.
pub(super) fn ask(
    family: Family,
    operation: &'static str,
    kind: u16,
    flags: i32,
    body: &[u8],
) -> Result<Vec<Message>, NetlinkError> {
    let fail = |source| NetlinkError::Socket { operation, source };
    let protocol = match family {
        Family::Route => protocols::NETLINK_ROUTE,
        Family::SocketDiagnosis => protocols::NETLINK_SOCK_DIAG,
    };
    let mut socket = Socket::new(protocol).map_err(fail)?;
    socket.bind_auto().map_err(fail)?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(fail)?;
    socket.send(&frame(kind, flags | libc::NLM_F_REQUEST, body), 0).map_err(fail)?;
    let mut replies = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full().map_err(fail)?;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let (message, after) = split(rest).ok_or(NetlinkError::Truncated { operation })?;
            rest = after;
            match i32::from(message.kind) {
                libc::NLMSG_NOOP => {}
                libc::NLMSG_DONE => return Ok(replies),
                libc::NLMSG_ERROR => {
                    return match error_code(&message.payload) {
                        Some(0) => Ok(replies),
                        Some(code) => Err(NetlinkError::Refused {
                            operation,
                            source: io::Error::from_raw_os_error(-code),
                        }),
                        None => Err(NetlinkError::Truncated { operation }),
                    };
                }
                _ => replies.push(message),
            }
        }
    }
}

/// Splits the first message off a datagram; none if it is cut short.
pub(super) fn split(datagram: &[u8]) -> Option<(Message, &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*datagram.get(4..)?.first_chunk()?);
    let payload = datagram.get(HEADER..length)?.to_vec();
    let next = length.next_multiple_of(4).min(datagram.len());
    Some((Message { kind, payload }, &datagram[next..]))
}

fn error_code(payload: &[u8]) -> Option<i32> {
    payload.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn frame(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let flags = u16::try_from(flags).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(1_u32.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}
