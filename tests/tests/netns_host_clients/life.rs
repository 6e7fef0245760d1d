//! The hooks outlive the agent, are replaced by the next one, and go away.

use crate::calls::{HTTP, echo_unconnected, udp_socket, web};
use anyhow::{Context as _, Result, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Load, Tally};
use lb_tests::{deadline, ip};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(5);

/// The links for sockets, by pin: id of the link and of its program.
fn links(pin_dir: &Path) -> Result<BTreeMap<String, (Value, Value)>> {
    let mut links = BTreeMap::new();
    for entry in std::fs::read_dir(pin_dir.join("links"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        if name.starts_with("cgroup-") {
            let path = path.to_str().context("a path")?;
            let link = ip::command("bpftool", &["-j", "link", "show", "pinned", path])?;
            let link: Value = serde_json::from_str(&link)?;
            links.insert(name, (link["id"].clone(), link["prog_id"].clone()));
        }
    }
    Ok(links)
}

#[test]
fn requests_go_on_while_the_agent_dies_and_starts_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let mut agent = cluster.agents.remove(0);
    let node = &cluster.node(0).netns;
    let before = links(agent.pin_dir())?;
    ensure!(before.len() == 9, "{before:?}");
    let connected = node.run(|| Datagrams::open(web().udp_addresses()[0]))??;
    let backend = connected.echo("first")?.backend;
    let mut open = node.run(|| Connection::open(web().http_addresses()[1]))??;
    let targets = [
        (node, Kind::Http, web().http_addresses()[0]),
        (node, Kind::Udp, web().udp_addresses()[1]),
        (node, Kind::Http, "[::1]:30080".parse()?),
    ];
    let ((), tally) = Load::run(&targets, |load| {
        let some_requests = || {
            let goal = load.requests() + 200;
            deadline::until("requests to go on", Duration::from_secs(20), || {
                (load.requests() >= goal).then_some(())
            })
        };
        some_requests()?;
        agent.kill();
        some_requests()?;
        agent.run()?;
        agent.ready()?;
        some_requests()
    })?;
    tally.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])?;
    open.get()?;
    let answer = connected.echo("last")?;
    ensure!(answer.backend == backend, "the socket moved to {}", answer.backend);
    let after = links(agent.pin_dir())?;
    for (pin, (link, program)) in &after {
        let (old_link, old_program) = &before[pin];
        ensure!(link == old_link && program != old_program, "{pin} was not replaced in place");
    }
    Ok(())
}

#[test]
fn a_socket_whose_backend_left_while_no_agent_ran_is_told_at_the_start() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![web().endpoint(two, &two.pods[0])]
    })?;
    let node = cluster.node(0).netns.name().to_owned();
    let sockets: Vec<_> = web()
        .udp_addresses()
        .into_iter()
        .map(|to| {
            let socket = cluster.node(0).netns.run(|| udp_socket(to, 0))??;
            socket.connect(to)?;
            socket.set_nonblocking(true)?;
            Ok((to, socket))
        })
        .collect::<Result<_>>()?;
    let mut agent = cluster.agents.remove(0);
    agent.kill();
    let one = cluster.node(0);
    cluster.publish(&[web().endpoint(one, &one.pods[1])])?;
    agent.run()?;
    agent.ready()?;
    for (to, socket) in &sockets {
        deadline::until("the socket to be told", LIMIT, || {
            let error = socket.recv(&mut [0; 64]).err()?;
            (error.kind() == ErrorKind::ConnectionAborted).then_some(())
        })?;
        // The same socket may be used again.
        socket.set_nonblocking(false)?;
        socket.connect(to)?;
        socket.send(b"again")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        let echo = String::from_utf8_lossy(&buffer[..length]);
        ensure!(echo.starts_with("pod-1b "), "{node}: {echo}");
    }
    Ok(())
}

#[test]
fn cleanup_and_off_end_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster =
        Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![web().endpoints(topology.pods())])?;
    let mut agent = cluster.agents.remove(0);
    let node = &cluster.node(0).netns;
    let text = agent.text("status")?;
    ensure!(text.contains("\nSockets    host, by /"), "{text}");
    let programs: Vec<String> =
        links(agent.pin_dir())?.values().map(|(_, program)| program.to_string()).collect();
    reaches(node)?;
    agent.terminate()?;
    agent.cleanup()?;
    ensure!(!reachable(node)?, "the loopback node port still answers");
    deadline::until("our programs to go", LIMIT, || {
        let loaded = ip::command("bpftool", &["prog"]).ok()?;
        let ours = |id: &String| loaded.lines().any(|line| line.starts_with(&format!("{id}:")));
        (!programs.iter().any(ours)).then_some(())
    })?;
    agent.run()?;
    agent.ready()?;
    reaches(node)?;
    // Another agent that is told not to do it takes the hooks of this one away.
    agent.terminate()?;
    agent.set_more(&["--socket-clients", "off"]);
    agent.run()?;
    agent.ready()?;
    ensure!(links(agent.pin_dir())?.is_empty());
    ensure!(!reachable(node)?, "the loopback node port still answers");
    let text = agent.text("status")?;
    ensure!(text.contains("\nSockets    off\n"), "{text}");
    Ok(())
}

fn reaches(node: &Namespace) -> Result<()> {
    for to in web().http_addresses() {
        Tally::of(node, Kind::Http, to, 8)?.expect(&["pod-1a", "pod-1b", "pod-2a", "pod-2b"])?;
    }
    let to: SocketAddr = "127.0.0.1:30053".parse()?;
    node.run(|| echo_unconnected(&udp_socket(to, 0)?, to))??;
    ensure!(reachable(node)?);
    Ok(())
}

fn reachable(node: &Namespace) -> Result<bool> {
    Ok(node.run(|| TcpStream::connect(("127.0.0.1", HTTP)))?.is_ok())
}
