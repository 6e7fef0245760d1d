//! Beside CNIs: the same traffic over the links, routes and rules of each.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::cni::{CALICO, FLANNEL, KINDNET, VPC};
use lb_tests::manifest::{HTTP_TARGET, Service, UDP_TARGET};
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::server::{pattern, sum};
use lb_tests::topology::{Addresses, Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

const REQUESTS: u64 = 4;
const BYTES: usize = 1 << 20;
/// Node ports of HTTP and of the echo: a backend on the first node, on the second.
const NEAR: (u16, u16) = (30_080, 30_053);
const FAR: (u16, u16) = (30_081, 30_054);

/// What a node's interfaces have to be taken for.
type Roles = &'static [(&'static str, &'static str)];

#[test]
fn beside_kindnet() -> Result<()> {
    let roles: Roles = &[("eth0", "uplink"), ("veth11", "pod"), ("veth12", "pod")];
    beside(Setup::tc(Wiring::Like(&KINDNET)), roles)
}

#[test]
fn beside_flannel() -> Result<()> {
    let roles: Roles =
        &[("eth0", "uplink"), ("flannel.1", "tunnel"), ("veth11", "pod"), ("veth12", "pod")];
    beside(Setup::tc(Wiring::Like(&FLANNEL)), roles)
}

const CALICO_ROLES: Roles = &[("cali11", "pod"), ("cali12", "pod"), ("eth0", "uplink")];

#[test]
fn beside_calico() -> Result<()> {
    beside(Setup::tc(Wiring::Like(&CALICO)), CALICO_ROLES)
}

#[test]
fn beside_calico_with_xdp() -> Result<()> {
    beside(Setup::xdp(Wiring::Like(&CALICO), "native"), CALICO_ROLES)
}

const VPC_ROLES: Roles =
    &[("eni11", "pod"), ("eni12", "pod"), ("eth0", "uplink"), ("eth1", "uplink")];

/// A network card needs no flag; the test's are veths.
fn vpc(setup: Setup) -> Result<()> {
    let mut setup = setup;
    setup.agent.more = &["--uplink", "eth1"];
    beside(setup, VPC_ROLES)
}

#[test]
fn beside_the_aws_vpc_cni() -> Result<()> {
    vpc(Setup::tc(Wiring::Like(&VPC)))
}

#[test]
fn beside_the_aws_vpc_cni_with_xdp() -> Result<()> {
    vpc(Setup::xdp(Wiring::Like(&VPC), "native"))
}

fn services(topology: &Topology) -> Vec<Service> {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    vec![
        Service::new("near", 1).http(NEAR.0).udp(NEAR.1).endpoint(one, &one.pods[1]),
        Service::new("far", 2).http(FAR.0).udp(FAR.1).endpoint(two, &two.pods[0]),
    ]
}

/// Where a Service is, by the ports of HTTP and of the echo, and who answers there.
#[derive(Clone, Copy)]
struct Place {
    at: Addresses,
    ports: (u16, u16),
    backend: &'static str,
}

/// A client, and where it asks.
struct Way<'a> {
    name: &'static str,
    from: &'a Namespace,
    to: Place,
    /// As whom the backend sees the client, if that is to be its own address.
    seen_as: Option<Addresses>,
    /// Of datagrams.
    lengths: &'static [usize],
}

impl Way<'_> {
    fn keeps(self, address: Addresses) -> Self {
        Self { seen_as: Some(address), ..self }
    }

    /// Without fragments. Where `br_netfilter` puts together what a pod has cut, Linux
    /// forgets how small the pieces were, and cuts anew by a larger MTU.
    fn with_small_datagrams(self) -> Self {
        Self { lengths: &[1, 1200], ..self }
    }
}

/// Every way to a Service.
fn ways(cluster: &Cluster) -> Vec<Way<'_>> {
    let topology = &cluster.topology;
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    let (pod, backend) = (&one.pods[0], &one.pods[1]);
    let (client, outside) = (&topology.client, topology.client_addresses);
    let [near, far] = [(1, "pod-1b"), (2, "pod-2a")].map(|(number, backend)| Place {
        at: Service::new("", number).addresses,
        ports: (80, 53),
        backend,
    });
    let near_port = Place { at: one.addresses, ports: NEAR, ..near };
    let far_port = Place { at: one.addresses, ports: FAR, ..far };
    let with_backend = Place { at: two.addresses, ..far_port };
    // A byte, a full frame, fragments.
    let lengths = &[1, 1420, 4000, 20_000];
    let way = |name, from, to| Way { name, from, to, seen_as: None, lengths };
    vec![
        way("pod to a pod of its node", &pod.netns, near).keeps(pod.addresses),
        way("pod to a pod of another node", &pod.netns, far).keeps(pod.addresses),
        way("pod to itself", &backend.netns, near),
        way("node to its pod", &one.netns, near),
        way("node to a pod of another", &one.netns, far),
        way("outside to the node's pod", client, near_port).keeps(outside),
        way("outside to a node without a backend", client, far_port),
        way("outside to the one with the backend", client, with_backend).keeps(outside),
        way("pod to another node's port", &pod.netns, with_backend).with_small_datagrams(),
    ]
}

