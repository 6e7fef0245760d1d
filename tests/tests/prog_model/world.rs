//! Carries a scenario out, on the programs and on the model.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::value::{backend_state, policy};
use lb_tests::model::{Backend, Choice, Fate, Model, Seen};
use lb_tests::packet::Packet;
use lb_tests::prog::net::{NODE_2_MAC, NODE_3_MAC, POD, POD_2, Port, TUNNEL, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig, SNAT_PORTS, ServiceSpec, Step, action};

use crate::scenario::{CLIENTS, Op, POOL, Scenario, Target};

pub(crate) struct World {
    case: Case,
    model: Model,
    pool: [SocketAddr; POOL],
    clients: [IpAddr; CLIENTS],
    /// Where each address is.
    edges: BTreeMap<IpAddr, Port>,
    /// The Service of each backend row.
    owners: Vec<usize>,
    /// What backends have got: source and destination.
    arrived: Vec<(SocketAddr, SocketAddr)>,
}

/// What the program did, after it was found right: the packet that goes on.
enum Onward {
    /// By way of the stack.
    Routed(SocketAddr, SocketAddr),
    /// Out by an uplink.
    Sent(SocketAddr, SocketAddr),
    Ended,
}

impl World {
    pub(crate) fn new(rig: &mut Rig, scenario: &Scenario) -> Self {
        rig.reset();
        let case = Case { v6: scenario.v6, protocol: scenario.protocol, l3: false };
        let at = |node, n| case.pod(node, n, 8080);
        let pool = [at(1, 10), at(1, 20), at(2, 10), at(2, 11), at(3, 10), at(5, 10)];
        let edges = [POD, POD_2, UPLINK, UPLINK, UPLINK_2, TUNNEL];
        let outside = [case.outside(7, 0).ip(), case.outside(8, 0).ip()];
        let clients = [pool[0].ip(), pool[1].ip(), case.pod(1, 21, 0).ip(), outside[0], outside[1]];
        let mut world = Self {
            case,
            model: Model::default(),
            pool,
            clients,
            edges: pool.map(|addr| addr.ip()).into_iter().zip(edges).collect(),
            owners: Vec::new(),
            arrived: Vec::new(),
        };
        if scenario.cidr {
            world.model.service_cidrs.push(case.service_cidr());
            rig.set_service_cidrs(&[case.service_cidr()]);
        }
        world.edges.insert(clients[2], POD_2);
        world.edges.extend(outside.map(|ip| (ip, UPLINK)));
        for (number, spec) in scenario.services.iter().enumerate() {
            let backends: Vec<SocketAddr> = (0..POOL)
                .filter(|member| spec.endpoints[*member])
                .map(|member| pool[member])
                .collect();
            world.install(rig, number, &backends, spec.random);
        }
        world
    }

    fn vip(&self, service: usize) -> SocketAddr {
        self.case.vip(1 + u8::try_from(service).expect("few"), 80)
    }

    fn node_port(&self, service: usize) -> SocketAddr {
        self.case.node(UPLINK, 30_080 + u16::try_from(service).expect("few"))
    }

    fn install(&mut self, rig: &mut Rig, number: usize, backends: &[SocketAddr], random: bool) {
        let proto = self.case.proto();
        let installed = rig.install(&ServiceSpec {
            proto,
            policy: if random { policy::RANDOM } else { policy::ROUND_ROBIN },
            cluster: vec![self.vip(number)],
            node: vec![self.node_port(number)],
            backends: backends.to_vec(),
            ..ServiceSpec::default()
        });
        assert_eq!(installed.id, row_of(number), "rows are given in turn");
        let vip = self.vip(number);
        self.model.frontends.insert((vip, proto), number);
        self.model.frontends.insert((self.node_port(number), proto), number);
        self.model.addresses.insert(vip.ip());
        let first = self.model.backends.len();
        self.model.services.push((first..first + backends.len()).collect());
        self.model.service_traffic.push(lb_common::Traffic::default());
        for addr in backends {
            let (addr, state) = (*addr, backend_state::ACTIVE);
            self.model.backends.push(Backend { addr, state, generation: 1 });
            self.model.backend_traffic.push(lb_common::Traffic::default());
            self.model.known_backends.insert((addr, proto));
            self.owners.push(number);
        }
    }

