//! A node with one interface, its uplink, and at the other end of that everybody else:
//! the clients, the router and the node with the backends are one generator and one
//! sink.
//!
//! ```text
//! generator -- uplink ====== eth0 -- node 192.0.2.1:30053
//!      sink -- uplink ====== eth0 -- to 10.244.2.0/24, by 192.0.2.2
//! ```

use super::way::{Kind, Stage};
use anyhow::{Context as _, Result, bail, ensure};
use lb_tests::agent::{Agent, Options};
use lb_tests::kube_proxy::{self, Port, Service};
use lb_tests::live::{Generator, Role, Seen, Sink};
use lb_tests::manifest::{self, Directory};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::packet::{Layer4, Macs, checksum_fault, parse};
use lb_tests::topology::Addresses;
use lb_tests::{deadline, link, process};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_PORT: u16 = 30_053;
const TARGET: u16 = 5353;
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BACKENDS: u8 = 10;
/// Where backends are: the first three bytes of their addresses.
const NETWORK: [u8; 3] = [10, 244, 2];

/// Frames of which every byte is looked at; as many as a socket has room for.
const LOOKED_AT: u32 = 32;
/// How long frames may be under way.
const LIMIT: Duration = Duration::from_secs(5);

/// A node with what is in force on it, and who sends to it.
#[derive(Debug)]
pub(crate) struct Bed {
    stage: Stage,
    generators: Vec<(Kind, Generator)>,
    sink: Sink,
    _agent: Option<Agent>,
    _manifests: Directory,
    outside: Namespace,
    node: Namespace,
}

impl Bed {
    /// Makes one, with so many Services; the last has the node port.
    pub(crate) fn new(stage: Stage, services: u32) -> Result<Self> {
        let [outside, node] = ["outside", "node"].map(|name| Namespace::new(Naming::Unique, name));
        let (outside, node) = (outside?, node?);
        connect(&outside, &node)?;
        let sink = match stage {
            Stage::Nothing => node.run(|| Sink::attach("eth0", [192, 0, 2]))??,
            Stage::Agent(_) | Stage::Rules(_) => {
                outside.run(|| Sink::attach("uplink", NETWORK))??
            }
        };
        let generator = |kind: Kind| -> Result<(Kind, Generator)> {
            let (macs, to) =
                (Macs { src: UPLINK_MAC, dst: NODE_MAC }, SocketAddrV4::new(NODE, NODE_PORT));
            Ok((kind, outside.run(|| Generator::new("uplink", macs, to, kind.clients()))??))
        };
        let generators = Kind::ALL.map(generator).into_iter().collect::<Result<_>>()?;
        let manifests = Directory::new(Naming::Unique)?;
        let services: Vec<Service> = (1..services).map(Service::idle).chain([exposed()]).collect();
        let mut agent = None;
        match stage {
            Stage::Nothing => {}
            Stage::Agent(xdp) => {
                let addresses =
                    Addresses { v4: NODE, v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 1) };
                let others = vec![manifest::node_object("n1", addresses)];
                manifests.write("cluster.json", &Service::file(&services, others))?;
                let options = Options { xdp, tc: "auto", more: &["--socket-clients", "off"] };
                agent = Some(start(&node, &manifests, options)?);
            }
            Stage::Rules(mode) => kube_proxy::load(&node, NODE, mode, &services)?,
        }
        let bed =
            Self { stage, generators, sink, _agent: agent, _manifests: manifests, outside, node };
        for kind in Kind::ALL {
            bed.check(kind).with_context(|| kind.name())?;
        }
        Ok(bed)
    }

    /// The stage that takes place here.
    pub(crate) const fn stage(&self) -> Stage {
        self.stage
    }

    /// Sends so many frames, and says how many nanoseconds each that arrived took.
    pub(crate) fn measure(&self, kind: Kind, frames: u32) -> Result<f64> {
        if kind.is_established() {
            self.establish(kind)?;
        }
        self.sink.set(Role::Count)?;
        let each = self.send(kind, frames)?;
        let arrived = self.arrived(kind, frames)?;
        Ok(f64::from(each) * f64::from(frames) / arrived)
    }

    /// How many of the frames came, of which a few may be lost.
    fn arrived(&self, kind: Kind, frames: u32) -> Result<f64> {
        let most = f64::from(frames) * 0.99;
        let arrived = || -> Result<f64> {
            let arrived = f64::from(u32::try_from(self.sink.seen()?.forward)?);
            ensure!(
                arrived >= most,
                "only {arrived} of {frames} frames of {} arrived",
                kind.name()
            );
            Ok(arrived)
        };
        deadline::until_ok("the frames", LIMIT, arrived)
    }

    /// Has each flow answered, twice.
    fn establish(&self, kind: Kind) -> Result<()> {
        if self.stage == Stage::Nothing {
            return Ok(());
        }
        let frames = 2 * kind.clients().flows;
        self.sink.set(Role::Answer)?;
        self.send(kind, frames)?;
        deadline::until_ok("the answers", LIMIT, || {
            let Seen { forward, back } = self.sink.seen()?;
            ensure!(
                (forward, back) == (frames.into(), frames.into()),
                "of {frames} requests {forward} came to backends, and {back} were answered"
            );
            Ok(())
        })
    }

    /// Fails unless frames come to backends as they should, a flow's to always the same
    /// from always the same port, and checksums are right.
    fn check(&self, kind: Kind) -> Result<()> {
        if self.stage == Stage::Nothing {
            return Ok(());
        }
        if kind.is_established() {
            self.establish(kind)?;
        }
        let mut socket =
            self.outside.run(|| link::open(nix::net::if_::if_nametoindex("uplink")?))??;
        socket.set_read_timeout(Some(LIMIT)).context("limit a socket")?;
        self.sink.set(Role::Show)?;
        self.send(kind, LOOKED_AT)?;
        // By what the generator wrote into them: the flow.
        let mut flows = BTreeMap::new();
        let mut seen = 0;
        while seen < LOOKED_AT {
            let mut room = [0; 128];
            let length = socket.read(&mut room).context("wait for a frame")?;
            let frame = &room[..length];
            // Both ends also look for neighbours, as IPv6 does.
            let parsed = match parse(frame, true) {
                Some(parsed) if parsed.layer4 == Layer4::Udp => parsed,
                Some(_) | None => continue,
            };
            seen += 1;
            let fault = checksum_fault(frame, true);
            let (src, dst) = (parsed.src, parsed.dst);
            let backends = (0..BACKENDS).map(backend).map(IpAddr::from);
            let sound = fault.is_none()
                && src.ip() == IpAddr::from(NODE)
                && backends.into_iter().any(|backend| dst == SocketAddr::new(backend, TARGET));
            ensure!(sound, "a frame came from {src} to {dst}, {fault:?}");
            let flow = parsed.payload.get(..4).context("a short frame")?.to_vec();
            let way = flows.entry(flow).or_insert((src, dst));
            ensure!(*way == (src, dst), "a flow came by {way:?}, then from {src} to {dst}");
        }
        let expected = kind.clients().flows.min(LOOKED_AT);
        ensure!(
            flows.len() == usize::try_from(expected)?,
            "{} flows instead of {expected}",
            flows.len()
        );
        Ok(())
    }

    fn send(&self, kind: Kind, frames: u32) -> Result<u32> {
        let generator = self.generators.iter().find(|(other, _)| *other == kind);
        let (_, generator) = generator.context("nobody sends")?;
        self.outside.run(|| {
            // Far from where most interrupts are.
            if !process::stay_on(1) {
                process::stay_on(0);
            }
            generator.send(frames)
        })?
    }

    /// Removes rules before the namespaces go, which may take their time.
    pub(crate) fn end(self) -> Result<()> {
        match self.stage {
            Stage::Rules(_) => kube_proxy::unload(&self.node),
            Stage::Nothing | Stage::Agent(_) => Ok(()),
        }
    }
}

