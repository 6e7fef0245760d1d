//! A client that sends from one port without a pause: its flow never gets old,
//! and still no datagram reaches a backend that has left later than 100 ms
//! after the manifest changed.

use anyhow::{Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::{HTTP_TARGET, Service};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use serde_json::json;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

const PACE: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_millis(100);
/// How often a change is made that takes longer.
const ATTEMPTS: usize = 3;
/// For how long nobody may come late.
const WATCH: Duration = Duration::from_millis(500);
const SOON: Duration = Duration::from_secs(3);
const NODE_PORT: u16 = 30_053;
/// Each client has a port of its own, always the same one.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// A Service whose backends are the recorders of this test.
fn dns(name: &str, number: u8, node_port: u16) -> Service {
    Service::new(name, number)
        .udp(node_port)
        .with_slices(json!({ "ports": [{ "name": "dns", "port": RECORDER, "protocol": "UDP" }] }))
}

const RECORDER: u16 = HTTP_TARGET + 1;

fn old(topology: &Topology) -> Service {
    let two = &topology.nodes[1];
    dns("web", 1, NODE_PORT).endpoint(two, &two.pods[0])
}

fn new(topology: &Topology) -> Service {
    let one = &topology.nodes[0];
    dns("web", 1, NODE_PORT).endpoint(one, &one.pods[1])
}

/// When datagrams arrived.
#[derive(Default)]
struct Recorder(Mutex<Vec<Instant>>);

impl Recorder {
    /// Takes datagrams, and answers them, until told to stop.
    fn run(&self, netns: &Namespace, stop: &AtomicBool) -> Result<()> {
        let socket = netns.run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, RECORDER)))??;
        socket.set_read_timeout(Some(PACE))?;
        let mut buffer = [0; 64];
        while !stop.load(Ordering::Relaxed) {
            if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let now = Instant::now();
                let _gone = socket.send_to(&buffer[..length], peer);
                if let Ok(mut arrivals) = self.0.lock() {
                    arrivals.push(now);
                }
            }
        }
        Ok(())
    }

    fn count(&self) -> usize {
        self.0.lock().map_or(0, |arrivals| arrivals.len())
    }

    fn last(&self) -> Option<Instant> {
        self.0.lock().ok()?.last().copied()
    }
}

/// Sends from one port until told to stop, whatever comes back.
fn send(netns: &Namespace, to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    let socket = netns.run(|| {
        let any: SocketAddr =
            if to.is_ipv4() { "0.0.0.0:0".parse() } else { "[::]:0".parse() }.unwrap_or(to);
        let socket = UdpSocket::bind((any.ip(), port))?;
        socket.connect(to)?;
        Ok::<_, std::io::Error>(socket)
    })??;
    while !stop.load(Ordering::Relaxed) {
        // A refusal of the datagram before shows here.
        let _refused = socket.send(b"x");
        std::thread::sleep(PACE);
    }
    Ok(())
}

/// Changes the manifests with clients of every kind under way. Other work on the
/// machine may delay the agent; not every time.
#[expect(clippy::print_stdout, reason = "the figures are worth seeing")]
fn move_away(
    setup: Setup,
    change: impl Fn(&Topology) -> Vec<Service>,
    successor: bool,
) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut times = Vec::new();
    while times.last().is_none_or(|time| *time >= LIMIT) {
        ensure!(times.len() < ATTEMPTS, "the old backend got datagrams {times:?} after the change");
        times.push(move_once(setup, &change, successor)?);
    }
    println!("the old backend got its last datagram {times:?} after the change");
    Ok(())
}

