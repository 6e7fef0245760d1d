//! What becomes of the agents: killed, replaced and absent at random; and what
//! each node has in force, read from its maps alone.

use crate::oracle::Oracle;
use crate::services::{COUNT, State, name};
use crate::tally::Tally;
use anyhow::{Context as _, Result};
use lb_tests::agent::Agent;
use lb_tests::prog::Random;
use lb_userspace::dataplane::maps::Maps;
use lb_userspace::view::{ServiceView, services};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at what is in force.
const LOOK: Duration = Duration::from_millis(100);
/// How long a healthy agent may take to put a change in force. It takes
/// milliseconds; the machine has much else to do.
const LATE: Duration = Duration::from_secs(20);

/// Where an agent is, whichever process that is at a time.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) node: usize,
    pub(crate) pin_dir: PathBuf,
    at: Mutex<Occupant>,
}

#[derive(Debug, Clone, Copy)]
struct Occupant {
    pid: Option<u32>,
    healthy: Option<Instant>,
}

impl Seat {
    /// The seat of an agent that is healthy.
    pub(crate) fn new(node: usize, agent: &Agent) -> Self {
        let at = Occupant { pid: agent.pid(), healthy: Some(Instant::now()) };
        Self { node, pin_dir: agent.pin_dir().to_owned(), at: Mutex::new(at) }
    }

    fn set(&self, pid: Option<u32>, healthy: Option<Instant>) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Occupant { pid, healthy };
    }

    fn get(&self) -> Occupant {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process at present.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.get().pid
    }

    /// For how long it has been healthy.
    fn healthy_for(&self, now: Instant) -> Duration {
        self.get().healthy.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

fn milliseconds(random: &mut Random, below: usize) -> Duration {
    Duration::from_millis(random.below(below).try_into().unwrap_or(0))
}

/// Disturbs an agent until told to stop, and leaves it healthy.
pub(crate) fn disturb(
    agent: &mut Agent,
    seat: &Seat,
    tally: &Tally,
    mut random: Random,
) -> Result<()> {
    loop {
        tally.rest(Duration::from_secs(1) + milliseconds(&mut random, 6000));
        if !tally.going() {
            return Ok(());
        }
        seat.set(agent.pid(), None);
        match random.below(10) {
            0..=4 => {
                agent.kill();
                tally.kills.one();
                tally.rest(milliseconds(&mut random, 2000));
                agent.run()?;
                if random.one_in(2) {
                    // On its way, at any step.
                    tally.rest(milliseconds(&mut random, 1500));
                    agent.kill();
                    tally.kills.one();
                    agent.run()?;
                }
            }
            5..=8 => {
                agent.take_over()?;
                tally.upgrades.one();
            }
            _ => {
                agent.terminate()?;
                tally.stops.one();
                tally.rest(milliseconds(&mut random, 10_000));
                agent.run()?;
            }
        }
        agent.ready()?;
        seat.set(agent.pid(), Some(Instant::now()));
    }
}

/// The addresses of each backend.
pub(crate) type Addresses = Vec<[IpAddr; 2]>;

/// Tells the oracle what is in force on a node, until told to stop.
pub(crate) fn watch(
    seat: &Seat,
    backends: &Addresses,
    oracle: &Oracle,
    tally: &Tally,
) -> Result<()> {
    let maps = open(&seat.pin_dir)?;
    let mut complained = None;
    while tally.going() {
        if let Some(version) = in_force(&maps, backends, oracle)? {
            oracle.seen(seat.node, version, Instant::now());
        }
        let now = Instant::now();
        let waits = oracle.waiting(seat.node, now).min(seat.healthy_for(now));
        let quiet = complained.is_none_or(|at: Instant| at.elapsed() > LATE);
        if waits > LATE && quiet {
            complained = Some(now);
            let sentence = format!("n{}: a change is not in force after {waits:?}", seat.node + 1);
            tally.note(&tally.lasting, sentence);
        }
        tally.rest(LOOK);
    }
    Ok(())
}

/// The maps of a node.
pub(crate) fn open(pin_dir: &Path) -> Result<Maps> {
    Maps::open(pin_dir).with_context(|| format!("open the maps below {}", pin_dir.display()))
}

/// The version that is in force as a whole, if one is.
pub(crate) fn in_force(maps: &Maps, backends: &Addresses, oracle: &Oracle) -> Result<Option<u64>> {
    let views = services(maps)?;
    let marker = |view: &ServiceView| view.name.strip_prefix("marker-")?.parse().ok();
    let Some(version) = views.iter().find_map(marker) else { return Ok(None) };
    let state = oracle.state(version);
    Ok(state.is_some_and(|state| is(&views, &state, backends)).then_some(version))
}

/// Whether exactly this is programmed.
fn is(views: &[ServiceView], state: &State, backends: &Addresses) -> bool {
    (0..COUNT).all(|index| {
        let name = name(index);
        let mut ports = views.iter().filter(|view| view.name == name);
        let Some(kept) = &state[index] else { return ports.next().is_none() };
        let wanted: BTreeSet<IpAddr> = kept.pods.iter().flat_map(|pod| backends[*pod]).collect();
        let active = |view: &ServiceView| -> BTreeSet<IpAddr> {
            let active = view.backends.iter().filter(|backend| backend.state == "active");
            active.map(|backend| backend.address).collect()
        };
        ports.clone().count() == 2 && ports.all(|view| active(view) == wanted)
    })
}
