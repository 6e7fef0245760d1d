//! What the demo shows, from the first request to the last trace removed.

use crate::report::Report;
use anyhow::{Result, ensure};
use lb_tests::cluster::Cluster;
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::topology::{Addresses, Topology};
use lb_tests::traffic::{Kind, Load, Tally};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Requests of each protocol and family in most scenarios.
const REQUESTS: u64 = 25;

/// How often the endpoints change under load.
const CHANGES: usize = 40;

/// The Services: `web` on three pods, `near` and `far` on one pod each, as seen
/// from the first pod of the first node, and `none` without any.
pub(crate) fn services(topology: &Topology) -> [Service; 4] {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    let (near, far) = (&one.pods[1], &two.pods[0]);
    [
        Service::new("web", 10)
            .http(WEB.0)
            .udp(WEB.1)
            .endpoint(one, near)
            .endpoint(two, far)
            .endpoint(two, &two.pods[1]),
        Service::new("near", 11).http(0).udp(0).policy("random").endpoint(one, near),
        Service::new("far", 12).http(FAR.0).udp(FAR.1).endpoint(two, far),
        Service::new("none", 13).http(0).udp(0),
    ]
}

/// Node ports of `web` and `far`: HTTP, UDP.
const WEB: (u16, u16) = (30080, 30053);
const FAR: (u16, u16) = (30082, 30055);

/// Runs the scenarios up to, but without, the clean-up.
pub(crate) fn run(cluster: &mut Cluster, report: &mut Report) -> Result<()> {
    let [web, near, far, none] = services(&cluster.topology);
    let pods: Vec<&str> = vec!["pod-1b", "pod-2a", "pod-2b"];
    {
        let pod = cluster.pod(0, 0);
        let own = pod.addresses;
        report.scenario("pod -> ClusterIP, backend on the same node", || {
            let tally = cluster_ip(&pod.netns, &near)?;
            tally.expect(&["pod-1b"])?;
            client_kept(&tally, own)
        })?;
        report.scenario("pod -> ClusterIP, backend on the other node", || {
            let tally = cluster_ip(&pod.netns, &far)?;
            tally.expect(&["pod-2a"])?;
            client_kept(&tally, own)
        })?;
        report.scenario("pod -> ClusterIP, backends on both nodes", || {
            let tally = cluster_ip(&pod.netns, &web)?;
            tally.expect(&pods)?;
            client_kept(&tally, own)
        })?;
        report.scenario("pod -> ClusterIP -> the very same pod", || {
            let tally = cluster_ip(&cluster.pod(0, 1).netns, &near)?;
            tally.expect(&["pod-1b"])?;
            Ok(tally.to_string())
        })?;
        report
            .scenario("pod -> Service without endpoints: refused", || refused(&pod.netns, &none))?;
    }
    for (index, title) in [
        (1, "outside -> NodePort, node with the backend"),
        (0, "outside -> NodePort, node without a backend"),
    ] {
        report.scenario(title, || {
            let tally = node_port(cluster, index, FAR)?;
            tally.expect(&["pod-2a"])?;
            Ok(tally.to_string())
        })?;
    }
    report.scenario("outside -> NodePort, backends on both nodes", || {
        let tally = node_port(cluster, 0, WEB)?;
        tally.expect(&pods)?;
        Ok(tally.to_string())
    })?;
    report.scenario("manifests change under load", || changes(cluster, &web))?;
    report.scenario("agents end (SIGTERM): the kernel serves on", || {
        cluster.agents.iter_mut().try_for_each(lb_tests::agent::Agent::terminate)?;
        let tally = everywhere(cluster, &web, WEB)?;
        tally.expect(&pods)?;
        Ok(tally.to_string())
    })?;
    report.scenario("agents start again: they adopt what is there", || {
        for agent in &mut cluster.agents {
            agent.run()?;
            agent.ready()?;
        }
        let tally = everywhere(cluster, &web, WEB)?;
        tally.expect(&pods)?;
        Ok(tally.to_string())
    })?;
    if let Some(agent) = cluster.agents.first() {
        println!("\n$ lb services    (on {})", agent.node());
        print!("{}", agent.text("services")?);
    }
    println!();
    Ok(())
}

