//! Pins of another layout: refused with what would be lost, replaced without a
//! gap if that is accepted; flow tables of another size take their flows along, and
//! maps that become too small for the Services their rows, wherever an agent that
//! brings them over is killed.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, Map, MapData, MapInfo};
use lb_common::limits::{MAX_AFFINITY, MIN_BACKENDS, MIN_SERVICES};
use lb_common::{ABI_VERSION, names};
use lb_tests::agent::Agent;
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::process::binary;
use lb_tests::topology::{Topology, Wiring};
use lb_tests::traffic::{Kind, Load};
use lb_userspace::dataplane::MapSizes;
use serde_json::json;
use std::net::SocketAddr;
use std::process::Output;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);
/// Connections of each kind that stay open.
const OPEN: usize = 20;

fn web() -> Service {
    Service::new("web", 1).http(30080).udp(30053)
}

fn on_node_two(topology: &Topology) -> Vec<Service> {
    let two = &topology.nodes[1];
    vec![web().endpoint(two, &two.pods[0]).endpoint(two, &two.pods[1])]
}

/// `lb agent` on the first node, for one that does not start.
fn start(cluster: &Cluster, agent: &Agent, more: &[&str]) -> Result<Output> {
    let mut command = cluster.node(0).netns.command(&binary("lb")?);
    command.arg("agent").arg("--manifests").arg(cluster.manifests.path());
    command.arg("--pin-dir").arg(agent.pin_dir()).args(["--node-name", "n1", "--xdp", "off"]);
    command.args(more).output().context("start lb")
}

/// What the agent says when it does not start.
fn refusal(output: &Output) -> Result<String> {
    let text = String::from_utf8(output.stderr.clone())?;
    let last = text.lines().last().unwrap_or_default().to_owned();
    ensure!(output.status.code() == Some(1) && last.starts_with("lb: "), "{text}");
    Ok(last)
}

/// The number before a word.
fn number_before(text: &str, word: &str) -> Result<usize> {
    let (before, _) = text.split_once(word).with_context(|| format!("{word} in {text}"))?;
    let number = before.trim_end().rsplit([' ', '(']).next().unwrap_or_default();
    number.parse().with_context(|| format!("a number before {word} in {text}"))
}

/// What stays open, and which backend each has.
struct Streams {
    tcp: Vec<(Connection, String)>,
    udp: Vec<(Datagrams, String)>,
}

impl Streams {
    fn open(from: &Namespace, http: [SocketAddr; 2], udp: [SocketAddr; 2]) -> Result<Self> {
        from.run(|| {
            let mut streams = Self { tcp: Vec::new(), udp: Vec::new() };
            for index in 0..OPEN {
                let mut connection = Connection::open(http[index % 2])?;
                let backend = connection.get()?.backend;
                streams.tcp.push((connection, backend));
                let socket = Datagrams::open(udp[index % 2])?;
                let backend = socket.echo("hello")?.backend;
                streams.udp.push((socket, backend));
            }
            Ok(streams)
        })?
    }

    /// Each still has its backend.
    fn check(&mut self) -> Result<()> {
        for (connection, backend) in &mut self.tcp {
            let now = connection.get().context("an open connection")?.backend;
            ensure!(now == *backend, "a connection moved from {backend} to {now}");
        }
        for (socket, backend) in &self.udp {
            let now = socket.echo("again").context("a UDP flow")?.backend;
            ensure!(now == *backend, "a UDP flow moved from {backend} to {now}");
        }
        Ok(())
    }

    /// Checks again and again while something happens; how often.
    fn check_during(all: &mut [Self], work: impl FnOnce() -> Result<()>) -> Result<u64> {
        let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let checks = scope.spawn(|| -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    all.iter_mut().try_for_each(Self::check)?;
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let worked = work();
            // At least one more round after it.
            let end = rounds.load(Ordering::Relaxed) + 2;
            let settled = deadline::until("two more rounds", LIMIT, || {
                (checks.is_finished() || rounds.load(Ordering::Relaxed) >= end).then_some(())
            });
            stop.store(true, Ordering::Relaxed);
            match checks.join() {
                Ok(checked) => checked?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
            worked.and(settled)
        })?;
        Ok(rounds.into_inner())
    }
}