/// The link between a node and everybody else, whom the node knows without asking.
fn connect(outside: &Namespace, node: &Namespace) -> Result<()> {
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.default.rp_filter", "1"),
    ] {
        node.sysctl(name, value)?;
    }
    let mac =
        |[a, b, c, d, e, f]: [u8; 6]| format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    let (node_mac, uplink_mac) = (mac(NODE_MAC), mac(UPLINK_MAC));
    outside.ip(&[
        format!(
            "link add uplink address {uplink_mac} type veth peer name eth0 address {node_mac} netns {}",
            node.name()
        ),
        "link set uplink up".to_owned(),
    ])?;
    let [a, b, c] = NETWORK;
    node.ip(&[
        format!("addr add {NODE}/24 dev eth0"),
        "link set eth0 up".to_owned(),
        format!("neigh add 192.0.2.2 lladdr {uplink_mac} dev eth0 nud permanent"),
        format!("neigh add 192.0.2.254 lladdr {uplink_mac} dev eth0 nud permanent"),
        "route add default via 192.0.2.254".to_owned(),
        format!("route add {a}.{b}.{c}.0/24 via 192.0.2.2"),
    ])?;
    // As a network card does, it then takes frames in the way that is meant for many.
    node.output("ethtool", &["-K", "eth0", "gro", "on"]).map(drop)
}

fn backend(number: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, 10 + number)
}

fn exposed() -> Service {
    let port = Port { node_port: Some(NODE_PORT), ..Port::new("dns", "udp", 53, TARGET) };
    Service {
        name: "dns".to_owned(),
        address: Ipv4Addr::new(10, 96, 0, 10),
        ports: vec![port],
        endpoints: (0..BACKENDS).map(backend).collect(),
    }
}

fn start(node: &Namespace, manifests: &Directory, options: Options) -> Result<Agent> {
    let agent = Agent::start(node, "n1", manifests.path(), options)?;
    let status = agent.status()?;
    let problems = status["problems"].as_array().context("no problems are told")?;
    if let Some(problem) = problems.first() {
        bail!("the agent has {} problems, the first: {}", problems.len(), problem["text"]);
    }
    Ok(agent)
}
