//! The clients: threads with blocking sockets, in the network namespace of the
//! calling thread.

use super::sample::{Metric, Sample};
use super::server::{BULK, LENGTH, ONCE, OPEN, stay_on};
use anyhow::{Context as _, Result, ensure};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// How many at once ask for connections, or on open ones.
const THREADS: u8 = 4;
/// How many at once send datagrams, each to a server of its own, and how many each
/// has under way.
const SENDERS: u8 = 2;
const WINDOW: usize = 32;
/// What is written of a stream at once.
const CHUNK: usize = 256 << 10;
/// After this an answer is lost: far beyond what any of them takes.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this a datagram is.
const ECHO: Duration = Duration::from_millis(200);

/// How often is asked to meet a server: with two to choose from, one is met by none
/// of these once in 2^64 times.
const CHECKS: usize = 64;

/// Where clients go: the same place, or one for each.
#[derive(Debug, Clone)]
pub(crate) struct Targets {
    pub(crate) tcp: Vec<SocketAddr>,
    pub(crate) udp: Vec<SocketAddr>,
}

/// Asks often enough to meet every server, and fails unless each has answered.
pub(crate) fn check(targets: &Targets, servers: &BTreeSet<u8>) -> Result<()> {
    let mut seen = [BTreeSet::new(), BTreeSet::new()];
    for to in targets.tcp.iter().cycle().take(CHECKS) {
        let (_, server) = once(*to).with_context(|| format!("a connection to {to}"))?;
        seen[0].insert(server);
    }
    for to in targets.udp.iter().cycle().take(CHECKS) {
        let socket = datagrams(*to)?;
        let mut answer = [0; LENGTH];
        socket.send(&[ONCE; LENGTH])?;
        socket.recv(&mut answer).with_context(|| format!("a datagram to {to}"))?;
        seen[1].insert(answer[1]);
    }
    for seen in seen {
        ensure!(seen == *servers, "servers {seen:?} answer, not {servers:?}");
    }
    Ok(())
}

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection for each request.
    Connections,
    /// Requests on connections that stay open.
    Requests,
    /// One stream.
    Stream,
    /// Datagrams and their echoes.
    Datagrams,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::Connections, Self::Requests, Self::Stream, Self::Datagrams];

    /// Does it for so long, and notes the figures.
    pub(crate) fn measure(
        self,
        targets: &Targets,
        time: Duration,
        sample: &mut Sample,
    ) -> Result<()> {
        use Metric::{ConnectP50, ConnectP99, Connections, RequestP50, RequestP99, Requests};
        match self {
            Self::Connections => {
                let asked = asked(&targets.tcp, time, ever_new).context("connections")?;
                asked.note(sample, [Connections, ConnectP50, ConnectP99]);
            }
            Self::Requests => {
                let asked = asked(&targets.tcp, time, on_open).context("requests")?;
                asked.note(sample, [Requests, RequestP50, RequestP99]);
            }
            Self::Stream => {
                let rate = stream(targets.tcp[0], time).context("a stream")?;
                sample.set(Metric::Throughput, rate);
            }
            Self::Datagrams => {
                let rate = echoes(&targets.udp, time).context("datagrams")?;
                sample.set(Metric::Datagrams, rate);
            }
        }
        Ok(())
    }
}

/// What several clients have seen.
struct Asked {
    seconds: f64,
    nanoseconds: Vec<u64>,
}

impl Asked {
    fn note(mut self, sample: &mut Sample, [rate, p50, p99]: [Metric; 3]) {
        self.nanoseconds.sort_unstable();
        let times = &self.nanoseconds;
        let place = |hundredth: usize| times.get(times.len() * hundredth / 100).copied();
        sample.set(rate, number(times.len()) / self.seconds);
        for (metric, hundredth) in [(p50, 50), (p99, 99)] {
            let time =
                place(hundredth).map_or(f64::NAN, |time| Duration::from_nanos(time).as_secs_f64());
            sample.set(metric, time * 1e6);
        }
    }
}

fn asked(
    to: &[SocketAddr],
    time: Duration,
    client: impl Fn(SocketAddr, u8, Instant) -> io::Result<Vec<u64>> + Copy + Send,
) -> Result<Asked> {
    let begin = Instant::now();
    let end = begin + time;
    let times = together(THREADS, to, move |to, place| {
        stay_on(place.into());
        client(to, place, end)
    })?;
    let nanoseconds = times.concat();
    Ok(Asked { seconds: begin.elapsed().as_secs_f64(), nanoseconds })
}

