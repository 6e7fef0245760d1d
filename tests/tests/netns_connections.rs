//! `lb connections` shows what is going on, the agent forgets what is over, and
//! names the Service that runs out of source ports.

use anyhow::{Context as _, Result, ensure};
use lb_common::flow::Stage;
use lb_common::{Flow, V4, V6};
use lb_tests::agent::{Agent, metric};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::{HTTP_TARGET, Service};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Wiring};
use lb_userspace::dataplane::maps::{FlowFamily, FlowRows, FlowTable};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than the agent waits between two sweeps.
const SWEPT: Duration = Duration::from_secs(20);

#[test]
fn ipv4_connections_are_listed_filtered_and_forgotten() -> Result<()> {
    connections::<V4>()
}

#[test]
fn ipv6_connections_are_listed_filtered_and_forgotten() -> Result<()> {
    connections::<V6>()
}

fn connections<A: FlowFamily>() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        vec![
            Service::new("web", 1).http(30080).udp(0).endpoint(two, &two.pods[0]),
            Service::new("other", 2).http(0).endpoint(two, &two.pods[1]),
        ]
    })?;
    let mut agent = cluster.agents.remove(0);
    let of = |addresses: Addresses| addresses.both()[A::FAMILY];
    let (node, backend) = (of(cluster.node(0).addresses), of(cluster.pod(1, 0).addresses));
    let (pod, client) = (&cluster.pod(0, 0).netns, &cluster.topology.client);
    let [web, other] = [1, 2].map(|number| Service::new("", number));
    let front = web.http_addresses()[A::FAMILY];
    let target = SocketAddr::new(backend, HTTP_TARGET);

    let inside = open(pod, front)?;
    let outside = open(client, (node, 30080).into())?;
    let _beside = open(pod, other.http_addresses()[A::FAMILY])?;
    let _direct = open(pod, target)?;
    let datagrams = pod.run(|| Datagrams::open(web.udp_addresses()[A::FAMILY]))??;
    datagrams.echo("hello")?;

    shows(&agent, &inside, front, target)?;
    let listed = find(&agent, &outside)?;
    let source: SocketAddr = listed["source"].as_str().context("no source")?.parse()?;
    ensure!(source.ip() == node && listed["backend"] == *target.to_string(), "{listed:#}");
    let client = of(cluster.topology.client_addresses).to_string();
    filters(&agent, A::FAMILY, target, &client)?;
    let text = agent.text("connections")?;
    ensure!(text.contains("default/web:http") && text.contains("OPEN"), "{text}");

    // Closed, and forgotten once its port has rested.
    let ended = inside.local()?;
    inside.reset()?;
    let closed = ["--state", "closed"];
    deadline::until_ok("the end to be seen", Duration::from_secs(2), || {
        ensure!(agent.connections(&closed)?.len() == 1);
        Ok(())
    })?;
    age::<A>(agent.pin_dir(), |flow| flow.stage() == Stage::Closed)?;
    deadline::until_ok("the agent to forget it", SWEPT, || {
        ensure!(agent.connections(&closed)?.is_empty());
        Ok(())
    })?;
    let netns = &cluster.node(0).netns;
    let label = format!("family=\"{}\",proto=\"UDP\",state=\"active\"", A::NAME);
    let flows = format!("lb_flows{{{label}}}");
    // The rows go while the agent walks through the table, the numbers come after.
    deadline::until_ok("the numbers of the walk", SWEPT, || {
        ensure!(metric(netns, "lb_flows_expired_total{reason=\"closed\"}")? == 1);
        ensure!(metric(netns, "lb_flows_expired_total{reason=\"idle\"}")? == 0);
        ensure!(metric(netns, &flows)? == 1);
        Ok(())
    })?;
    // The client's port is free again.
    let again = pod.run(|| Connection::open_from(ended.port(), front)?.get())??;
    ensure!(again.backend == "pod-2a");

    // The list needs no agent.
    agent.terminate()?;
    ensure!(find(&agent, &outside)?["service"] == "web");
    Ok(())
}

fn open(from: &Namespace, to: SocketAddr) -> Result<Connection> {
    let mut connection = from.run(|| Connection::open(to))??;
    connection.get()?;
    Ok(connection)
}

/// The line of a connection.
fn find(agent: &Agent, connection: &Connection) -> Result<Value> {
    let client = connection.local()?.to_string();
    let listed = agent.connections(&[])?;
    let mut lines = listed.iter().filter(|line| line["client"] == *client);
    let line = lines.next().with_context(|| format!("{client} is missing in {listed:#?}"))?;
    ensure!(lines.next().is_none(), "{client} is there twice: {listed:#?}");
    Ok(line.clone())
}

