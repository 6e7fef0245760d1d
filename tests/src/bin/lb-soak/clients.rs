//! Clients in pods and outside the cluster, by both families and protocols:
//! short connections and flows, and such that stay. Each answer is judged.

use crate::oracle::Oracle;
use crate::services::{COUNT, describe, inside};
use crate::tally::Tally;
use anyhow::Result;
use lb_tests::cluster::Cluster;
use lb_tests::netns::Namespace;
use lb_tests::prog::Random;
use lb_tests::streams::{Reply, Stream};
use lb_tests::topology::Addresses;
use lb_tests::traffic::Kind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Between two requests of a thread: the machine must keep up.
const PACE: Duration = Duration::from_millis(4);
/// Streams of a place.
const STREAMS: usize = 60;
/// How long a stream stays, in seconds.
const STAYS: (usize, usize) = (10, 180);

/// Where clients are, and by way of which node they go.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    netns: &'a Namespace,
    node: usize,
    /// The node that is dialled from outside; none inside.
    dialled: Option<Addresses>,
}

/// The first pod of each node, and the client outside by way of each.
pub(crate) fn places(cluster: &Cluster) -> Vec<Place<'_>> {
    let nodes = || cluster.topology.nodes.iter().enumerate();
    let pods = nodes().map(|(node, one)| Place { netns: &one.pods[0].netns, node, dialled: None });
    let outside = nodes().map(|(node, one)| Place {
        netns: &cluster.topology.client,
        node,
        dialled: Some(one.addresses),
    });
    pods.chain(outside).collect()
}

/// Judges answers.
#[derive(Clone, Copy)]
pub(crate) struct Judge<'a> {
    pub(crate) oracle: &'a Oracle,
    pub(crate) tally: &'a Tally,
    /// Names of the backends.
    pub(crate) names: &'a [String],
}

/// What to dial.
#[derive(Clone, Copy)]
struct Target {
    service: usize,
    kind: Kind,
    to: SocketAddr,
}

/// A stream that stays.
struct Kept {
    target: Target,
    stream: Stream,
    backend: String,
    asked: Instant,
    until: Instant,
}

impl Place<'_> {
    /// Any Service that exists, and now and then one that does not.
    fn target(&self, judge: &Judge<'_>, random: &mut Random) -> Target {
        let latest = judge.oracle.latest();
        let exists = |service: usize| latest.as_ref().is_none_or(|state| state[service].is_some());
        let mut service = random.below(COUNT);
        if !exists(service) && !random.one_in(20) {
            service = 0;
        }
        let (protocol, family) = (random.below(2), random.below(2));
        let to = match self.dialled {
            None => inside(service)[protocol][family],
            Some(node) => (node.both()[family], describe(service).1[protocol]).into(),
        };
        Target { service, kind: Kind::ALL[protocol], to }
    }

    /// Runs a function in the clients' namespace.
    pub(crate) fn enter(&self, work: impl FnOnce() + Send) -> Result<()> {
        self.netns.run(work)
    }

    /// Opens one connection or flow after the other, each for one request.
    pub(crate) fn short(&self, judge: &Judge<'_>, mut random: Random) {
        while judge.tally.going() {
            let target = self.target(judge, &mut random);
            let from = Instant::now();
            match Stream::open(target.kind, target.to).and_then(|mut stream| stream.ask()) {
                Ok(reply) => {
                    judge.tally.short.one();
                    judge.fresh(self.node, target, &reply, from);
                }
                Err(error) => judge.failure(self.node, target, &error, from),
            }
            judge.tally.rest(PACE);
        }
    }

    /// Keeps streams, and asks one after the other.
    pub(crate) fn long(&self, judge: &Judge<'_>, mut random: Random) {
        let mut kept = Vec::new();
        while judge.tally.going() {
            if kept.len() < STREAMS {
                let target = self.target(judge, &mut random);
                kept.extend(self.open(judge, target, &mut random));
            }
            kept.retain_mut(|stream| {
                judge.tally.rest(PACE);
                judge.tally.going() && stream.until > Instant::now() && self.ask(judge, stream)
            });
        }
    }

    fn open(&self, judge: &Judge<'_>, target: Target, random: &mut Random) -> Option<Kept> {
        let from = Instant::now();
        let opened =
            Stream::open(target.kind, target.to).and_then(|mut stream| Ok((stream.ask()?, stream)));
        match opened {
            Ok((reply, stream)) => {
                judge.fresh(self.node, target, &reply, from);
                let backend = reply.backend;
                let seconds = STAYS.0 + random.below(STAYS.1 - STAYS.0);
                let stays = Duration::from_secs(seconds.try_into().unwrap_or(u64::MAX));
                Some(Kept { target, stream, backend, asked: from, until: from + stays })
            }
            Err(error) => {
                judge.failure(self.node, target, &error, from);
                None
            }
        }
    }

    /// Asks a stream; false if it is of no use any more.
    fn ask(&self, judge: &Judge<'_>, kept: &mut Kept) -> bool {
        let (from, before) = (Instant::now(), kept.asked);
        kept.asked = from;
        match kept.stream.ask() {
            Ok(reply) => {
                judge.tally.long.one();
                let old = std::mem::replace(&mut kept.backend, reply.backend.clone());
                match kept.target.kind {
                    Kind::Http => judge.stayed(kept.target, &old, &kept.backend),
                    Kind::Udp => {
                        judge.fresh(self.node, kept.target, &reply, from);
                        judge.moved(self.node, kept.target, [&old, &kept.backend], before);
                    }
                }
                true
            }
            Err(error) => {
                match kept.target.kind {
                    // A connection stays whatever happens to the Service.
                    Kind::Http => judge.broken(kept.target, &error),
                    Kind::Udp => judge.failure(self.node, kept.target, &error, from),
                }
                false
            }
        }
    }
}

