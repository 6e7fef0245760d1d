//! Many requests, and who answered them.

use crate::client::{self, Answer};
use crate::netns::Namespace;
use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{Scope, ScopedJoinHandle};

/// Failures that make further requests pointless: each may take seconds.
const ENOUGH: usize = 3;

/// What a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// HTTP, each on a connection of its own.
    Http,
    /// A datagram and its echo, each from a socket of its own.
    Udp,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http, Self::Udp];

    /// The port of the cluster addresses.
    pub const fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Udp => 53,
        }
    }

    /// One request, in the namespace of the calling thread.
    pub fn ask(self, to: SocketAddr) -> io::Result<Answer> {
        match self {
            Self::Http => client::get(to),
            Self::Udp => client::echo(to),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Http => "HTTP",
            Self::Udp => "UDP",
        })
    }
}

/// Requests that several threads send while something else happens.
#[derive(Debug, Default)]
pub struct Load {
    stop: AtomicBool,
    requests: AtomicU64,
}

impl Load {
    /// Sends requests of both protocols to these addresses, each from a thread
    /// of its own, while `meanwhile` runs. What it returns, and all answers.
    pub fn run<T>(
        targets: &[(&Namespace, Kind, SocketAddr)],
        meanwhile: impl FnOnce(&Self) -> Result<T>,
    ) -> Result<(T, Tally)> {
        let load = Self::default();
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (netns, kind, to) in targets {
                threads.push(Tally::under(&load, scope, netns, *kind, *to));
            }
            // Should it panic, the threads must still end.
            let result = catch_unwind(AssertUnwindSafe(|| meanwhile(&load)));
            load.stop.store(true, Ordering::Relaxed);
            let mut all = Tally::default();
            for thread in threads {
                match thread.join() {
                    Ok(tally) => all.merge(tally?),
                    Err(panic) => resume_unwind(panic),
                }
            }
            Ok((result.unwrap_or_else(|panic| resume_unwind(panic))?, all))
        })
    }

    /// How many requests there were so far.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }
}

/// Who answered, how often, and what failed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Answers of each backend.
    pub backends: BTreeMap<String, u64>,
    /// As whom backends saw the client.
    pub peers: BTreeSet<IpAddr>,
    /// How often the backend saw another port than the client's.
    pub moved_ports: u64,
    /// What failed, with the number of the request.
    pub failures: Vec<String>,
}

impl Tally {
    /// Sends requests one after the other, and stops after three failures.
    pub fn of(netns: &Namespace, kind: Kind, to: SocketAddr, count: u64) -> Result<Self> {
        netns.run(|| {
            let mut tally = Self::default();
            while tally.total() < count && tally.failures.len() < ENOUGH {
                tally.add(kind, to);
            }
            tally
        })
    }

    fn under<'scope>(
        load: &'scope Load,
        scope: &'scope Scope<'scope, '_>,
        netns: &'scope Namespace,
        kind: Kind,
        to: SocketAddr,
    ) -> ScopedJoinHandle<'scope, Result<Self>> {
        scope.spawn(move || {
            netns.run(|| {
                let mut tally = Self::default();
                while !load.stop.load(Ordering::Relaxed) {
                    tally.add(kind, to);
                    load.requests.fetch_add(1, Ordering::Relaxed);
                }
                tally
            })
        })
    }

    fn add(&mut self, kind: Kind, to: SocketAddr) {
        match kind.ask(to) {
            Ok(answer) => self.answer(answer),
            Err(error) => {
                let number = self.total();
                self.failures.push(format!("{kind} request {number} to {to}: {error}"));
            }
        }
    }

    /// Counts an answer.
    pub fn answer(&mut self, answer: Answer) {
        *self.backends.entry(answer.backend).or_default() += 1;
        self.peers.insert(answer.peer.ip());
        self.moved_ports += u64::from(answer.peer.port() != answer.local.port());
    }

    /// Adds another.
    pub fn merge(&mut self, other: Self) {
        let Self { backends, peers, moved_ports, failures } = other;
        for (backend, count) in backends {
            *self.backends.entry(backend).or_default() += count;
        }
        self.peers.extend(peers);
        self.moved_ports += moved_ports;
        self.failures.extend(failures);
    }

    /// How many were answered.
    pub fn answered(&self) -> u64 {
        self.backends.values().sum()
    }

    /// How many there were.
    pub fn total(&self) -> u64 {
        self.answered() + u64::try_from(self.failures.len()).unwrap_or(u64::MAX)
    }

    /// Fails unless every request was answered, and by exactly these backends.
    pub fn expect(&self, backends: &[&str]) -> Result<()> {
        ensure!(
            self.failures.is_empty(),
            "{} of {} requests failed, the first: {}",
            self.failures.len(),
            self.total(),
            self.failures[0]
        );
        let seen: Vec<&str> = self.backends.keys().map(String::as_str).collect();
        let mut expected = backends.to_vec();
        expected.sort_unstable();
        ensure!(seen == expected, "answered by {self}, expected from {}", expected.join(", "));
        Ok(())
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (backend, count)) in self.backends.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{backend} {count}")?;
        }
        if !self.failures.is_empty() {
            write!(f, "; {} failed", self.failures.len())?;
        }
        Ok(())
    }
}