    pub(crate) fn apply(&mut self, rig: &mut Rig, op: &Op) {
        match op {
            Op::Send { client, port, target, flags, xdp } => {
                let client = SocketAddr::new(*client.get(&self.clients), *port);
                let services = self.model.services.len();
                let to = match target {
                    Target::ClusterIp(service) => self.vip(service.index(services)),
                    Target::NodePort(service) => self.node_port(service.index(services)),
                    Target::UnknownPort(service) => {
                        SocketAddr::new(self.vip(service.index(services)).ip(), 81)
                    }
                    Target::Unallocated(n) => self.case.vip(*n, 80),
                    Target::Direct(member) => *member.get(&self.pool),
                };
                let packet = self.case.segment(client, to, *flags);
                self.send(rig, &packet, *xdp);
            }
            Op::Reply { to, flags, xdp } => {
                if !self.arrived.is_empty() {
                    let (src, dst) = *to.get(&self.arrived);
                    let packet = self.case.segment(dst, src, *flags);
                    self.send(rig, &packet, *xdp);
                }
            }
            Op::State { backend, state } => {
                if let Some(row) = self.pick_row(*backend) {
                    self.model.backends[row].state = *state;
                    rig.set_backend_state(u32::try_from(row).expect("few"), *state);
                    self.set_endpoints(rig, self.owners[row]);
                }
            }
            Op::Give { backend, endpoint } => {
                if let Some(row) = self.pick_row(*backend) {
                    let (addr, proto) = (*endpoint.get(&self.pool), self.case.proto());
                    // An endpoint has one row in a Service.
                    let has_it = |other: &usize| self.model.backends[*other].addr == addr;
                    let mut others = (0..self.owners.len())
                        .filter(|other| self.owners[*other] == self.owners[row] && *other != row);
                    if others.any(|other| has_it(&other)) {
                        return;
                    }
                    let owner = row_of(self.owners[row]);
                    rig.give_backend(u32::try_from(row).expect("few"), owner, proto, addr);
                    let generation = self.model.backends[row].generation + 1;
                    let state = backend_state::ACTIVE;
                    self.model.backends[row] = Backend { addr, state, generation };
                    self.model.known_backends.insert((addr, proto));
                    self.set_endpoints(rig, self.owners[row]);
                }
            }
        }
    }

    fn pick_row(&self, index: proptest::sample::Index) -> Option<usize> {
        let rows = self.model.backends.len();
        (rows > 0).then(|| index.index(rows))
    }

    /// As the agent does: slots only of backends that take new flows.
    fn set_endpoints(&mut self, rig: &mut Rig, service: usize) {
        let rows: Vec<usize> = (0..self.owners.len())
            .filter(|row| self.owners[*row] == service)
            .filter(|row| self.model.backends[*row].state == backend_state::ACTIVE)
            .collect();
        let ids: Vec<u32> = rows.iter().map(|row| u32::try_from(*row).expect("few")).collect();
        rig.set_endpoints(row_of(service), &ids);
        self.model.services[service] = rows;
    }

    /// Follows a packet from where it enters the node to where it leaves.
    fn send(&mut self, rig: &mut Rig, packet: &Packet, xdp: bool) {
        let by = self.edges[&packet.src.ip()];
        let onward = match self.at_xdp(rig, packet, by, xdp) {
            Some(Onward::Routed(..)) | None => self.at_ingress(rig, packet, by),
            Some(onward) => onward,
        };
        match onward {
            Onward::Routed(src, dst) => {
                // To the node itself, or to nobody: it does not leave.
                let Some(out) = self.edges.get(&dst.ip()).copied() else { return };
                let packet = packet.clone().from(src).to(dst);
                let fate = self.model.egress(seen(&packet), &out);
                let step = self.case.leave(rig, out, &packet);
                if let Onward::Routed(src, dst) = self.settle(&packet, &fate, &step) {
                    self.arrive(src, dst);
                }
            }
            Onward::Sent(src, dst) => self.arrive(src, dst),
            Onward::Ended => {}
        }
    }

