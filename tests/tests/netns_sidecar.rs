//! Service meshes: a proxy in the pod's own namespace, to which rules redirect what
//! the pod sends and what it gets, as Istio's do. It has to find the Service as what
//! its client has dialled, and the pod's own address as what was meant for the pod.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Options;
use lb_tests::client::get;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::{HTTP_TARGET, Service};
use lb_tests::netfilter;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Topology, Wiring};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// The user that Istio's proxy runs as.
const PROXY: u32 = 1337;
const OUTBOUND: u16 = 15_001;
const INBOUND: u16 = 15_006;
const LIMIT: Duration = Duration::from_secs(5);

/// What the pod sends, but for the proxy, and what comes for its port.
const REDIRECT: &str = "*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ISTIO_INBOUND - [0:0]
:ISTIO_IN_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
:ISTIO_REDIRECT - [0:0]
-A PREROUTING -p tcp -j ISTIO_INBOUND
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_INBOUND -p tcp --dport 8080 -j ISTIO_IN_REDIRECT
-A ISTIO_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15006
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo -j RETURN
-A ISTIO_OUTPUT -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";

/// What a proxy was asked for, and by whom.
struct Seen {
    from: SocketAddr,
    to: SocketAddr,
}

/// Proxies of both directions and families in a pod, with the rules that lead to
/// them. They end with the test.
fn sidecar(pod: &Namespace) -> Result<Receiver<Seen>> {
    let (seen, told) = channel();
    pod.run(|| -> Result<()> {
        for any in [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            for port in [OUTBOUND, INBOUND] {
                let listener = listen((any, port).into()).context("listen")?;
                let seen = seen.clone();
                std::thread::spawn(move || serve(&listener, &seen));
            }
        }
        Ok(())
    })??;
    netfilter::iptables(pod, REDIRECT)?;
    netfilter::ip6tables(pod, REDIRECT)?;
    Ok(told)
}

fn listen(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if at.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(16)?;
    Ok(socket)
}

fn serve(listener: &Socket, seen: &Sender<Seen>) {
    // Sockets belong to whom their thread acts for in file systems: this thread's
    // are the proxy's.
    // SAFETY: the call changes nothing but that, and never fails.
    unsafe { libc::setfsuid(PROXY) };
    while let Ok((client, from)) = listener.accept() {
        // The client fails, and with it the test.
        let _failed = relay(client, from.as_socket(), seen);
    }
}

/// Asks the kernel what was dialled, dials it, and moves a request and its answer.
fn relay(client: Socket, from: Option<SocketAddr>, seen: &Sender<Seen>) -> io::Result<()> {
    let from = from.ok_or(io::ErrorKind::InvalidData)?;
    let dialled = if from.is_ipv4() { client.original_dst_v4() } else { client.original_dst_v6() };
    let to = dialled?.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    // Nobody listens any more when the test is over.
    let _over = seen.send(Seen { from, to });
    let client = TcpStream::from(client);
    let server = TcpStream::connect_timeout(&to, LIMIT)?;
    let (mut up, mut down) = ((client.try_clone()?, server.try_clone()?), (server, client));
    std::thread::spawn(move || {
        let _moved = io::copy(&mut up.0, &mut up.1);
        let _closed = up.1.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        let _moved = io::copy(&mut down.0, &mut down.1);
        let _closed = down.1.shutdown(Shutdown::Write);
    });
    Ok(())
}

fn cluster(number: u8, more: &'static [&'static str]) -> Result<Cluster> {
    let tc = Setup::tc(Wiring::Routed);
    let setup = Setup { agent: Options { more, ..tc.agent }, ..tc };
    Cluster::new(setup, |topology: &Topology| {
        let two = &topology.nodes[1];
        vec![Service::new("web", number).http(0).endpoint(two, &two.pods[0])]
    })
}

#[test]
fn a_sidecar_finds_the_service_that_was_dialled_and_the_pod_that_was_meant() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster(1, &[])?;
    let (client, backend) = (cluster.pod(0, 0), cluster.pod(1, 0));
    let (ours, theirs) = (sidecar(&client.netns)?, sidecar(&backend.netns)?);
    for to in Service::new("", 1).http_addresses() {
        let answer = client.netns.run(|| get(to))?.with_context(|| format!("to {to}"))?;
        ensure!(answer.backend == "pod-2a", "{answer:?}");
        let outbound = ours.recv_timeout(LIMIT).context("the client's proxy")?;
        ensure!(outbound.to == to, "the client's proxy was asked for {}", outbound.to);
        let inbound = theirs.recv_timeout(LIMIT).context("the backend's proxy")?;
        let own = SocketAddr::new(backend.addresses.like(to.ip()), HTTP_TARGET);
        ensure!(inbound.to == own, "the backend's proxy was asked for {}", inbound.to);
        let from = client.addresses.like(to.ip());
        ensure!(inbound.from.ip() == from, "the backend's proxy was asked by {}", inbound.from);
    }
    Ok(())
}

/// Why `--socket-clients all` does not go with meshes.
#[test]
fn calls_that_are_translated_in_pods_hide_the_service_from_a_sidecar() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    // A Service that no other test has: these agents serve all sockets of the machine.
    let cluster = cluster(245, &["--socket-clients", "all"])?;
    let client = cluster.pod(0, 0);
    let proxy = sidecar(&client.netns)?;
    for to in Service::new("", 245).http_addresses() {
        let answer = client.netns.run(|| get(to))?.with_context(|| format!("to {to}"))?;
        ensure!(answer.backend == "pod-2a", "{answer:?}");
        let asked = proxy.recv_timeout(LIMIT).context("the proxy")?.to;
        let backend = cluster.pod(1, 0).addresses.like(to.ip());
        ensure!(asked == SocketAddr::new(backend, HTTP_TARGET), "the proxy was asked for {asked}");
    }
    Ok(())
}