fn shows(
    agent: &Agent,
    connection: &Connection,
    front: SocketAddr,
    target: SocketAddr,
) -> Result<()> {
    let line = find(agent, connection)?;
    for (field, value) in [
        ("protocol", "TCP"),
        ("state", "open"),
        ("frontend", &front.to_string()),
        ("backend", &target.to_string()),
        ("namespace", "default"),
        ("service", "web"),
        ("port_name", "http"),
    ] {
        ensure!(line[field] == *value, "{field} is not {value} in {line:#}");
    }
    ensure!(line["source"].is_null(), "a pod keeps its address: {line:#}");
    ensure!(line["expires_seconds"].as_u64() > Some(86_000), "{line:#}");
    Ok(())
}

fn filters(agent: &Agent, family: usize, target: SocketAddr, client: &str) -> Result<()> {
    let pods = ["10.244.0.0/16", "fd00:10:244::/48"][family];
    for (arguments, count) in [
        (&["--service", "web"] as &[&str], 3),
        (&["--service", "default/web:http"], 2),
        (&["--service", "web:53", "--state", "active"], 1),
        (&["--service", "elsewhere/web"], 0),
        (&["-n", "default"], 4),
        (&["-n", "kube-system"], 0),
        (&["--backend", &target.to_string()], 2),
        (&["--backend", &target.ip().to_string()], 3),
        (&["--client", client], 1),
        (&["--client", pods, "--protocol", "tcp"], 2),
        (&["--client", pods, "--protocol", "tcp", "--all"], 3),
        (&["--state", "closed"], 0),
        (&["--limit", "2"], 2),
    ] {
        let listed = agent.connections(arguments)?;
        ensure!(listed.len() == count, "{arguments:?}: {count} expected in {listed:#?}");
    }
    let counted = agent.connections(&["--count", "--protocol", "tcp"])?;
    let totals: Vec<_> = counted.iter().map(|line| (&line["service"], &line["open"])).collect();
    let expected = [("default/other:http", 1), ("default/web:http", 2)];
    ensure!(totals.len() == expected.len(), "{counted:#?}");
    for ((service, open), (name, number)) in totals.into_iter().zip(expected) {
        ensure!(service == name && open == number, "{counted:#?}");
    }
    Ok(())
}

/// Makes flows as old as the machine.
fn age<A: FlowFamily>(pin_dir: &Path, which: impl Fn(&Flow<A>) -> bool) -> Result<()> {
    let (mut table, mut walk) = (FlowTable::<A>::open(pin_dir)?, FlowRows::new());
    while table.read(&mut walk)? {
        for (key, flow) in walk.rows().filter(|(_, flow)| which(flow)) {
            table.insert(key, &Flow { last_used: 0, ..*flow })?;
        }
    }
    Ok(())
}

/// Longer than it takes an exchange of datagrams to be one that lasts.
const LASTS: Duration = Duration::from_millis(2500);

#[test]
fn the_service_that_runs_out_of_source_ports_is_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut setup = Setup::tc(Wiring::Routed);
    setup.agent.more = &["--snat-ports", "50000-50003"];
    let cluster = Cluster::new(setup, |topology| {
        let two = &topology.nodes[1];
        let service = |name, number| Service::new(name, number).endpoint(two, &two.pods[0]);
        vec![service("busy", 1).udp(30053), service("calm", 2).udp(30054)]
    })?;
    let (agent, node) = (&cluster.agents[0], &cluster.node(0));
    let to = SocketAddr::from((node.addresses.v4, 30053));
    let open = || -> Result<Datagrams> {
        let socket = cluster.topology.client.run(|| Datagrams::open(to))??;
        socket.patience(Duration::from_millis(300))?;
        Ok(socket)
    };
    let lasting: Vec<Datagrams> = (0..4).map(|_| open()).collect::<Result<_>>()?;
    // Who has not gone on for a second may lose its port to the next.
    let begin = Instant::now();
    while begin.elapsed() < LASTS {
        for socket in &lasting {
            let _ = socket.echo("hello");
        }
    }
    for socket in &lasting {
        socket.echo("hello").context("a client that has lasted")?;
    }
    for _ in 0..3 {
        ensure!(open()?.echo("hello").is_err(), "answered where all ports are taken");
    }
    let dropped = |name: &str| {
        let services = agent.services()?;
        let service = services.iter().find(|service| service["name"] == name);
        service.context("the Service is missing")?["packets_dropped_no_port"]
            .as_u64()
            .context("no such field")
    };
    ensure!((dropped("busy")?, dropped("calm")?) == (3, 0));
    let status = agent.status()?;
    ensure!(status["no_port"].as_array().map(Vec::len) == Some(1), "{status:#}");
    ensure!(status["no_port"][0]["service"] == "default/busy:dns", "{status:#}");
    let labels = "namespace=\"default\",service=\"busy\",port_name=\"dns\",protocol=\"UDP\"";
    let sample = format!("lb_service_packets_dropped_total{{{labels},reason=\"no_port\"}}");
    ensure!(metric(&node.netns, &sample)? == 3);
    deadline::until_ok("the log to name the Service", SWEPT, || {
        let log = std::fs::read_to_string(agent.log())?;
        ensure!(log.contains("Service default/busy:dns (UDP): 3 packets dropped"), "{log}");
        Ok(())
    })
}