    fn arrive(&mut self, src: SocketAddr, dst: SocketAddr) {
        if self.pool.contains(&dst) {
            self.arrived.push((src, dst));
        }
    }

    fn at_ingress(&mut self, rig: &mut Rig, packet: &Packet, by: Port) -> Onward {
        let fate = self.model.ingress(seen(packet), &by);
        let step = self.case.enter(rig, by, packet);
        self.settle(packet, &fate, &step)
    }

    fn at_xdp(&mut self, rig: &mut Rig, packet: &Packet, by: Port, xdp: bool) -> Option<Onward> {
        if !xdp || (by != UPLINK && by != UPLINK_2) {
            return None;
        }
        let edges = self.edges.clone();
        let way = |to: SocketAddr| {
            let out = *edges.get(&to.ip())?;
            (out == UPLINK || out == UPLINK_2).then_some(out)
        };
        let fate = self.model.xdp(seen(packet), &by, way)?;
        let step = self.case.xdp(rig, by, packet);
        if let Fate::Sent(verdict, choices) = &fate {
            let (src, dst) = step.ends();
            let out = self.edges[&dst.ip()];
            let action = if out == by { action::XDP_TX } else { action::XDP_REDIRECT };
            let macs = match out {
                UPLINK_2 => UPLINK_2.leaving_to(NODE_3_MAC),
                _ if self.pool.contains(&dst) => UPLINK.leaving_to(NODE_2_MAC),
                _ => UPLINK.leaving(),
            };
            step.sent(*verdict, action, macs, src, dst);
            assert_one_of(&step, choices, src, dst);
            self.model.learn(seen(packet), &fate, src, dst);
            return Some(Onward::Sent(src, dst));
        }
        Some(self.settle(packet, &fate, &step))
    }

    /// Compares what the program did with what it should have done.
    fn settle(&mut self, packet: &Packet, fate: &Fate, step: &Step) -> Onward {
        match fate {
            Fate::Unchanged(verdict) => {
                step.unchanged(*verdict);
                Onward::Routed(packet.src, packet.dst)
            }
            Fate::Rewritten(verdict, choices) => {
                let (src, dst) = step.tuple(*verdict);
                assert_one_of(step, choices, src, dst);
                self.model.learn(seen(packet), fate, src, dst);
                Onward::Routed(src, dst)
            }
            Fate::Refused(verdict) => {
                assert_eq!(step.outcome.verdict, *verdict, "{}", step.describe());
                assert_eq!(step.outcome.action, action::TC_REDIRECT, "{}", step.describe());
                Onward::Ended
            }
            Fate::Dropped(verdict) => {
                step.dropped(*verdict);
                Onward::Ended
            }
            Fate::Sent(..) => panic!("only XDP sends: {}", step.describe()),
        }
    }

    pub(crate) fn compare_counters(&self, rig: &Rig) {
        for (id, traffic) in (row_of(0)..).zip(&self.model.service_traffic) {
            assert_eq!(rig.service_traffic(id), *traffic, "Service {id}");
        }
        for (id, traffic) in (0..).zip(&self.model.backend_traffic) {
            assert_eq!(rig.backend_traffic(id), *traffic, "backend {id}");
        }
    }
}

fn seen(packet: &Packet) -> Seen {
    let flags = packet.tcp_flags();
    let len = Packet { macs: None, ..packet.clone() }.bytes().len() as u64;
    Seen { proto: packet.proto(), flags, src: packet.src, dst: packet.dst, len }
}

fn assert_one_of(step: &Step, choices: &[(Choice, SocketAddr)], src: SocketAddr, dst: SocketAddr) {
    let allowed = choices.iter().any(|(source, to)| {
        *to == dst
            && match source {
                Choice::Exactly(source) => *source == src,
                Choice::FreePort { ip, taken } => {
                    let port = src.port();
                    *ip == src.ip() && SNAT_PORTS.contains(&port) && !taken.contains(&port)
                }
            }
    });
    assert!(allowed, "{src} to {dst} is none of {choices:?}: {}", step.describe());
}

/// The row of the model's n-th Service: row 0 is nobody's.
fn row_of(service: usize) -> u32 {
    u32::try_from(service).expect("few") + 1
}
