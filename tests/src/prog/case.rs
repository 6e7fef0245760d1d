//! One table, many shapes: each scenario runs for both families, every protocol,
//! with and without a MAC header. A [`Case`] says which, and names addresses
//! and packets accordingly.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use lb_common::sctp::chunk;
use lb_common::tcp::flag;
use lb_userspace::desired::Protocol;

use super::context::Context;
use super::net::{Port, UPLINK};
use super::{Outcome, Prog, Rig, ServiceSpec};
use crate::packet::{Macs, Packet, checksum_fault};
use lb_common::Verdict;

/// Which shape of packets a scenario runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// IPv6, not IPv4.
    pub v6: bool,
    /// Protocol.
    pub protocol: Protocol,
    /// Frames begin with the IP header.
    pub l3: bool,
}

impl Case {
    /// Every case.
    pub fn all() -> impl Iterator<Item = Self> {
        let protocols = [Protocol::Udp, Protocol::Tcp, Protocol::Sctp];
        (0..12).map(move |n| Self { v6: n & 1 != 0, protocol: protocols[n / 4], l3: n & 2 != 0 })
    }

    /// Those with a MAC header.
    pub fn ethernet() -> impl Iterator<Item = Self> {
        Self::all().filter(|case| !case.l3)
    }

    /// IP protocol number.
    pub const fn proto(self) -> u8 {
        self.protocol.number()
    }

