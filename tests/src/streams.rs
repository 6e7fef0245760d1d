//! Clients that stay: TCP connections and UDP flows that send one numbered
//! request after the other, and tell who answered each.
//!
//! They are opened in the network namespace of the calling thread, and may be
//! used from anywhere afterwards.

use crate::client::{Connection, Datagrams};
use crate::server;
use crate::traffic::Kind;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

/// How long an answer may take on a machine that has much else to do: a request
/// that is lost for good is found all the same.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a datagram's echo may take before it is sent again.
const ECHO: Duration = Duration::from_millis(2500);
/// How often a datagram is sent at most.
const TRIES: u32 = 6;

/// A connection, or a flow of datagrams.
#[derive(Debug)]
pub struct Stream {
    /// Where it leads.
    pub to: SocketAddr,
    wire: Wire,
    number: u64,
}

#[derive(Debug)]
enum Wire {
    Tcp(Connection),
    Udp(Datagrams),
}

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Who gave it.
    pub backend: String,
    /// How often the request was sent again before: datagrams may be lost on a
    /// machine that has much to do.
    pub repeated: u32,
}

impl Stream {
    /// Opens one. Of UDP, nothing is sent yet.
    pub fn open(kind: Kind, to: SocketAddr) -> io::Result<Self> {
        let wire = match kind {
            Kind::Http => Wire::Tcp(Connection::open_within(PATIENCE, to)?),
            Kind::Udp => {
                let datagrams = Datagrams::open(to)?;
                datagrams.patience(ECHO)?;
                Wire::Udp(datagrams)
            }
        };
        Ok(Self { to, wire, number: 0 })
    }

    /// Sends the next request; fails unless the answer is to this very one.
    pub fn ask(&mut self) -> io::Result<Reply> {
        self.number += 1;
        let text = format!("request {}", self.number);
        match &mut self.wire {
            Wire::Tcp(connection) => {
                let answer = connection.request("POST", "/", text.as_bytes())?;
                let header = |name| answer.header(name).ok_or(ErrorKind::InvalidData);
                if header("x-sum")? != server::sum(text.as_bytes()).to_string() {
                    return Err(io::Error::other("the answer is to another request"));
                }
                Ok(Reply { backend: header("x-backend")?.to_owned(), repeated: 0 })
            }
            Wire::Udp(datagrams) => {
                let mut repeated = 0;
                loop {
                    match datagrams.echo(&text) {
                        Ok(answer) => return Ok(Reply { backend: answer.backend, repeated }),
                        Err(error) if is_silence(&error) && repeated + 1 < TRIES => repeated += 1,
                        Err(error) => return Err(error),
                    }
                }
            }
        }
    }
}

/// Whether nothing came at all.
pub fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Whether the other end, or somebody in its name, cut the connection.
pub fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
    )
}