impl Judge<'_> {
    fn place(&self, backend: &str) -> Option<usize> {
        self.names.iter().position(|name| name == backend)
    }

    /// An answer of a backend that was chosen in this time.
    fn fresh(&self, node: usize, target: Target, reply: &Reply, from: Instant) {
        let allowed = self.oracle.allowed(node, target.service, from, Instant::now());
        let backend = reply.backend.as_str();
        if !allowed.nobody {
            self.tally.repeated.add(reply.repeated.into());
        }
        if !self.place(backend).is_some_and(|place| allowed.any.contains(&place)) {
            let Target { service, kind, to } = target;
            let may: Vec<&str> = allowed.any.iter().map(|one| self.names[*one].as_str()).collect();
            let sentence =
                format!("s{service}, {kind} to {to} by n{}: {backend}, not {may:?}", node + 1);
            self.tally.note(&self.tally.wrong, sentence);
        }
    }

    /// A request that was not answered in this time.
    fn failure(&self, node: usize, target: Target, error: &std::io::Error, from: Instant) {
        let allowed = self.oracle.allowed(node, target.service, from, Instant::now());
        if allowed.nobody {
            self.tally.refused.one();
        } else {
            let Target { service, kind, to } = target;
            let sentence = format!("s{service}, {kind} to {to} by n{}: {error}", node + 1);
            self.tally.note(&self.tally.failed, sentence);
        }
    }

    /// A flow of datagrams leaves a backend only if that left.
    fn moved(&self, node: usize, target: Target, [old, new]: [&str; 2], before: Instant) {
        let allowed = self.oracle.allowed(node, target.service, before, Instant::now());
        if old != new && self.place(old).is_some_and(|place| allowed.always.contains(&place)) {
            let Target { service, kind, to } = target;
            let sentence = format!("s{service}, {kind} to {to}: {old}, then {new} without need");
            self.tally.note(&self.tally.wrong, sentence);
        }
    }

    /// A connection never leaves its backend.
    fn stayed(&self, target: Target, old: &str, new: &str) {
        if old != new {
            let Target { service, kind, to } = target;
            let sentence = format!("s{service}, {kind} to {to}: {old}, then {new}");
            self.tally.note(&self.tally.wrong, sentence);
        }
    }

    fn broken(&self, target: Target, error: &std::io::Error) {
        let Target { service, kind, to } = target;
        let sentence = format!("s{service}, {kind} to {to}: a connection broke: {error}");
        self.tally.note(&self.tally.failed, sentence);
    }
}
