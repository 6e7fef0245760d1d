//! Clients: an HTTP request on its own connection or on one that stays open,
//! and a datagram with its echo. All report which backend answered, and as
//! whom it saw the client.
//!
//! They use the network namespace of the calling thread: see `Namespace::run`.

use crate::http::Message;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, BufReader, ErrorKind, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How long a request may take: far beyond what a healthy path needs, and
/// below the second after which TCP repeats a lost SYN a second time.
pub const PATIENCE: Duration = Duration::from_millis(2500);

/// What a backend answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its name.
    pub backend: String,
    /// The client's address as the backend saw it.
    pub peer: SocketAddr,
    /// The client's address as the client's own socket has it.
    pub local: SocketAddr,
}

/// A connection that stays open for many requests.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    /// Connects.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        Self::new(TcpStream::connect_timeout(&to, PATIENCE)?, to)
    }

    /// Connects, with another limit for that and for answers.
    pub fn open_within(limit: Duration, to: SocketAddr) -> io::Result<Self> {
        let connection = Self::new(TcpStream::connect_timeout(&to, limit)?, to)?;
        connection.stream.set_read_timeout(Some(limit))?;
        Ok(connection)
    }

    /// Connects from a given port.
    pub fn open_from(port: u16, to: SocketAddr) -> io::Result<Self> {
        when_free(|| Self::try_open_from(port, to))
    }

    fn try_open_from(port: u16, to: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&any(to, port).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Self::new(socket.into(), to)
    }

    fn new(stream: TcpStream, host: SocketAddr) -> io::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self { stream, reader, host })
    }

    /// One request and its answer.
    pub fn get(&mut self) -> io::Result<Answer> {
        let response = self.request("GET", "/", &[])?;
        self.answer(&response)
    }

    /// One request with any path and body, answered with status 200.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Message> {
        let response = self.exchange(method, path, body)?;
        if !response.start.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(response.start));
        }
        Ok(response)
    }

    /// One request with any path and body, and the answer with any status.
    pub fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Message> {
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.write_all(&request)?;
        Ok(Message::read(&mut self.reader)?.ok_or(ErrorKind::UnexpectedEof)?)
    }

    fn answer(&self, response: &Message) -> io::Result<Answer> {
        let header = |name| response.header(name).ok_or(ErrorKind::InvalidData);
        Ok(Answer {
            backend: header("x-backend")?.to_owned(),
            peer: header("x-peer")?.parse().map_err(io::Error::other)?,
            local: self.stream.local_addr()?,
        })
    }

    /// The client's end.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Ends it with a reset, so that its port is free at once.
    pub fn reset(self) -> io::Result<()> {
        let socket: Socket = self.stream.into();
        socket.set_linger(Some(Duration::ZERO))
    }
}

/// One HTTP request on a connection of its own.
pub fn get(to: SocketAddr) -> io::Result<Answer> {
    Connection::open(to)?.get()
}

/// A UDP socket, connected so that errors of the path arrive, and so that a
/// datagram from any other address than the one dialled does not.
#[derive(Debug)]
pub struct Datagrams {
    socket: UdpSocket,
}

impl Datagrams {
    /// Binds any port, and connects.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        Self::open_from(0, to)
    }

    /// Binds a given port, and connects.
    pub fn open_from(port: u16, to: SocketAddr) -> io::Result<Self> {
        let socket = when_free(|| UdpSocket::bind(any(to, port)))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Sends a datagram, and waits for its echo. What belongs to an earlier
    /// datagram is skipped.
    pub fn echo(&self, payload: &str) -> io::Result<Answer> {
        self.socket.send(payload.as_bytes())?;
        let mut buffer = vec![0; 65_536];
        loop {
            let length = self.socket.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            let mut parts = text.splitn(3, ' ');
            let mut part = || parts.next().ok_or(ErrorKind::InvalidData);
            let (backend, peer, echo) = (part()?, part()?, part()?);
            if echo == payload {
                return Ok(Answer {
                    backend: backend.to_owned(),
                    peer: peer.parse().map_err(io::Error::other)?,
                    local: self.socket.local_addr()?,
                });
            }
        }
    }

    /// Another limit for answers.
    pub fn patience(&self, limit: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(limit))
    }
}

/// One datagram from a socket of its own.
pub fn echo(to: SocketAddr) -> io::Result<Answer> {
    Datagrams::open(to)?.echo("hello")
}

/// Tries again while an address is in use: a socket that was closed lives on in
/// a child process that another thread has just forked, until that child runs
/// its program.
fn when_free<T>(open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        match open() {
            Err(error)
                if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable)
                    && begin.elapsed() < PATIENCE =>
            {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

fn any(like: SocketAddr, port: u16) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}
