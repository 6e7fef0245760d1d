//! The ways that packets take through the programs, with what makes them take it.

use super::cost::{Under, Vary};
use super::net::{POD_2, Port, UPLINK};
use super::{Case, Prog, Rig};
use crate::packet::Packet;
use lb_common::Verdict;
use lb_common::tcp::flag;
use lb_userspace::desired::Protocol;
use std::net::SocketAddr;

/// Where the packets come from and go to.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// The family; always TCP behind Ethernet.
    pub case: Case,
    /// From outside to a node port and on to another node, by XDP; otherwise from
    /// a pod to a pod of this node, by TC.
    pub xdp: bool,
}

/// A way, to be measured.
#[derive(Debug)]
pub struct Path {
    /// What the table calls it.
    pub name: &'static str,
    /// The program that meets the packet.
    pub prog: Prog,
    /// The interface by which it comes or goes.
    pub by: Port,
    /// The packet,
    pub frame: Vec<u8>,
    /// as one of so many flows.
    pub vary: Option<Vary>,
    /// What runs on it.
    pub under: Under,
    /// What each packet must meet.
    pub verdict: Option<Verdict>,
    /// At most so many look-ups, where there is such a promise.
    pub target: Option<f64>,
    /// The Service port that each packet opens a connection to.
    pub begins: Option<u32>,
}

/// Many flows, where that is asked for.
const MANY: u32 = 1 << 17;
/// Through XDP each takes a port of this node towards its backend, of some ten
/// thousand.
const BACKENDS: u8 = 4;
/// Never the same flow twice.
const EVER_NEW: u32 = 1 << 24;