    /// Whether it is TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self.protocol, Protocol::Tcp)
    }

    /// Whether packets say where a connection begins and ends.
    pub const fn connects(self) -> bool {
        lb_common::proto::connects(self.proto())
    }

    /// Likewise with another protocol.
    #[must_use]
    pub const fn other_protocol(self) -> Self {
        let protocol = match self.protocol {
            Protocol::Udp => Protocol::Tcp,
            Protocol::Tcp => Protocol::Sctp,
            Protocol::Sctp => Protocol::Udp,
        };
        Self { protocol, ..self }
    }

    /// The TC program for packets that enter.
    pub const fn ingress(self) -> Prog {
        if self.l3 { Prog::IngressL3 } else { Prog::Ingress }
    }

    /// The TC program for packets that leave.
    pub const fn egress(self) -> Prog {
        if self.l3 { Prog::EgressL3 } else { Prog::Egress }
    }

    fn socket(self, v4: &str, v6: &str, port: u16) -> SocketAddr {
        let text = if self.v6 { v6 } else { v4 };
        SocketAddr::new(text.parse().expect("an address"), port)
    }

    /// A Service's ClusterIP.
    pub fn vip(self, n: u8, port: u16) -> SocketAddr {
        self.socket(&format!("10.96.0.{n}"), &format!("fd00:10:96::{n:x}"), port)
    }

    /// The range that [`Case::vip`] is in.
    pub fn service_cidr(self) -> IpNet {
        let range = if self.v6 { "fd00:10:96::/112" } else { "10.96.0.0/16" };
        range.parse().expect("a range")
    }

    /// An endpoint or pod of a node; node 1 is the one under test.
    ///
    /// A test run takes the packet's type from bytes 12 and 13, where a MAC
    /// header has it and a packet without one has part of its source: so these
    /// sources spell the type.
    pub fn pod(self, node: u8, n: u8, port: u16) -> SocketAddr {
        if self.l3 {
            let v6 = format!("fd00:{node:x}:86dd::{n:x}");
            return self.socket(&format!("8.0.{node}.{n}"), &v6, port);
        }
        self.socket(&format!("10.244.{node}.{n}"), &format!("fd00:10:244:{node:x}::{n:x}"), port)
    }

    /// A client outside the cluster.
    pub fn outside(self, n: u8, port: u16) -> SocketAddr {
        if self.l3 {
            return self.socket(&format!("8.0.200.{n}"), &format!("2001:db8:86dd::{n:x}"), port);
        }
        self.socket(&format!("203.0.113.{n}"), &format!("2001:db8:f::{n:x}"), port)
    }

    /// The node's own address on an interface.
    pub fn node(self, on: Port, port: u16) -> SocketAddr {
        let like = if self.v6 { IpAddr::from([0; 16]) } else { IpAddr::from([0; 4]) };
        SocketAddr::new(on.address(like), port)
    }

    /// The Service that most packets are for: a ClusterIP with port 80, and port
    /// 30080 of the node on its first uplink.
    pub fn web(self, backends: &[SocketAddr]) -> ServiceSpec {
        ServiceSpec {
            proto: self.proto(),
            cluster: vec![self.vip(1, 80)],
            node: vec![self.node(UPLINK, 30_080)],
            backends: backends.to_vec(),
            ..ServiceSpec::default()
        }
    }

    /// The first packet of a connection or exchange.
    pub fn open(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.segment(src, dst, flag::SYN)
    }

    /// The answer to [`Case::open`].
    pub fn accept(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.segment(src, dst, flag::SYN | flag::ACK)
    }

    /// A packet with data.
    pub fn data(self, src: SocketAddr, dst: SocketAddr) -> Packet {
        self.segment(src, dst, flag::ACK).payload(b"some data, odd length")
    }

    /// A TCP segment with these flags, a datagram, or an SCTP packet whose chunk
    /// says what the flags say.
    pub fn segment(self, src: SocketAddr, dst: SocketAddr, flags: u8) -> Packet {
        match self.protocol {
            Protocol::Tcp => Packet::tcp(src, dst, flags),
            Protocol::Udp => Packet::udp(src, dst),
            Protocol::Sctp => Packet::sctp(src, dst, chunk_of(flags)),
        }
    }

    /// A packet that enters by an interface.
    pub fn enter(self, rig: &mut Rig, by: Port, packet: &Packet) -> Step {
        self.step(rig, self.ingress(), by, self.on_link(packet, by.entering()))
    }

    /// A packet that leaves by an interface.
    pub fn leave(self, rig: &mut Rig, by: Port, packet: &Packet) -> Step {
        self.step(rig, self.egress(), by, self.on_link(packet, by.leaving()))
    }

    /// A packet that leaves by the interface that it came in by.
    pub fn turn_back(self, rig: &mut Rig, by: Port, packet: &Packet) -> Step {
        let packet = self.on_link(packet, by.leaving());
        let came = Context { came_by: by.index, ..Context::default() };
        let outcome = rig.run_in(self.egress(), by.index, &packet.bytes(), came);
        Step { case: self, prog: self.egress(), packet, outcome }
    }

    /// A test run wants a whole IP header behind its first 14 bytes, whatever
    /// those are: packets without a MAC header are padded to have it.
    fn on_link(self, packet: &Packet, macs: Macs) -> Packet {
        if !self.l3 {
            return packet.clone().macs(macs);
        }
        let least: usize = if self.v6 { 14 + 40 } else { 14 + 20 };
        let padding = packet.padding.max(least.saturating_sub(packet.bytes().len()));
        Packet { padding, ..packet.clone() }
    }

    /// A frame that XDP meets.
    pub fn xdp(self, rig: &mut Rig, by: Port, packet: &Packet) -> Step {
        self.step(rig, Prog::Xdp, by, packet.clone().macs(by.entering()))
    }

    fn step(self, rig: &mut Rig, prog: Prog, by: Port, packet: Packet) -> Step {
        let outcome = rig.run(prog, by.index, &packet.bytes());
        Step { case: self, prog, packet, outcome }
    }
}

/// The type of the chunk that says what a TCP segment with these flags says.
const fn chunk_of(flags: u8) -> u8 {
    const DATA: u8 = 0;
    if flags & flag::RST != 0 {
        chunk::ABORT
    } else if flags & (flag::SYN | flag::ACK) == flag::SYN {
        chunk::INIT
    } else if flags & flag::SYN != 0 {
        chunk::INIT_ACK
    } else if flags & flag::FIN != 0 {
        chunk::SHUTDOWN
    } else if flags & flag::ACK != 0 {
        chunk::COOKIE_ECHO
    } else {
        DATA
    }
}

/// What a program did with a packet, to be asserted.
#[derive(Clone, Debug)]
pub struct Step {
    case: Case,
    /// The program that ran.
    pub prog: Prog,
    /// The packet as it was.
    pub packet: Packet,
    /// What became of it.
    pub outcome: Outcome,
}

impl Step {
    /// The packet goes on, byte for byte.
    #[track_caller]
    pub fn passed(&self) {
        self.unchanged(Verdict::Passed);
    }

    /// The packet goes on, byte for byte, under this verdict.
    #[track_caller]
    pub fn unchanged(&self, verdict: Verdict) {
        assert_eq!(self.outcome.verdict, verdict, "{}", self.describe());
        assert!(self.outcome.passes(self.prog), "{}", self.describe());
        assert!(self.outcome.frame == self.packet.bytes(), "changed: {}", self.describe());
    }