/// Removes everything, and looks whether it is gone.
pub(crate) fn cleanup(mut cluster: Cluster, report: &mut Report) -> Result<()> {
    report.scenario("lb cleanup: nothing stays", || {
        for agent in &mut cluster.agents {
            agent.terminate()?;
            agent.cleanup()?;
            ensure!(!agent.pin_dir().exists(), "{} is still there", agent.pin_dir().display());
        }
        let name = cluster.topology.client.name().to_owned();
        drop(cluster);
        let list = lb_tests::ip::output(&["netns", "list"])?;
        ensure!(!list.contains(&name), "the namespace {name} is still there");
        Ok("pins, programs and namespaces are gone".to_owned())
    })
}

/// Both protocols and both families to a Service's cluster addresses.
fn cluster_ip(from: &Namespace, service: &Service) -> Result<Tally> {
    each_way(from, service.addresses, Kind::port)
}

/// Both protocols and both families to a port of a node, from outside.
fn node_port(cluster: &Cluster, node: usize, ports: (u16, u16)) -> Result<Tally> {
    each_way(&cluster.topology.client, cluster.node(node).addresses, |kind| match kind {
        Kind::Http => ports.0,
        Kind::Udp => ports.1,
    })
}

fn each_way(from: &Namespace, to: Addresses, port: impl Fn(Kind) -> u16) -> Result<Tally> {
    let mut all = Tally::default();
    for (kind, address) in ways(to) {
        all.merge(Tally::of(from, kind, SocketAddr::new(address, port(kind)), REQUESTS)?);
    }
    Ok(all)
}

fn ways(to: Addresses) -> impl Iterator<Item = (Kind, IpAddr)> {
    Kind::ALL.into_iter().flat_map(move |kind| to.both().map(|address| (kind, address)))
}

fn everywhere(cluster: &Cluster, service: &Service, ports: (u16, u16)) -> Result<Tally> {
    let mut all = cluster_ip(&cluster.pod(0, 0).netns, service)?;
    all.merge(node_port(cluster, 0, ports)?);
    all.merge(node_port(cluster, 1, ports)?);
    Ok(all)
}

/// Backends must see the pod itself.
fn client_kept(tally: &Tally, client: Addresses) -> Result<String> {
    let own = client.both();
    for peer in &tally.peers {
        ensure!(own.contains(peer), "a backend saw {peer} instead of the pod's own address");
    }
    Ok(format!("{tally}; backends saw the pod's own address"))
}

fn refused(from: &Namespace, service: &Service) -> Result<String> {
    let begin = Instant::now();
    for (kind, address) in ways(service.addresses) {
        let to = SocketAddr::new(address, kind.port());
        match from.run(|| kind.ask(to))? {
            Ok(answer) => anyhow::bail!("{} answered {kind} to {to}", answer.backend),
            Err(error) => ensure!(
                error.kind() == std::io::ErrorKind::ConnectionRefused,
                "{kind} to {to}: {error} instead of a refusal"
            ),
        }
    }
    Ok(format!("4 refusals in {} ms", begin.elapsed().as_millis()))
}

/// Takes endpoints away and brings them back while requests run: none may
/// fail, and each change must be in force soon.
fn changes(cluster: &Cluster, web: &Service) -> Result<String> {
    let topology = &cluster.topology;
    let pod = &cluster.pod(0, 0).netns;
    let targets: Vec<_> = ways(web.addresses)
        .map(|(kind, address)| (pod, kind, SocketAddr::new(address, kind.port())))
        .collect();
    let to = SocketAddr::new(web.addresses.v4.into(), 80);
    let (slowest, tally) = Load::run(&targets, |_| {
        let mut slowest = Duration::ZERO;
        for round in 0..CHANGES {
            let node = cluster.node(1 - round % 2);
            let single = &node.pods[1];
            let mut services = services(topology);
            services[0] = Service::new("web", 10).http(WEB.0).udp(WEB.1).endpoint(node, single);
            let begin = Instant::now();
            cluster.publish(&services)?;
            deadline::until("the change in force", Duration::from_secs(2), || {
                let answer = pod.run(|| Kind::Http.ask(to)).ok()?.ok()?;
                (answer.backend == single.name).then_some(())
            })?;
            slowest = slowest.max(begin.elapsed());
        }
        Ok(slowest)
    })?;
    cluster.publish(&services(topology))?;
    let web_again = || cluster_ip(pod, web)?.expect(&["pod-1b", "pod-2a", "pod-2b"]);
    deadline::until_ok("all endpoints back", Duration::from_secs(2), web_again)?;
    ensure!(tally.failures.is_empty(), "{} failed: {}", tally.failures.len(), tally.failures[0]);
    Ok(format!(
        "{} requests over {CHANGES} changes, none failed; slowest change {} ms",
        tally.total(),
        slowest.as_millis()
    ))
}
