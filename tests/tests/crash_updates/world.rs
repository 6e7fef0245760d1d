//! The maps, the programs that read them, and packets sent between writes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lb_common::sctp::chunk;
use lb_common::tcp::flag;
use lb_common::value::backend_state;
use lb_common::{Address as _, Backend, V4, V6};
use lb_tests::netns::{Namespace, Naming};
use lb_tests::packet::{Packet, parse};
use lb_tests::prog::{Prog, Random, Rig, action};
use lb_userspace::dataplane::maps::{FrontendId, Maps};
use lb_userspace::dataplane::{HookOptions, Hooks, MapSizes, PinDir, cleanup};
use lb_userspace::desired::{DesiredService, Protocol};
use lb_userspace::reconcile::Programmer;

use crate::expect::{Client, Fate, Reference, Target, clients};
use crate::services::place_of;

/// Packets between two writes.
const PROBES: usize = 8;
/// Slots of a segment that are looked at between two writes.
const SLOTS: usize = 16;
/// Source ports that are used one after the other; then the flows are forgotten,
/// so that each packet begins one.
const PORTS: std::ops::Range<u16> = 1_024..31_024;

/// What was tried, to be printed.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    pub(crate) updates: usize,
    pub(crate) writes: usize,
    pub(crate) kills: usize,
    pub(crate) failures: usize,
    pub(crate) waits: usize,
    packets: usize,
    served: usize,
}

/// Pinned maps that nobody writes, with programs over them.
pub(crate) struct World {
    rig: Rig,
    pub(crate) maps: Maps,
    pub(crate) now: Instant,
    pub(crate) tried: Tried,
    port: u16,
    pins: PathBuf,
    _netns: Namespace,
}

impl World {
    pub(crate) fn new() -> Self {
        let netns = Namespace::new(Naming::Unique, "crash").expect("a namespace");
        let pins = PathBuf::from("/sys/fs/bpf").join(netns.name());
        let sizes = MapSizes {
            services: 1_024,
            backends: 512,
            slots: 131_072,
            frontends: 256,
            flows_v4: 4_096,
            flows_v6: 4_096,
            interfaces: 16,
            affinity: 256,
            prefixes: 64,
        };
        let options = HookOptions { sizes, ..HookOptions::new(&pins) };
        let opened =
            netns.run(|| Hooks::open(&options).map(drop).map_err(|error| error.to_string()));
        opened.expect("a thread in the namespace").expect("the data plane");
        let rig = Rig::over(&PinDir::new(&pins));
        let maps = Maps::open(&pins).expect("the maps");
        let now = Instant::now();
        Self { rig, maps, now, tried: Tried::default(), port: PORTS.start, pins, _netns: netns }
    }

    /// An agent starts.
    pub(crate) fn agent(&self) -> Programmer {
        Programmer::open(&self.pins, self.now).expect("the maps are sound")
    }

    pub(crate) fn wait(&mut self, random: &mut Random) {
        self.now += Duration::from_millis(u64::try_from(random.below(3_000)).expect("few"));
    }

    /// Asks the maps and the programs. The maps may be anywhere between these
    /// states: what they agree on must be so, and every answer must come from an
    /// endpoint that the Service port has in one of them.
    pub(crate) fn check(&mut self, between: &Between, random: &mut Random) {
        self.walk(random);
        if between.targets.is_empty() {
            return;
        }
        for _ in 0..PROBES {
            let target = between.targets[random.below(between.targets.len())];
            let client = clients(target.0.is_ipv6())[random.below(3)];
            self.probe(&between.states, client, target);
        }
    }

    /// Asks for everything that the one state knows.
    pub(crate) fn check_all(&mut self, state: &Reference, random: &mut Random) {
        self.walk(random);
        let all: Vec<Target> =
            state.services().values().flat_map(|service| targets_of(state, service)).collect();
        for target in all {
            for client in clients(target.0.is_ipv6()) {
                self.probe(std::slice::from_ref(state), client, target);
            }
        }
    }

    fn probe(&mut self, between: &[Reference], client: Client, target: Target) {
        let found = self.send(client, target);
        self.tried.packets += 1;
        self.tried.served += usize::from(matches!(found, Found::Served(_)));
        let fates: Vec<Fate> = between.iter().map(|state| state.fate(client, target)).collect();
        // Without an endpoint of one Service port, that of another may answer.
        let owner = |state: &Reference| state.owner(target).map(|one| one.key.clone());
        let alike = |fate: &Fate| {
            let one_owner = || between.iter().all(|one| owner(one) == owner(&between[0]));
            !matches!(fate, Fate::NoEndpoint(_)) || one_owner()
        };
        let agreed = fates.iter().all(|fate| *fate == fates[0] && alike(fate)).then_some(fates[0]);
        let said = || {
            let (to, protocol) = target;
            let id = FrontendId::port(to.ip(), to.port(), protocol.number());
            let row = self.maps.frontends.get(id);
            let owners: Vec<_> = between.iter().map(owner).collect();
            format!(
                "{} to {id}: {found:?}, where {fates:?} of {owners:?} is desired; {row:?}",
                client.addr
            )
        };
        match (agreed, found) {
            (_, Found::Served(endpoint)) => {
                let is_one = match between {
                    [state] => state.answers(client, target).contains(&endpoint),
                    _ => may_answer(between, target).contains(&endpoint),
                };
                assert!(is_one, "another's endpoint: {}", said());
                let closed = agreed.is_some_and(|fate| fate != Fate::Served);
                assert!(!closed, "{}", said());
            }
            (Some(Fate::Served), _) => panic!("nobody answers: {}", said()),
            (Some(Fate::Passed), Found::Closed) => panic!("not ours: {}", said()),
            (Some(fate), Found::Passed) if fate != Fate::Passed => panic!("let go: {}", said()),
            _ => {}
        }
    }