fn beside(setup: Setup, roles: Roles) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::new(setup, services)?;
    let outside = cluster.topology.client_addresses;
    cluster.serve_in(|topology| &topology.client, "outside", outside)?;
    interfaces(&cluster, roles)?;
    for way in ways(&cluster) {
        way.check().with_context(|| way.name)?;
    }
    past_services(&cluster)?;
    for agent in &cluster.agents {
        let differences = agent.verify(&[])?;
        ensure!(differences.is_empty(), "{differences:?}");
    }
    Ok(())
}

/// Each interface is taken for what it is.
fn interfaces(cluster: &Cluster, roles: Roles) -> Result<()> {
    for agent in &cluster.agents {
        let status = agent.status()?;
        let hooks = status["hooks"].as_array().context("no hooks")?;
        let pair = |hook: &serde_json::Value| {
            let text = |name: &str| hook[name].as_str().unwrap_or_default().to_owned();
            (text("interface"), text("role"))
        };
        let found: BTreeMap<_, _> =
            hooks.iter().filter(|hook| hook["hook"] == "ingress").map(pair).collect();
        let expected = roles.iter().map(|(name, role)| ((*name).to_owned(), (*role).to_owned()));
        ensure!(found == expected.collect(), "{found:?}");
    }
    Ok(())
}

impl Way<'_> {
    fn check(&self) -> Result<()> {
        for address in self.to.at.both() {
            let (http, udp) = self.to.ports;
            for (kind, port) in [(Kind::Http, http), (Kind::Udp, udp)] {
                let to = (address, port).into();
                let tally = Tally::of(self.from, kind, to, REQUESTS)?;
                tally.expect(&[self.to.backend]).with_context(|| format!("{kind} to {to}"))?;
                if let Some(own) = self.seen_as.map(|own| own.like(address)) {
                    ensure!(tally.peers == [own].into(), "{kind} to {to}: {:?}", tally.peers);
                }
            }
            let to = (address, http).into();
            bulk(self.from, to).with_context(|| format!("{BYTES} bytes to and from {to}"))?;
            let to = (address, udp).into();
            datagrams(self.from, to, self.lengths).with_context(|| format!("datagrams to {to}"))?;
        }
        Ok(())
    }
}

/// What is large meets the MTU of each interface, and is cut where it should be.
fn bulk(netns: &Namespace, to: SocketAddr) -> Result<()> {
    let body = pattern(BYTES);
    let mut connection = netns.run(|| Connection::open(to))??;
    let answer = connection.exchange("POST", &format!("/bytes/{BYTES}"), &body)?;
    ensure!(answer.header("x-sum") == Some(&sum(&body).to_string()), "sent bytes were changed");
    ensure!(answer.body == body, "received bytes were changed");
    Ok(())
}

/// Of a byte, of a full frame, and in fragments.
fn datagrams(netns: &Namespace, to: SocketAddr, lengths: &[usize]) -> Result<()> {
    let socket = netns.run(|| Datagrams::open(to))??;
    for &length in lengths {
        let payload = "x".repeat(length);
        let echo = match socket.echo(&payload) {
            // The path has told its MTU, which is smaller than the client's.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => socket.echo(&payload),
            echo => echo,
        };
        echo.with_context(|| format!("{length} bytes"))?;
    }
    Ok(())
}

/// What is for no Service is the CNI's business alone: pods know each other by
/// their own addresses, and its NAT gives them the node's outside.
fn past_services(cluster: &Cluster) -> Result<()> {
    let topology = &cluster.topology;
    let (pod, other) = (cluster.pod(0, 0), cluster.pod(1, 0));
    for (kind, port) in [(Kind::Http, HTTP_TARGET), (Kind::Udp, UDP_TARGET)] {
        for address in other.addresses.both() {
            let tally = Tally::of(&pod.netns, kind, (address, port).into(), REQUESTS)?;
            tally.expect(&["pod-2a"])?;
            let own = pod.addresses.like(address);
            ensure!(tally.peers == [own].into(), "pod to pod: {:?}", tally.peers);
        }
        let address = IpAddr::from(topology.client_addresses.v4);
        let tally = Tally::of(&pod.netns, kind, (address, port).into(), REQUESTS)?;
        tally.expect(&["outside"]).context("pod to the outside")?;
        let node = cluster.node(0).addresses.like(address);
        ensure!(tally.peers == [node].into(), "pod to the outside: {:?}", tally.peers);
    }
    Ok(())
}
