//! Where the garbage comes from.

use lb_common::limits::MAX_EXTENSION_HEADERS;
use lb_common::tcp::flag;
use lb_tests::packet::{Extension, Fragment, Packet, Transport};
use lb_tests::prog::net::{PORTS, UPLINK};
use lb_tests::prog::{Case, Random, Rig, SNAT_PORTS, ServiceSpec};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

/// What the programs have rows for.
pub(crate) struct World {
    /// Addresses that a packet of ours has as its source or destination.
    pub(crate) ours: BTreeSet<IpAddr>,
    /// Those that are a Service's as a whole.
    pub(crate) services: BTreeSet<IpAddr>,
    clients: Vec<SocketAddr>,
    fronts: Vec<SocketAddr>,
    backends: Vec<SocketAddr>,
}

/// Services of both families and protocols, some without endpoints.
pub(crate) fn world(rig: &mut Rig) -> World {
    let mut world = World {
        ours: BTreeSet::new(),
        services: BTreeSet::new(),
        clients: Vec::new(),
        fronts: Vec::new(),
        backends: Vec::new(),
    };
    for case in Case::all() {
        let backends = [case.pod(1, 10, 8080), case.pod(2, 10, 8080), case.pod(3, 10, 8080)];
        let (vip, empty) = (case.vip(1, 80), case.vip(2, 80));
        let node = case.node(UPLINK, 30_080);
        for (cluster, nodes, endpoints) in
            [(vip, vec![node], &backends[..]), (empty, Vec::new(), &[])]
        {
            rig.install(&ServiceSpec {
                proto: case.proto(),
                cluster: vec![cluster],
                node: nodes,
                backends: endpoints.to_vec(),
                ..ServiceSpec::default()
            });
        }
        world.clients.extend([case.pod(1, 20, 4000), case.outside(7, 4000), backends[0]]);
        world.fronts.extend([vip, empty, case.vip(1, 81), node]);
        world.services.extend([vip.ip(), empty.ip()]);
        world.backends.extend(backends);
        world.ours.extend(PORTS.map(|port| case.node(port, 0).ip()));
    }
    world.ours.extend(world.fronts.iter().chain(&world.backends).map(SocketAddr::ip));
    world
}

/// A packet of ours, or one that looks like it.
fn plausible(random: &mut Random, world: &World) -> Packet {
    let any_port = SocketAddr::new(world.backends[0].ip(), 1);
    let client = random.pick(&world.clients);
    let to = match random.below(4) {
        0 => random.pick(&world.backends),
        1 => any_port,
        _ => random.pick(&world.fronts),
    };
    // Of one family, most of the time with ports that mean something.
    let to = if to.is_ipv4() == client.is_ipv4() { to } else { client };
    let mut snat = random.pick(&world.fronts);
    snat.set_port(SNAT_PORTS.start() + u16::try_from(random.below(8)).expect("small"));
    let (mut src, mut dst) = match random.below(8) {
        0 | 1 => (to, client),
        2 if snat.is_ipv4() == to.is_ipv4() => (to, snat),
        _ => (client, to),
    };
    if random.one_in(16) {
        src.set_port(u16::try_from(random.below(1 << 16)).expect("16 bits"));
    }
    if random.one_in(16) {
        dst.set_port(u16::try_from(random.below(1 << 16)).expect("16 bits"));
    }
    let flags = random.pick(&[flag::SYN, flag::ACK, flag::FIN | flag::ACK, flag::RST, 0xff, 0]);
    let mut packet = match random.below(3) {
        0 => Packet::tcp(src, dst, flags),
        1 => Packet::udp(src, dst),
        _ => Packet::sctp(src, dst, random.pick(&[0, 1, 1, 2, 3, 6, 7, 8, 10, 11, 14, 255])),
    };
    let long = if random.one_in(4) { 1900 } else { 40 };
    packet.payload = vec![0; random.below(long)];
    random.fill(&mut packet.payload);
    packet.ttl = random.pick(&[64, 64, 64, 1, 0, 255]);
    packet.padding = random.pick(&[0, 0, 0, 6]);
    if random.one_in(8) {
        packet.ip_options = vec![1; 4 * random.below(11)];
    }
    if random.one_in(8) {
        let extension = Extension {
            number: random.pick(&[0, 43, 60]),
            content: vec![0; 6 + 8 * random.below(3)],
        };
        packet.extensions = vec![extension; random.below(MAX_EXTENSION_HEADERS as usize + 2)];
    }
    if random.one_in(8) {
        let id = u16::try_from(random.below(3)).expect("small");
        packet.payload.resize(64, 7);
        packet.fragment = Some(Fragment { offset: 8 * random.below(4), len: 32, id });
    }
    if let Transport::Udp { checksum } = &mut packet.transport {
        *checksum = !random.one_in(8);
    }
    if random.one_in(16) {
        packet.vlans = vec![7; 1 + random.below(2)];
    }
    packet
}

/// What has no ports: an error about a packet of ours, a ping, or a protocol
/// that no Service has.
fn portless(random: &mut Random, world: &World) -> Packet {
    let about = plausible(random, world);
    let (src, dst) = (about.src.ip(), about.dst.ip());
    match random.below(8) {
        0 => Packet::ping(src, dst),
        1 => {
            let number = u8::try_from(random.below(256)).expect("a byte");
            Packet { transport: Transport::Other { number }, ..about }
        }
        way => {
            let kind = random.pick(&[1, 2, 3, 3, 4, 11, 12]);
            let from = if way < 5 { dst } else { random.pick(&world.clients).ip() };
            let from = if from.is_ipv4() == src.is_ipv4() { from } else { dst };
            let most = if random.one_in(2) { random.below(90) } else { 1200 };
            let plain = Packet { vlans: Vec::new(), padding: 0, ..about.clone() };
            let error = Packet::icmp(from, src, kind, 0, [0, 0, 5, 0]).quoting(&plain, most);
            Packet { padding: about.padding, vlans: about.vlans, ..error }
        }
    }
}

/// A frame: noise, a header with noise behind it, or a packet of ours with
/// wrong bytes, missing bytes or both.
pub(crate) fn frame(random: &mut Random, world: &World, l3: bool) -> Vec<u8> {
    let noise = |random: &mut Random| {
        let mut bytes = vec![0; 14 + random.below(2000)];
        random.fill(&mut bytes);
        bytes
    };
    match random.below(8) {
        0 => noise(random),
        1 => {
            let mut bytes = noise(random);
            let v6 = random.one_in(2);
            bytes[12..14].copy_from_slice(if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] });
            if let Some(version) = bytes.get_mut(14) {
                *version = if v6 { 0x60 } else { 0x45 };
            }
            bytes
        }
        kind => {
            let mut packet =
                if random.one_in(3) { portless(random, world) } else { plausible(random, world) };
            if !l3 {
                packet = packet.macs(random.pick(&PORTS).entering());
            }
            let mut bytes = packet.bytes();
            if kind >= 4 {
                for _ in 0..random.below(8) {
                    let at = random.below(bytes.len().min(96));
                    bytes[at] = u8::try_from(random.below(256)).expect("a byte");
                }
            }
            if kind >= 6 {
                bytes.truncate(14 + random.below(bytes.len()));
            }
            bytes
        }
    }
}
