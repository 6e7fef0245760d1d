//! Datagrams leave a backend that is gone, whatever kind of socket sends them:
//! clients that send every 10 ms from the same port, and what they did to whom
//! after the manifest had changed.

use crate::calls::{UDP, backend_of, echo_unconnected, mapped, udp_socket, web};
use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From the change of the manifest to the last datagram for the old backend.
const GONE: Duration = Duration::from_millis(100);
/// How often a change is made that takes longer.
const ATTEMPTS: usize = 3;
const INTERVAL: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(5);

/// A client: where it sends, from which port, and whether it connects.
#[derive(Clone, Copy, Debug)]
struct Client {
    to: SocketAddr,
    port: u16,
    connected: bool,
}

/// When the last datagram was sent that a backend answered.
type Last = Mutex<BTreeMap<String, Instant>>;

impl Client {
    fn open(&self) -> io::Result<UdpSocket> {
        let socket = udp_socket(self.to, self.port)?;
        if self.connected {
            socket.connect(self.to)?;
        }
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// Sends until it is told to stop. As applications do, it opens its socket
    /// again when that is told that the peer is gone.
    fn run(&self, stop: &AtomicBool, last: &Last) -> Result<()> {
        let mut sent = Vec::new();
        let mut socket = None;
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if let Some(used) = &socket
                && let Err(error) = self.turn(used, &mut sent, last)
            {
                let expected = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionRefused];
                // What is in the socket still counts.
                drain(used, &sent, last).or_else(|_| drain(used, &sent, last))?;
                // What a send says to a socket that was told.
                let disconnected = error.raw_os_error() == Some(libc::EDESTADDRREQ);
                if !expected.contains(&error.kind()) && !disconnected {
                    return Err(error).with_context(|| format!("{self:?}"));
                }
                socket = None;
            }
            if socket.is_none() {
                socket = match self.open() {
                    Ok(socket) => Some(socket),
                    // Refused, or a child that another test has just forked
                    // still has the old socket: soon again.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionRefused | ErrorKind::AddrInUse
                        ) =>
                    {
                        None
                    }
                    Err(error) => return Err(error).with_context(|| format!("open {self:?}")),
                };
            }
            next += INTERVAL;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// One datagram, and the echoes that are there.
    fn turn(&self, socket: &UdpSocket, sent: &mut Vec<Instant>, last: &Last) -> io::Result<()> {
        drain(socket, sent, last)?;
        let payload = sent.len().to_string();
        sent.push(Instant::now());
        if self.connected {
            socket.send(payload.as_bytes())?;
        } else {
            socket.send_to(payload.as_bytes(), self.to)?;
        }
        Ok(())
    }
}

/// Takes the echoes that are there.
fn drain(socket: &UdpSocket, sent: &[Instant], last: &Last) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => note(&buffer[..length], sent, last)?,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Notes who answered the datagram of which time.
fn note(echo: &[u8], sent: &[Instant], last: &Last) -> io::Result<()> {
    let text = String::from_utf8_lossy(echo);
    let number = text.rsplit(' ').next().and_then(|number| number.parse::<usize>().ok());
    let at = number.and_then(|number| sent.get(number)).ok_or(ErrorKind::InvalidData)?;
    let backend = backend_of(echo).map_err(io::Error::other)?;
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    let entry = last.entry(backend).or_insert(*at);
    *entry = (*entry).max(*at);
    Ok(())
}

/// Clients of both kinds for each place.
fn clients() -> Vec<Client> {
    let [v4, v6] = web().udp_addresses();
    let loopback = SocketAddr::new([127, 0, 0, 1].into(), UDP);
    let mapped = SocketAddr::new(mapped(v4.ip()), v4.port());
    let places = [v4, v6, mapped, loopback];
    let both = places.into_iter().flat_map(|to| [(to, true), (to, false)]);
    (40_000..).zip(both).map(|(port, (to, connected))| Client { to, port, connected }).collect()
}