/// Runs so many clients at once, each with its place and where it goes to.
fn together<T: Send>(
    count: u8,
    to: &[SocketAddr],
    client: impl Fn(SocketAddr, u8) -> io::Result<T> + Copy + Send,
) -> io::Result<Vec<T>> {
    thread::scope(|scope| {
        let start = |(place, to): (u8, &SocketAddr)| {
            let to = *to;
            scope.spawn(move || client(to, place))
        };
        let threads: Vec<_> = (0..count).zip(to.iter().cycle()).map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, io::Result<T>>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    })
}

/// A connection, a request, its answer, the end; nanoseconds of all of it, and who
/// answered.
fn once(to: SocketAddr) -> io::Result<(u64, u8)> {
    let begin = Instant::now();
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut answer = [0; LENGTH];
    stream.write_all(&[ONCE; LENGTH])?;
    stream.read_exact(&mut answer)?;
    if stream.read(&mut [0])? != 0 {
        return Err(io::Error::other("an answer that is too long"));
    }
    drop(stream);
    Ok((nanoseconds(begin)?, answer[1]))
}

fn ever_new(to: SocketAddr, _place: u8, end: Instant) -> io::Result<Vec<u64>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        times.push(once(to)?.0);
    }
    Ok(times)
}

fn on_open(to: SocketAddr, place: u8, end: Instant) -> io::Result<Vec<u64>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // The server is on another processor.
    let mut request = [OPEN; LENGTH];
    request[2] = place + 1;
    let mut times = Vec::new();
    let mut answer = [0; LENGTH];
    loop {
        let begin = Instant::now();
        if begin >= end {
            return Ok(times);
        }
        stream.write_all(&request)?;
        stream.read_exact(&mut answer)?;
        times.push(nanoseconds(begin)?);
    }
}

/// Gigabits a second of one stream, as received.
fn stream(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let chunk = vec![BULK; CHUNK];
    // The sender is on the processor that takes the pods' packets, acknowledgements
    // among them: what two processors send of one stream gets out of order, which
    // TCP takes for loss.
    stay_on(0);
    let mut request = [BULK; LENGTH];
    request[2] = 1;
    stream.write_all(&request)?;
    let begin = Instant::now();
    let mut sent: u64 = 0;
    while begin.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += u64::try_from(CHUNK)?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut total = [0; 8];
    stream.read_exact(&mut total)?;
    let seconds = begin.elapsed().as_secs_f64();
    let received = u64::from_be_bytes(total);
    ensure!(received == sent, "{received} bytes of {sent} came");
    let bits = Duration::from_nanos(received * 8).as_secs_f64();
    Ok(bits / seconds)
}

/// Datagrams that were answered, a second.
fn echoes(to: &[SocketAddr], time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let end = begin + time;
    let counts = together(SENDERS, to, move |to, place| {
        // Its server is on another processor.
        stay_on(usize::from(place) + 1);
        windows(to, place, end)
    })?;
    let total = counts.iter().sum();
    Ok(number(total) / begin.elapsed().as_secs_f64())
}

/// Sends a few datagrams, waits for their echoes, and so on.
fn windows(to: SocketAddr, server: u8, end: Instant) -> io::Result<usize> {
    let socket = met(to, server)?;
    let mut answered = 0;
    let mut buffer = [0; LENGTH];
    while Instant::now() < end {
        for _ in 0..WINDOW {
            socket.send(&[ONCE; LENGTH])?;
        }
        for _ in 0..WINDOW {
            match socket.recv(&mut buffer) {
                Ok(_) => answered += 1,
                // Lost, as datagrams may be: their time counts all the same.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => break,
                Err(error) => return Err(error),
            }
        }
    }
    Ok(answered)
}

/// A socket whose datagrams go to a certain server: each has one thread for all.
fn met(to: SocketAddr, server: u8) -> io::Result<UdpSocket> {
    for _ in 0..CHECKS {
        let socket = datagrams(to)?;
        let mut answer = [0; LENGTH];
        socket.send(&[ONCE; LENGTH])?;
        socket.recv(&mut answer)?;
        if answer[1] == server {
            return Ok(socket);
        }
    }
    Err(io::Error::other(format!("datagrams never reach server {server}")))
}

fn datagrams(to: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(ECHO))?;
    Ok(socket)
}

fn nanoseconds(begin: Instant) -> io::Result<u64> {
    begin.elapsed().as_nanos().try_into().map_err(io::Error::other)
}

/// A count as what is calculated with: exact below 2^32.
fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}