/// Long-lived traffic of a pod of the first node and of a client outside, whose
/// address is replaced on the way to the second node.
fn streams(cluster: &Cluster) -> Result<Vec<Streams>> {
    let node = cluster.node(0).addresses.both();
    let outside = [30080, 30053].map(|port| node.map(|address| (address, port).into()));
    Ok(vec![
        Streams::open(&cluster.pod(0, 0).netns, web().http_addresses(), web().udp_addresses())?,
        Streams::open(&cluster.topology.client, outside[0], outside[1])?,
    ])
}

fn room(agent: &Agent, map: &str) -> Result<u32> {
    Ok(MapInfo::from_pin(agent.pin_dir().join("maps").join(map))?.max_entries())
}

fn version(agent: &Agent) -> Result<Array<MapData, u64>> {
    let data = MapData::from_pin(agent.pin_dir().join("maps/LB_ABI"))?;
    Ok(Map::Array(data).try_into()?)
}

#[test]
fn another_layout_is_refused_and_replaced_on_demand_without_a_gap() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut clsact = Setup::tc(Wiring::Bridged);
    clsact.agent.tc = "clsact";
    for setup in [Setup::tc(Wiring::Routed), clsact] {
        let mut cluster = Cluster::new(setup, |topology| {
            let affinity = serde_json::json!({ "spec": { "sessionAffinity": "ClientIP" } });
            on_node_two(topology)
                .into_iter()
                .map(|service| service.with(affinity.clone()))
                .collect()
        })?;
        let mut agent = cluster.agents.remove(0);
        let mut streams = streams(&cluster)?;
        agent.terminate()?;
        version(&agent)?.set(0, u64::from(ABI_VERSION) - 1, 0)?;

        let told = refusal(&start(&cluster, &agent, &[])?)?;
        let versions = format!("version {} instead of {ABI_VERSION}", ABI_VERSION - 1);
        ensure!(told.contains(&versions) && told.contains("--replace-layout"), "{told}");
        // Two rows for what a pod sent, three for what came from outside.
        let flows = number_before(&told, " rows of flows")?;
        ensure!((10 * OPEN..=10 * OPEN + 20).contains(&flows), "{told}");
        ensure!(number_before(&told, " of session affinity")? == 8, "{told}");
        let misread = agent.services().err().context("another layout is misread")?.to_string();
        ensure!(misread.contains("have layout version"), "{misread}");
        streams.iter_mut().try_for_each(Streams::check).context("after the refusal")?;

        let node = cluster.node(0).addresses.both();
        let targets = [
            (&cluster.pod(0, 1).netns, Kind::Http, web().http_addresses()[1]),
            (&cluster.pod(0, 1).netns, Kind::Udp, web().udp_addresses()[0]),
            (&cluster.topology.client, Kind::Http, (node[0], 30080).into()),
        ];
        agent.set_more(&["--replace-layout"]);
        let ((), tally) = Load::run(&targets, |load| {
            let some = || {
                let goal = load.requests() + 200;
                deadline::until("requests to go on", LIMIT, || {
                    (load.requests() >= goal).then_some(())
                })
            };
            some()?;
            agent.run()?;
            agent.ready()?;
            some()
        })?;
        // What is under way when its flow is forgotten may fail, and nothing else.
        let (count, first) = (tally.failures.len(), tally.failures.first());
        ensure!(count <= 2 * targets.len(), "{tally}, the first: {first:?}");
        let refused = tally.failures.iter().find(|failure| failure.contains("refused"));
        ensure!(refused.is_none(), "{tally}: {refused:?}");
        ensure!(
            version(&agent)?.get(&0, 0)? == u64::from(ABI_VERSION),
            "the version is still the old one"
        );
        ensure!(!agent.pin_dir().join("next").exists(), "something is left");
        ensure!(agent.services()?.len() == 2, "{:?}", agent.services()?);
        // The flag does nothing where there is nothing to do.
        let mut fresh = self::streams(&cluster)?;
        agent.terminate()?;
        agent.run()?;
        agent.ready()?;
        fresh.iter_mut().try_for_each(Streams::check)?;
        agent.terminate()?;
        agent.cleanup()?;
        ensure!(!agent.pin_dir().exists(), "pins are left");
    }
    Ok(())
}

