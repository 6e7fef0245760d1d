//! How well a policy keeps what it promises: many connections through the BPF
//! programs to backends of different weights.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support: what goes wrong here must end the test"
)]

use crate::packet::{self, Packet};
use crate::prog::net::POD_2;
use crate::prog::{Installed, Prog, Rig, ServiceSpec};
use lb_common::tcp::flag;
use lb_userspace::desired::Policy;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;

/// Weights of ten backends.
pub const WEIGHTS: [u16; 10] = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5];

/// What became of connections.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// How many there were.
    pub total: u32,
    /// By backend: what its weight promises, and what it got.
    pub backends: Vec<(f64, u32)>,
}

impl Shares {
    /// Compares what backends got with their weights.
    pub fn new(weights: &[u16], got: Vec<u32>) -> Self {
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        let total = got.iter().sum();
        let promised = |weight: &u16| f64::from(total) * f64::from(*weight) / sum;
        Self { total, backends: weights.iter().map(promised).zip(got).collect() }
    }

    /// How many connections a backend is off at most.
    pub fn most_off(&self) -> f64 {
        self.backends
            .iter()
            .map(|(promised, got)| (f64::from(*got) - promised).abs())
            .fold(0.0, f64::max)
    }

    /// The same, as a part of all connections.
    pub fn off_of_all(&self) -> f64 {
        self.most_off() / f64::from(self.total)
    }

    /// How far a backend is off at most, as a part of what it was promised.
    pub fn off_of_own(&self) -> f64 {
        let off = |(promised, got): &(f64, u32)| {
            if *promised == 0.0 { 0.0 } else { (f64::from(*got) - promised).abs() / promised }
        };
        self.backends.iter().map(off).fold(0.0, f64::max)
    }
}

/// What happened to flows when a backend went or came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disruption {
    /// Part of the flows that were the backend's, or became its own.
    pub unavoidable: f64,
    /// Part of the flows that were another's before and after, and moved.
    pub needless: f64,
}

impl Disruption {
    /// Compares where the same flows went before and after this backend went or came.
    pub fn between(changed: usize, before: &[usize], after: &[usize]) -> Self {
        let (mut unavoidable, mut needless) = (0, 0);
        for (before, after) in before.iter().zip(after) {
            if [before, after].contains(&&changed) {
                unavoidable += 1;
            } else if before != after {
                needless += 1;
            }
        }
        let all = u32::try_from(before.len()).expect("not that many");
        let part = |flows: u32| f64::from(flows) / f64::from(all);
        Self { unavoidable: part(unavoidable), needless: part(needless) }
    }
}

/// A Service with backends of different weights.
pub struct Scene<'a> {
    rig: &'a mut Rig,
    policy: Policy,
    installed: Installed,
    backends: Vec<SocketAddr>,
    weights: Vec<u16>,
    slots: usize,
}

const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);

impl<'a> Scene<'a> {
    /// Installs the Service.
    pub fn new(rig: &'a mut Rig, policy: Policy, weights: &[u16]) -> Self {
        let backends: Vec<SocketAddr> = (0_u8..)
            .zip(weights)
            .map(|(n, _)| SocketAddr::new(Ipv4Addr::new(10, 244, 1, 100 + n).into(), 8080))
            .collect();
        let installed = rig.install(&ServiceSpec {
            proto: 6,
            cluster: vec![SERVICE],
            backends: backends.clone(),
            ..ServiceSpec::default()
        });
        let slots = rig.weigh(&installed, policy, weights, 0);
        Self { rig, policy, installed, backends, weights: weights.to_vec(), slots }
    }

    /// A client of its own for each connection: with a policy that looks at
    /// ports, ports of a few clients.
    fn client(&self, n: u32) -> SocketAddr {
        let by_address = self.policy == Policy::SourceHash;
        let (host, port) = if by_address { (n, 4_000) } else { (n % 250, 1_024 + n / 250) };
        let host = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + host;
        SocketAddr::new(Ipv4Addr::from(host).into(), u16::try_from(port).expect("a port"))
    }

    /// Opens connections and says to which backend each went.
    pub fn open(&mut self, connections: Range<u32>) -> Vec<usize> {
        self.send(connections, flag::SYN)
    }

    /// Sends a later packet of each connection, and says to which backend it went.
    pub fn go_on(&mut self, connections: Range<u32>) -> Vec<usize> {
        self.send(connections, flag::ACK)
    }

    fn send(&mut self, connections: Range<u32>, flags: u8) -> Vec<usize> {
        connections
            .map(|n| {
                let packet = Packet::tcp(self.client(n), SERVICE, flags).macs(POD_2.entering());
                let bytes = packet.bytes();
                let (_, frame) = self.rig.run_uncounted(Prog::Ingress, POD_2.index, &bytes);
                let to = packet::parse(&frame, true).expect("a readable frame").dst;
                let place = self.backends.iter().position(|backend| *backend == to);
                place.expect("one of the backends")
            })
            .collect()
    }

    /// Closes a connection, from both sides.
    pub fn close(&mut self, n: u32, backend: usize) {
        let (client, fin) = (self.client(n), flag::FIN | flag::ACK);
        let there = Packet::tcp(client, SERVICE, fin).macs(POD_2.entering());
        self.rig.run_uncounted(Prog::Ingress, POD_2.index, &there.bytes());
        let back = Packet::tcp(self.backends[backend], client, fin).macs(POD_2.leaving());
        self.rig.run_uncounted(Prog::Egress, POD_2.index, &back.bytes());
    }

    /// Shares of connections that went to these backends.
    pub fn shares(&self, picked: &[usize]) -> Shares {
        let mut got = vec![0; self.weights.len()];
        for &backend in picked {
            got[backend] += 1;
        }
        Shares::new(&self.weights, got)
    }

    /// Shares of the connections that are open, as the programs count them.
    pub fn open_shares(&self) -> Shares {
        let open = |&id: &u32| u32::try_from(self.rig.open_connections(id)).expect("not below 0");
        Shares::new(&self.weights, self.installed.backends.iter().map(open).collect())
    }

    /// Lets new connections go to all backends, or to all but one.
    pub fn serve_without(&mut self, absent: Option<usize>) {
        let mut weights = self.weights.clone();
        if let Some(absent) = absent {
            weights[absent] = 0;
        }
        self.slots = self.rig.weigh(&self.installed, self.policy, &weights, self.slots);
    }

    /// Forgets all connections.
    pub fn forget(&mut self) {
        self.rig.clear_flows();
        for id in &self.installed.backends {
            self.rig.set_open_connections(*id, 0);
        }
    }

    /// Opens the same connections again with one backend less, after `before`
    /// with all of them.
    pub fn leave(&mut self, leaves: usize, before: &[usize]) -> Disruption {
        self.forget();
        self.serve_without(Some(leaves));
        let number = u32::try_from(before.len()).expect("not that many");
        let after = self.open(0..number);
        self.serve_without(None);
        Disruption::between(leaves, before, &after)
    }
}

#[cfg(test)]
mod tests {
    use super::Disruption;

    #[test]
    fn flows_of_the_backend_that_goes_or_comes_are_told_from_others() {
        let (with, without) = ([0, 1, 2, 2], [1, 1, 2, 1]);
        let moved = Disruption { unavoidable: 0.25, needless: 0.25 };
        assert_eq!(Disruption::between(0, &with, &without), moved);
        assert_eq!(Disruption::between(0, &without, &with), moved);
    }
}