    fn send(&mut self, client: Client, (to, protocol): Target) -> Found {
        self.port += 1;
        if self.port == PORTS.end {
            self.rig.clear_flows();
            self.port = PORTS.start;
        }
        let from = SocketAddr::new(client.addr, self.port);
        let packet = match protocol {
            Protocol::Tcp => Packet::tcp(from, to, flag::SYN),
            Protocol::Udp => Packet::udp(from, to),
            Protocol::Sctp => Packet::sctp(from, to, chunk::INIT),
        };
        let frame = packet.macs(client.by.entering()).bytes();
        let (done, frame) = self.rig.run_uncounted(Prog::Ingress, client.by.index, &frame);
        if !action::TC_PASS.contains(&done) {
            return Found::Closed;
        }
        let after = parse(&frame, true).expect("a packet").dst;
        if after == to { Found::Passed } else { Found::Served(after) }
    }

    /// Slots in force lead to backends of their own Service port, of its own
    /// endpoints, and no two segments overlap.
    fn walk(&self, random: &mut Random) {
        let mut segments = Vec::new();
        for (id, _) in self.maps.names.rows().expect("the names") {
            let service = self.maps.services.get(id).expect("inside");
            let mut places = BTreeSet::new();
            for (index, segment) in service.segments.into_iter().enumerate() {
                let len = usize::try_from(segment.len).expect("few");
                for step in 0..len.min(SLOTS) {
                    // Of long tables only some.
                    let step = if len > SLOTS { random.below(len) } else { step };
                    let slot = segment.base + u32::try_from(step).expect("few");
                    let row = backend_at(&self.maps, slot);
                    assert_eq!(row.service, id, "slot {slot} leads to another's backend");
                    assert_ne!(row.state, backend_state::FREE, "slot {slot} leads nowhere");
                    assert_eq!(usize::from(row.family), index / 2, "another family");
                    places.insert(place_of(endpoint(&row).ip()));
                }
                if len > 0 {
                    segments.push((segment.base, segment.base + segment.len));
                }
            }
            assert!(places.len() <= 1, "service {id} has endpoints of {places:?}");
        }
        segments.sort_unstable();
        for pair in segments.windows(2) {
            assert!(pair[0].1.next_multiple_of(2) <= pair[1].0, "segments overlap: {pair:?}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = cleanup(&self.pins);
        if !std::thread::panicking() {
            println!("{:?}", self.tried);
        }
    }
}

/// What a program did with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Served(SocketAddr),
    Closed,
    Passed,
}

/// The backend of a slot.
pub(crate) fn backend_at(maps: &Maps, slot: u32) -> Backend {
    let word = maps.slots.word(slot / 2).expect("inside");
    let half = (word >> (32 * (slot % 2))) & u64::from(u32::MAX);
    let id = u32::try_from(half).expect("half a word");
    maps.backends.get(id).expect("inside")
}

/// The address and port of a backend's row.
pub(crate) fn endpoint(row: &Backend) -> SocketAddr {
    let addr = match row.family {
        0 => V4::from_words(row.addr).into(),
        _ => V6::from_words(row.addr).into(),
    };
    SocketAddr::new(addr, row.port.get())
}

/// Who may answer at a target: all endpoints, in any of the states, of who has it
/// in any.
fn may_answer(between: &[Reference], target: Target) -> BTreeSet<SocketAddr> {
    let owners: BTreeSet<_> =
        between.iter().filter_map(|state| state.owner(target)).map(|one| &one.key).collect();
    let all = owners.into_iter().flat_map(|key| between.iter().map(move |one| (one, key)));
    all.flat_map(|(state, key)| state.all_endpoints(key)).collect()
}

/// States that the maps may be between.
pub(crate) struct Between {
    states: Vec<Reference>,
    /// Those of all Service ports that are not the same in all states.
    targets: Vec<Target>,
}

impl Between {
    pub(crate) fn new(state: Reference) -> Self {
        Self { states: vec![state], targets: Vec::new() }
    }

    /// One more.
    pub(crate) fn push(&mut self, state: Reference) {
        self.states.push(state);
        let mut targets = BTreeSet::new();
        for state in &self.states {
            for (key, service) in state.services() {
                let same = |other: &Reference| {
                    other.services().get(key).is_some_and(|other| Arc::ptr_eq(service, other))
                        && other.state().facts == state.state().facts
                };
                if !self.states.iter().all(same) {
                    targets.extend(targets_of(state, service));
                }
            }
        }
        self.targets = targets.into_iter().collect();
    }
}

/// Where a Service port answers, and another port of each address.
fn targets_of(state: &Reference, service: &DesiredService) -> Vec<Target> {
    let protocol = service.key.protocol;
    let own = state.frontends().filter(|(_, _, owner, _)| owner.key == service.key);
    let mut targets: Vec<Target> = own.map(|(addr, ..)| (addr, protocol)).collect();
    let others = service.cluster_ips.iter().map(|addr| (SocketAddr::new(*addr, 9), protocol));
    targets.extend(others);
    targets
}