#[test]
fn flow_tables_of_another_size_take_their_flows_along() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), on_node_two)?;
    let mut agent = cluster.agents.remove(0);
    let mut streams = streams(&cluster)?;
    let defaults = MapSizes::for_this_machine();
    let sizes: [(&[&str], [u32; 2]); 3] = [
        (&["--flows-v4", "524288"], [524_288, defaults.flows_v6]),
        (&["--flows-v4", "262144", "--flows-v6", "100000"], [262_144, 100_000]),
        (&["--flows-v6", "262144"], [defaults.flows_v4, 262_144]),
    ];
    let node = cluster.node(0).addresses.both();
    let targets = [
        (&cluster.pod(0, 1).netns, Kind::Http, web().http_addresses()[1]),
        (&cluster.topology.client, Kind::Http, (node[0], 30080).into()),
    ];
    for (flags, expected) in sizes {
        agent.set_more(flags);
        let (rounds, tally) = Load::run(&targets, |_load| {
            Streams::check_during(&mut streams, || {
                agent.kill();
                agent.run()?;
                agent.ready()
            })
        })?;
        // A connection that begins while programs are replaced may fail.
        ensure!(tally.failures.len() <= 2 * targets.len(), "{tally}: {:?}", tally.failures.first());
        ensure!(rounds > 2, "{rounds} rounds");
        let rooms = [room(&agent, names::MAP_FLOWS_V4)?, room(&agent, names::MAP_FLOWS_V6)?];
        ensure!(rooms == expected, "{rooms:?} instead of {expected:?}");
        ensure!(!agent.pin_dir().join("next").exists(), "something is left");
    }
    // Killed anywhere on the way.
    for round in 0_u32..12 {
        agent.set_more(sizes[round as usize % sizes.len()].0);
        Streams::check_during(&mut streams, || {
            agent.run()?;
            // The moment is what varies.
            std::thread::sleep(Duration::from_millis(100) * round);
            agent.kill();
            Ok(())
        })
        .with_context(|| format!("killed after {} ms", 100 * round))?;
    }
    agent.set_more(sizes[2].0);
    Streams::check_during(&mut streams, || {
        agent.run()?;
        agent.ready()
    })?;

    // More rows than the smallest table has room for.
    let crowd: Vec<_> = cluster.pod(0, 1).netns.run(|| -> Result<Vec<Datagrams>> {
        let to = web().udp_addresses()[0];
        (0..600)
            .map(|_| {
                let socket = Datagrams::open(to)?;
                socket.echo("crowd")?;
                Ok(socket)
            })
            .collect()
    })??;
    agent.terminate()?;
    let told = refusal(&start(&cluster, &agent, &["--flows-v4", "1024"])?)?;
    ensure!(told.contains("--replace-layout") && told.contains("is to have 1024"), "{told}");
    ensure!(number_before(&told, " rows in use")? >= 1200, "{told}");
    streams.iter_mut().try_for_each(Streams::check)?;
    agent.set_more(&["--flows-v4", "1024", "--flows-v6", "1024", "--replace-layout"]);
    agent.run()?;
    agent.ready()?;
    ensure!(room(&agent, names::MAP_FLOWS_V4)? == 1024, "still the old size");
    drop(crowd);
    Ok(())
}

