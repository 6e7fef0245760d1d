//! `--skip-stack`: answered flows pass a node's stack by, what
//! the stack's rules stop stays stopped, and the option comes and goes under
//! open connections.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Options, metric};
use lb_tests::client::{self, Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::server;
use lb_tests::topology::Wiring;
use std::net::SocketAddr;

const SKIP: &[&str] = &["--skip-stack"];
const REQUESTS: u64 = 200;
/// Packets of this many connections' first moments, and of neighbours looking for
/// each other.
const FIRST: u64 = 40;

fn cluster() -> Result<Cluster> {
    let tc = Setup::tc(Wiring::Routed);
    let setup = Setup { agent: Options { more: SKIP, ..tc.agent }, ..tc };
    Cluster::new(setup, |topology| {
        let one = &topology.nodes[0];
        vec![Service::new("web", 1).http(30080).udp(30053).endpoint(one, &one.pods[0])]
    })
}

/// What the node's stack has forwarded, of both families.
fn forwarded(node: &Namespace) -> Result<u64> {
    let read = |name: &str| -> Result<String> {
        let path = format!("/proc/thread-self/net/{name}");
        node.run(|| std::fs::read_to_string(&path))?.with_context(|| format!("read {path}"))
    };
    let v4 = read("snmp")?;
    let mut ip = v4.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, values) = ip.next().zip(ip.next()).context("no IPv4 counters")?;
    let mut fields = names.split_whitespace().zip(values.split_whitespace());
    let (_, v4) = fields.find(|(name, _)| *name == "ForwDatagrams").context("no ForwDatagrams")?;
    let v6 = read("snmp6")?;
    let line = v6.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"));
    let v6 = line.context("no Ip6OutForwDatagrams")?;
    Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
}

struct Open {
    connections: Vec<Connection>,
    datagrams: Vec<Datagrams>,
}

impl Open {
    fn new(from: &Namespace, http: &[SocketAddr], udp: &[SocketAddr]) -> Result<Self> {
        from.run(|| {
            let connections = http.iter().map(|to| Connection::open(*to)).collect::<Result<_, _>>();
            let datagrams = udp.iter().map(|to| Datagrams::open(*to)).collect::<Result<_, _>>();
            Ok(Self { connections: connections?, datagrams: datagrams? })
        })?
    }

    /// Asks on all of them; every answer must come, and be whole.
    fn ask(&mut self) -> Result<()> {
        for _ in 0..REQUESTS {
            for connection in &mut self.connections {
                connection.get().context("an open connection")?;
            }
            for datagrams in &self.datagrams {
                datagrams.echo("hello").context("a flow of datagrams")?;
            }
        }
        // Bodies of many segments, which are offloaded ones here, both ways.
        let body = server::pattern(1 << 20);
        for connection in &mut self.connections {
            let answer = connection.exchange("POST", "/bytes/1048576", &body)?;
            let sum = answer.header("x-sum").context("no sum of what was sent")?;
            ensure!(sum == server::sum(&body).to_string() && answer.body == body, "spoilt bodies");
        }
        Ok(())
    }

    /// Likewise; how many packets the node's stack has forwarded for it.
    fn ask_through(&mut self, node: &Namespace) -> Result<u64> {
        let before = forwarded(node)?;
        self.ask()?;
        Ok(forwarded(node)? - before)
    }
}

#[test]
fn answered_flows_pass_the_stack_by_and_the_option_may_change_under_them() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = cluster()?;
    let agent = &mut cluster.agents[0];
    let topology = &cluster.topology;
    let node = &topology.nodes[0].netns;
    let web = Service::new("web", 1).http(30080).udp(30053);
    let mut open =
        Open::new(&topology.nodes[0].pods[1].netns, &web.http_addresses(), &web.udp_addresses())?;
    let past = open.ask_through(node)?;
    ensure!(past < FIRST, "the stack has forwarded {past} packets");

    // Everybody's packets are counted all the same.
    let label = "namespace=\"default\",service=\"web\",port_name=\"http\",protocol=\"TCP\"";
    let packets = metric(node, &format!("lb_service_packets_total{{{label},direction=\"in\"}}"))?;
    ensure!(packets >= 2 * REQUESTS, "{packets} packets from clients were counted");

    agent.set_more(&[]);
    agent.take_over()?;
    let through = open.ask_through(node)?;
    ensure!(through > 4 * REQUESTS, "the stack has forwarded {through} packets only");
    agent.set_more(SKIP);
    agent.take_over()?;
    let past = open.ask_through(node)?;
    ensure!(past < FIRST, "the stack has forwarded {past} packets");
    Ok(())
}

/// A client beyond an uplink, and a pod of the other node: what enters or leaves by
/// uplinks passes the stack by as well.
#[test]
fn flows_that_leave_the_node_pass_the_stack_by_too() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster()?;
    let Cluster { topology, .. } = &cluster;
    let web = Service::new("web", 1).http(30080).udp(30053);
    let outside = topology.nodes[0].addresses.both();
    let [http, udp] = [30080, 30053].map(|port| outside.map(|to| SocketAddr::new(to, port)));
    // From outside to a pod of the first node; from the second node to it.
    let ways = [
        (0, &topology.client, http, udp),
        (1, &topology.nodes[1].pods[0].netns, web.http_addresses(), web.udp_addresses()),
    ];
    for (node, client, http, udp) in ways {
        let node = &topology.nodes[node].netns;
        let mut open = Open::new(client, &http, &udp)?;
        let past = open.ask_through(node)?;
        ensure!(past < FIRST, "the stack has forwarded {past} packets");
    }
    Ok(())
}

/// The first packet of a flow passes the stack's rules; a route that stops it stands
/// for them here.
#[test]
fn what_the_stack_does_not_let_through_stays_out() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster()?;
    let (node, pod) = (&cluster.node(0).netns, cluster.pod(0, 0));
    let web = Service::new("web", 1).http(30080);
    let [v4, _] = web.http_addresses();
    let from = &cluster.pod(0, 1).netns;
    from.run(|| client::get(v4))??;
    node.ip(&[format!("rule add to {} prohibit", pod.addresses.v4)])?;
    let refused = from.run(|| client::get(v4))?;
    ensure!(refused.is_err(), "{refused:?}");
    Ok(())
}