/// What is published, and who then shall answer.
struct Change {
    before: Vec<Service>,
    old: &'static str,
    after: Vec<Service>,
    new: Option<&'static str>,
}

impl Change {
    /// Makes the change while clients send. How long after it the last datagram
    /// for the old backend was sent.
    fn make(&self, cluster: &Cluster, netns: &Namespace) -> Result<Duration> {
        let Self { before, old, after, new } = self;
        cluster.publish(before)?;
        let clients = clients();
        deadline::until_ok("the old backend in force", LIMIT, || {
            for client in &clients {
                let socket = netns.run(|| udp_socket(client.to, 0))??;
                ensure!(echo_unconnected(&socket, client.to)? == *old);
            }
            Ok(())
        })?;
        let stop = AtomicBool::new(false);
        let lasts: Vec<Last> = clients.iter().map(|_| Last::default()).collect();
        let changed = std::thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter()
                .zip(&lasts)
                .map(|(client, last)| scope.spawn(|| netns.run(|| client.run(&stop, last))?))
                .collect();
            let changed = watch(&lasts, old, *new, || cluster.publish(after));
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                match thread.join() {
                    Ok(outcome) => outcome?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            changed
        })?;
        let mut slowest = Duration::ZERO;
        for (client, last) in clients.iter().zip(&lasts) {
            let Some(at) = time_of(last, old) else { bail!("{client:?} never met {old}") };
            slowest = slowest.max(at.saturating_duration_since(changed));
        }
        Ok(slowest)
    }
}

/// Waits until every client meets the old backend, publishes, and waits until
/// every client meets the new one. Without any, it waits long enough to see
/// whom a socket is left with.
fn watch(
    lasts: &[Last],
    old: &str,
    new: Option<&str>,
    publish: impl FnOnce() -> Result<()>,
) -> Result<Instant> {
    let all = |name: &str, since: Option<Instant>| {
        let met = |last: &Last| time_of(last, name).is_some_and(|at| since.is_none_or(|t| at > t));
        lasts.iter().all(met).then_some(())
    };
    deadline::until("every client at the old backend", LIMIT, || all(old, None))?;
    publish()?;
    let changed = Instant::now();
    match new {
        Some(new) => {
            deadline::until("every client at the new backend", LIMIT, || all(new, Some(changed)))?;
        }
        None => {
            deadline::until("some time", LIMIT, || (changed.elapsed() > 5 * GONE).then_some(()))?;
        }
    }
    Ok(changed)
}

fn time_of(last: &Last, backend: &str) -> Option<Instant> {
    last.lock().unwrap_or_else(PoisonError::into_inner).get(backend).copied()
}

fn on(topology: &Topology, node: usize, pod: usize) -> Service {
    let node = &topology.nodes[node];
    web().endpoint(node, &node.pods[pod])
}

#[test]
fn datagrams_leave_a_backend_that_is_gone() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![on(topology, 1, 0)])?;
    let topology = &cluster.topology;
    let other = Service::new("other", 1).http(30080).udp(UDP);
    let one = &topology.nodes[0];
    let changes = [
        // Replaced.
        (vec![on(topology, 0, 1)], Some("pod-1b")),
        // Removed, and none is left: new calls are refused.
        (vec![web()], None),
        // The Service deleted.
        (Vec::new(), None),
        // Another Service with the same address and ports in its place.
        (vec![other.endpoint(one, &one.pods[0])], Some("pod-1a")),
    ];
    for (after, new) in changes {
        let before = vec![on(topology, 1, 0)];
        let change = Change { before, old: "pod-2a", after, new };
        // Other work on the machine may delay the agent; not every time.
        let mut times = Vec::new();
        while times.last().is_none_or(|time| *time >= GONE) {
            ensure!(times.len() < ATTEMPTS, "old backends were left after {times:?}");
            times.push(change.make(&cluster, &cluster.node(0).netns)?);
        }
        println!("the last datagrams for the old backend were sent {times:?} after the change");
    }
    Ok(())
}