/// Services with three endpoints each that nobody has.
fn many(count: u32) -> String {
    let items = (0..count).flat_map(|number| {
        let [_, _, high, low] = number.to_be_bytes();
        let (name, address) = (format!("many-{number}"), format!("10.97.{high}.{low}"));
        let port = json!([{ "port": 80, "protocol": "TCP", "targetPort": 8080 }]);
        let ready = |n: u8| {
            let address = format!("10.{}.{high}.{low}", 128 + n);
            json!({ "addresses": [address], "conditions": { "ready": true } })
        };
        let labels = json!({ "kubernetes.io/service-name": name });
        [
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                "spec": { "clusterIP": address, "ports": port },
            }),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": { "name": name, "labels": labels }, "addressType": "IPv4",
                "ports": [{ "port": 8080, "protocol": "TCP" }],
                "endpoints": [ready(0), ready(1), ready(2)],
            }),
        ]
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>() }).to_string()
}

/// Connections that both Service ports have had in all.
fn connections(agent: &Agent) -> Result<Vec<u64>> {
    let services = agent.services()?;
    let web = services.iter().filter(|one| one["name"] == "web");
    web.map(|port| port["connections"].as_u64().context("no counters")).collect()
}

#[test]
fn maps_grow_with_the_services_and_nothing_in_them_is_lost() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(Setup::tc(Wiring::Routed), on_node_two)?;
    let mut agent = cluster.agents.remove(0);
    let mut streams = streams(&cluster)?;
    let rooms = |agent: &Agent| -> Result<[u32; 2]> {
        Ok([room(agent, names::MAP_SERVICES)?, room(agent, names::MAP_BACKEND_TRAFFIC)?])
    };
    ensure!(rooms(&agent)? == [MIN_SERVICES, MIN_BACKENDS], "{:?}", rooms(&agent)?);
    let all_in_force = |agent: &Agent, count: u32| -> Result<()> {
        deadline::until_ok("all Services in force", LIMIT * 3, || {
            let found = agent.services()?.len();
            ensure!(found == count as usize + 2, "{found} Service ports of {count} and two");
            Ok(())
        })
    };
    let targets = [(&cluster.pod(0, 1).netns, Kind::Http, web().http_addresses()[1])];
    let before = connections(&agent)?;
    let (rounds, tally) = Load::run(&targets, |_load| {
        Streams::check_during(&mut streams, || {
            cluster.manifests.write("many.json", &many(1_500))?;
            all_in_force(&agent, 1_500)
        })
    })?;
    ensure!(tally.failures.is_empty() && rounds > 2, "{tally}: {:?}", tally.failures.first());
    let grown = rooms(&agent)?;
    ensure!(grown[0] > 1_500 && grown[1] > 4_500, "{grown:?}");
    let after = connections(&agent)?;
    let fewer = before.iter().zip(&after).any(|(before, after)| after < before);
    ensure!(before.len() == 2 && !fewer, "the counters began anew: {before:?}, {after:?}");
    ensure!(!agent.pin_dir().join("next").exists(), "something is left");
    ensure!(agent.verify(&[])? == [""; 0]);

    // Killed anywhere on the way to still more.
    for round in 0_u32..6 {
        let count = 3_000 + 1_200 * round;
        agent.kill();
        cluster.manifests.write("many.json", &many(count))?;
        Streams::check_during(&mut streams, || {
            agent.run()?;
            // The moment is what varies.
            std::thread::sleep(Duration::from_millis(300) * round);
            agent.kill();
            agent.run()?;
            agent.ready()?;
            all_in_force(&agent, count)
        })
        .with_context(|| format!("killed after {} ms", 300 * round))?;
        ensure!(!agent.pin_dir().join("next").exists(), "something is left");
    }
    let affinity = json!({ "spec": { "sessionAffinity": "ClientIP" } });
    let sticky: Vec<Service> = on_node_two(&cluster.topology)
        .into_iter()
        .map(|service| service.with(affinity.clone()))
        .collect();
    Streams::check_during(&mut streams, || {
        cluster.publish(&sticky)?;
        deadline::until_ok("room for clients with affinity", LIMIT, || {
            let rows = room(&agent, names::MAP_AFFINITY_V4)?;
            ensure!(rows == MAX_AFFINITY, "{rows} rows");
            Ok(())
        })
    })?;
    Ok(())
}