    /// The packet goes on from `src` to `dst`, and nothing else of it changed.
    #[track_caller]
    pub fn became(&self, verdict: Verdict, src: SocketAddr, dst: SocketAddr) {
        assert_eq!(self.outcome.verdict, verdict, "{}", self.describe());
        assert!(self.outcome.passes(self.prog), "{}", self.describe());
        let expected = self.packet.clone().from(src).to(dst).bytes();
        let same = self.outcome.frame == expected;
        assert!(same, "{}\nnot {src} to {dst}: {}", self.describe(), hex(&expected));
    }

    /// The packet goes on under this verdict as this one, on the same link.
    #[track_caller]
    pub fn turned_into(&self, verdict: Verdict, packet: &Packet) {
        assert_eq!(self.outcome.verdict, verdict, "{}", self.describe());
        assert!(self.outcome.passes(self.prog), "{}", self.describe());
        let (macs, padding) = (self.packet.macs, self.packet.padding);
        let expected = Packet { macs, padding, ..packet.clone() }.bytes();
        let same = self.outcome.frame == expected;
        assert!(same, "{}\nnot {}", self.describe(), hex(&expected));
    }

    /// [`Verdict::Forwarded`] to a backend, the source untouched.
    #[track_caller]
    pub fn forwarded_to(&self, backend: SocketAddr) {
        self.became(Verdict::Forwarded, self.packet.src, backend);
    }

    /// [`Verdict::Returned`] as if from the frontend, the destination untouched.
    #[track_caller]
    pub fn returned_from(&self, frontend: SocketAddr) {
        self.became(Verdict::Returned, frontend, self.packet.dst);
    }

    /// The packet goes on under this verdict with another source and
    /// destination that the caller asserts; nothing else of it changed.
    #[track_caller]
    pub fn tuple(&self, verdict: Verdict) -> (SocketAddr, SocketAddr) {
        let (src, dst) = self.ends();
        self.became(verdict, src, dst);
        (src, dst)
    }

    /// Source and destination of the packet as it is now.
    #[track_caller]
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let parsed = crate::packet::parse(&self.outcome.frame, self.prog.is_ethernet());
        let Some(parsed) = parsed else { panic!("unreadable: {}", self.describe()) };
        (parsed.src, parsed.dst)
    }

    /// The frame goes out by `action` to a next hop, one hop older, from `src`
    /// to `dst`, and nothing else of it changed.
    #[track_caller]
    pub fn sent(
        &self,
        verdict: Verdict,
        action: u32,
        macs: Macs,
        src: SocketAddr,
        dst: SocketAddr,
    ) {
        assert_eq!(self.outcome.verdict, verdict, "{}", self.describe());
        assert_eq!(self.outcome.action, action, "{}", self.describe());
        let packet = self.packet.clone().from(src).to(dst).macs(macs);
        let expected = Packet { ttl: self.packet.ttl - 1, ..packet }.bytes();
        let same = self.outcome.frame == expected;
        assert!(same, "{}\nnot {src} to {dst}: {}", self.describe(), hex(&expected));
    }

    /// The packet ends here.
    #[track_caller]
    pub fn dropped(&self, verdict: Verdict) {
        assert_eq!(self.outcome.verdict, verdict, "{}", self.describe());
        assert!(self.outcome.is_drop(self.prog), "{}", self.describe());
    }

    /// Whether the packet goes on or ends here: it was not answered.
    pub fn passes_or_drops(&self) -> bool {
        self.outcome.passes(self.prog) || self.outcome.is_drop(self.prog)
    }

    /// What happened, for a failed assertion.
    pub fn describe(&self) -> String {
        let frame = &self.outcome.frame;
        let ethernet = self.prog.is_ethernet();
        format!(
            "{:?}, {}: {} to {} {:?} gave {:?}, action {}, {:?}, fault {:?}\n in {}\nout {}",
            self.case,
            self.prog.name(),
            self.packet.src,
            self.packet.dst,
            self.packet.transport,
            self.outcome.verdict,
            self.outcome.action.cast_signed(),
            crate::packet::parse(frame, ethernet).map(|p| (p.src, p.dst, p.layer4)),
            checksum_fault(frame, ethernet),
            hex(&self.packet.bytes()),
            hex(frame),
        )
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