impl Scene {
    /// Both families, at TC and at XDP.
    pub fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|v6| {
            let case = Case { v6, protocol: Protocol::Tcp, l3: false };
            [false, true].map(|xdp| Self { case, xdp })
        })
    }

    /// What the table calls it.
    pub fn name(self) -> String {
        let family = if self.case.v6 { "IPv6" } else { "IPv4" };
        format!("{family} {}", if self.xdp { "XDP" } else { "TC" })
    }

    /// Where a packet says who the client is: its source, or its destination.
    fn vary(self, source: bool, flows: u32) -> Vary {
        let (address, length, ports) = if self.case.v6 { (22, 16, 54) } else { (26, 4, 34) };
        let at = usize::from(!source);
        Vary { port: ports + 2 * at, address: address + length * (at + 1) - 1, flows }
    }

    fn client(self) -> SocketAddr {
        if self.xdp { self.case.outside(16, 4000) } else { self.case.pod(1, 16, 4000) }
    }

    fn front(self) -> SocketAddr {
        if self.xdp { self.case.node(UPLINK, 30_080) } else { self.case.vip(1, 80) }
    }

    /// Where no flow leads before it is measured what a new one costs.
    fn fresh_front(self) -> SocketAddr {
        if self.xdp { self.case.node(UPLINK, 30_082) } else { self.case.vip(3, 80) }
    }

    fn backend(self, number: u8) -> SocketAddr {
        self.case.pod(if self.xdp { 2 } else { 1 }, 32 + number, 8080)
    }

    fn by(self) -> Port {
        if self.xdp { UPLINK } else { POD_2 }
    }

    fn prog(self) -> Prog {
        if self.xdp { Prog::Xdp } else { Prog::Ingress }
    }

    /// Installs the Services; the Service port that new flows are for.
    pub fn install(self, rig: &mut Rig) -> u32 {
        rig.reset();
        // Replies are sent from one backend, so by TC there is no other.
        let backends = if self.xdp { BACKENDS } else { 1 };
        let used: Vec<SocketAddr> = (0..backends).map(|number| self.backend(number)).collect();
        rig.install(&self.case.web(&used));
        let mut empty = self.case.web(&[]);
        empty.cluster = vec![self.case.vip(2, 80)];
        empty.node = vec![self.case.node(UPLINK, 30_081)];
        rig.install(&empty);
        let mut fresh = self.case.web(&[self.backend(BACKENDS)]);
        fresh.cluster = vec![self.case.vip(3, 80)];
        fresh.node = vec![self.case.node(UPLINK, 30_082)];
        rig.install(&fresh).id
    }

    /// Makes one flow and many, as far as established ones are.
    pub fn establish(self, rig: &Rig) {
        let (client, front, backend) = (self.client(), self.front(), self.backend(0));
        let from = self.vary(true, MANY);
        send(rig, self.prog(), self.by(), &self.case.open(client, front), from);
        // Through XDP answers come to this node's address, to another port each, and
        // change nothing in what their clients' packets cost.
        if !self.xdp {
            let accept = self.case.accept(backend, client);
            send(rig, Prog::Egress, self.by(), &accept, self.vary(false, MANY));
        }
        send(rig, self.prog(), self.by(), &self.case.data(client, front), from);
    }

    /// The ways, with two that do nothing and one that looks up; `fresh` is the
    /// Service port that [`Scene::install`] gave.
    pub fn paths(self, fresh: u32) -> Vec<Path> {
        let (case, prog, by) = (self.case, self.prog(), self.by());
        let (client, front, backend) = (self.client(), self.front(), self.backend(0));
        let many = self.vary(true, MANY);
        let path = |name, packet: &Packet, vary, verdict, target| Path {
            name,
            prog,
            by,
            frame: frame(prog, by, packet),
            vary,
            under: Under::Test,
            verdict: Some(verdict),
            target,
            begins: None,
        };
        let data = case.data(client, front);
        let reference = |name, vary, under| Path {
            under,
            verdict: None,
            ..path(name, &data, vary, Verdict::Passed, None)
        };
        let v6 = case.v6;
        let mut paths = vec![
            reference("nothing", None, Under::Nothing),
            reference("nothing again", None, Under::Nothing),
            reference("nothing, many flows", Some(many), Under::Nothing),
            reference("a look-up", None, Under::Lookup { v6 }),
            reference("a look-up, many flows", Some(many), Under::Lookup { v6 }),
        ];
        let elsewhere = case.data(client, case.outside(77, 443));
        paths.push(path("not ours", &elsewhere, None, Verdict::Passed, Some(1.5)));
        let forwarded = Verdict::Forwarded;
        paths.push(path("established", &data, None, forwarded, Some(2.5)));
        paths.push(path("established, many flows", &data, Some(many), forwarded, Some(2.5)));
        if !self.xdp {
            let reply = case.segment(backend, client, flag::ACK).payload(b"an answer");
            let back = |name, vary| Path {
                prog: Prog::Egress,
                frame: frame(Prog::Egress, by, &reply),
                ..path(name, &reply, vary, Verdict::Returned, Some(2.5))
            };
            paths.push(back("reply", None));
            paths.push(back("reply, many flows", Some(self.vary(false, MANY))));
        }
        let open = case.open(client, self.fresh_front());
        let ever_new = Some(self.vary(true, EVER_NEW));
        let new = path("new flow", &open, ever_new, forwarded, Some(8.0));
        paths.push(Path { begins: Some(fresh), ..new });
        let nobody = if self.xdp { case.node(UPLINK, 30_081) } else { case.vip(2, 80) };
        let refused = if self.xdp { Verdict::HandedOver } else { Verdict::RefusedNoBackend };
        paths.push(path("refused", &case.open(client, nobody), None, refused, None));
        paths
    }
}

fn frame(prog: Prog, by: Port, packet: &Packet) -> Vec<u8> {
    let macs = if prog == Prog::Egress { by.leaving() } else { by.entering() };
    packet.clone().macs(macs).bytes()
}

fn send(rig: &Rig, prog: Prog, by: Port, packet: &Packet, vary: Vary) {
    let frame = frame(prog, by, packet);
    rig.driver(prog, by.index, &frame, Some(vary), Under::Test).run(vary.flows);
}