/// How long after the change the old backend got its last datagram.
fn move_once(
    setup: Setup,
    change: &dyn Fn(&Topology) -> Vec<Service>,
    successor: bool,
) -> Result<Duration> {
    let cluster = Cluster::new(setup, |topology| vec![old(topology)])?;
    let topology = &cluster.topology;
    let inside = dns("", 1, 0).udp_addresses();
    let outside = topology.nodes[0].addresses.both().map(|address| (address, NODE_PORT).into());
    let pod = &cluster.pod(0, 0).netns;
    let mut clients: Vec<(&Namespace, SocketAddr)> = Vec::new();
    clients.extend(inside.map(|to| (pod, to)));
    clients.extend(outside.map(|to| (&topology.client, to)));
    let (before, after) = (Recorder::default(), Recorder::default());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut threads = vec![
            scope.spawn(|| before.run(&cluster.pod(1, 0).netns, &stop)),
            scope.spawn(|| after.run(&cluster.pod(0, 1).netns, &stop)),
        ];
        for (netns, to) in clients.iter().copied() {
            let stop = &stop;
            threads.push(scope.spawn(move || send(netns, to, stop)));
        }
        let result = watch(&cluster, change, successor, [&before, &after], clients.len());
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

fn watch(
    cluster: &Cluster,
    change: &dyn Fn(&Topology) -> Vec<Service>,
    successor: bool,
    [before, after]: [&Recorder; 2],
    clients: usize,
) -> Result<Duration> {
    deadline::until("datagrams at the old backend", SOON, || {
        (before.count() > 20 * clients).then_some(())
    })?;
    let services = change(&cluster.topology);
    cluster.publish(&services)?;
    let changed = Instant::now();
    deadline::until("the time in which nobody may come late", SOON, || {
        (changed.elapsed() > LIMIT + WATCH).then_some(())
    })?;
    let last = before.last().map_or(Duration::ZERO, |last| last.duration_since(changed));
    let taken_over = after.count();
    ensure!((taken_over > 20) == successor, "the new backend got {taken_over} datagrams");
    Ok(last)
}

#[test]
fn a_backend_that_is_replaced() -> Result<()> {
    move_away(Setup::tc(Wiring::Routed), |topology| vec![new(topology)], true)
}

#[test]
fn a_backend_that_is_replaced_behind_xdp() -> Result<()> {
    move_away(Setup::xdp(Wiring::Routed, "native"), |topology| vec![new(topology)], true)
}

#[test]
fn the_last_backend_leaves() -> Result<()> {
    move_away(Setup::tc(Wiring::Routed), |_| vec![dns("web", 1, NODE_PORT)], false)
}

#[test]
fn the_service_is_deleted() -> Result<()> {
    move_away(Setup::tc(Wiring::Routed), |_| vec![], false)
}

#[test]
fn the_address_is_used_again_by_another_service() -> Result<()> {
    let other = |topology: &Topology| {
        let one = &topology.nodes[0];
        vec![dns("other", 1, NODE_PORT).endpoint(one, &one.pods[1])]
    };
    move_away(Setup::tc(Wiring::Routed), other, true)
}

/// Ready or not does not matter to a flow, as long as its endpoint serves.
#[test]
fn a_backend_that_ends_but_serves_keeps_its_flows() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![old(topology)])?;
    let stop = AtomicBool::new(false);
    let recorder = Recorder::default();
    let to = dns("", 1, 0).udp_addresses()[0];
    std::thread::scope(|scope| {
        let client = scope.spawn(|| send(&cluster.pod(0, 0).netns, to, &stop));
        let server = scope.spawn(|| recorder.run(&cluster.pod(1, 0).netns, &stop));
        let result = deadline::until("datagrams", SOON, || (recorder.count() > 20).then_some(()))
            .and_then(|()| {
                let two = &cluster.topology.nodes[1];
                let service = new(&cluster.topology).terminating(two, &two.pods[0]);
                let changed = Instant::now();
                cluster.publish(&[service])?;
                deadline::until("some time", SOON, || {
                    (changed.elapsed() > LIMIT + WATCH).then_some(())
                })?;
                let silence = recorder.last().map(|last| last.elapsed());
                ensure!(silence.is_some_and(|silence| silence < LIMIT), "silent for {silence:?}");
                Ok(())
            });
        stop.store(true, Ordering::Relaxed);
        for thread in [client, server] {
            match thread.join() {
                Ok(ended) => ended?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}
