//! The ways that packets take through the programs, with what makes them take it.

use lb_common::Verdict;
use lb_common::tcp::flag;
use lb_tests::packet::Packet;
use lb_tests::prog::cost::{Under, Vary};
use lb_tests::prog::net::{POD_2, Port, UPLINK};
use lb_tests::prog::{Case, Prog, Rig};
use std::net::SocketAddr;

/// Where the packets come from and go to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) case: Case,
    /// From outside to a node port and on to another node, by XDP; otherwise from
    /// a pod to a pod of this node, by TC.
    pub(crate) xdp: bool,
}

/// A way, to be measured.
#[derive(Debug)]
pub(crate) struct Path {
    pub(crate) name: &'static str,
    pub(crate) prog: Prog,
    pub(crate) by: Port,
    pub(crate) frame: Vec<u8>,
    pub(crate) vary: Option<Vary>,
    pub(crate) under: Under,
    /// What each packet must meet.
    pub(crate) verdict: Option<Verdict>,
    /// At most so many look-ups, where there is such a promise.
    pub(crate) target: Option<f64>,
    /// It makes rows, which have to be forgotten before it runs again.
    pub(crate) begins: bool,
}

/// Many flows, where that is asked for. Through XDP each takes a port of this node.
const MANY_TC: u32 = 1 << 17;
const MANY_XDP: u32 = 1 << 13;
/// Never the same flow twice.
const EVER_NEW: u32 = 1 << 24;

impl Scene {
    /// What the table calls it.
    pub(crate) fn name(self) -> String {
        let family = if self.case.v6 { "IPv6" } else { "IPv4" };
        format!("{family} {}", if self.xdp { "XDP" } else { "TC" })
    }

    fn many(self) -> u32 {
        if self.xdp { MANY_XDP } else { MANY_TC }
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

    fn backend(self) -> SocketAddr {
        self.case.pod(if self.xdp { 2 } else { 1 }, 32, 8080)
    }

    fn by(self) -> Port {
        if self.xdp { UPLINK } else { POD_2 }
    }

    fn prog(self) -> Prog {
        if self.xdp { Prog::Xdp } else { Prog::Ingress }
    }

    /// Installs the Services.
    pub(crate) fn install(self, rig: &mut Rig) {
        rig.reset();
        rig.install(&self.case.web(&[self.backend()]));
        let mut empty = self.case.web(&[]);
        empty.cluster = vec![self.case.vip(2, 80)];
        empty.node = vec![self.case.node(UPLINK, 30_081)];
        rig.install(&empty);
    }

    /// Makes one flow and many, as far as established ones are.
    pub(crate) fn establish(self, rig: &Rig) {
        let flows = self.many();
        let (client, front, backend) = (self.client(), self.front(), self.backend());
        let from = self.vary(true, flows);
        send(rig, self.prog(), self.by(), &self.case.open(client, front), from);
        // Through XDP answers come to this node's address, to another port each, and
        // change nothing in what their clients' packets cost.
        if !self.xdp {
            let accept = self.case.accept(backend, client);
            send(rig, Prog::Egress, self.by(), &accept, self.vary(false, flows));
        }
        send(rig, self.prog(), self.by(), &self.case.data(client, front), from);
    }

    /// The ways, with two that do nothing and one that looks up.
    pub(crate) fn paths(self) -> Vec<Path> {
        let (case, prog, by) = (self.case, self.prog(), self.by());
        let (client, front, backend) = (self.client(), self.front(), self.backend());
        let many = self.vary(true, self.many());
        let path = |name, packet: &Packet, vary, verdict, target| Path {
            name,
            prog,
            by,
            frame: frame(prog, by, packet),
            vary,
            under: Under::Test,
            verdict: Some(verdict),
            target,
            begins: false,
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
            paths.push(back("reply, many flows", Some(self.vary(false, self.many()))));
        }
        let open = case.open(client, front);
        let ever_new = Some(self.vary(true, EVER_NEW));
        paths
            .push(Path { begins: true, ..path("new flow", &open, ever_new, forwarded, Some(8.0)) });
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
