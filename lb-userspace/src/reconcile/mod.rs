//! Brings the kernel's maps to what is desired, one safe write after the other.
//!
//! `plan` decides on plain data and knows no map; [`Programmer`] is the only
//! one that writes. An agent may die between any two writes: what is in the
//! kernel then serves, and the next [`Programmer`] goes on from there. After a
//! failed write this one does the same, instead of trusting its picture.

mod adopt;
mod change;
mod difference;
mod drift;
mod error;
mod extents;
mod frontends;
mod ids;
mod image;
mod moves;
mod name;
mod place;
mod plan;
mod refusal;
mod service_cidrs;
mod slots;
mod state;
#[cfg(test)]
mod tests;

pub use error::ApplyError;
pub use frontends::NetworkFacts;
pub use name::key_of;
pub use refusal::Refusal;
pub use state::QUARANTINE;

use crate::dataplane::maps::{Maps, MapsError};
use crate::desired::{Desired, ServicePortKey};
use crate::drift::Drift;
use change::Change;
use image::Image;
use ipnet::IpNet;
use state::Programmed;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// What the maps that are pinned below `pin_dir` hold otherwise than `desired`
/// asks for, as far as that fits; writes nothing.
pub fn verify(
    pin_dir: &Path,
    desired: &Desired,
    facts: &NetworkFacts,
    now: Instant,
) -> Result<Vec<Drift>, MapsError> {
    let maps = Maps::open(pin_dir)?;
    let programmed = adopted(&maps, now)?;
    compare(programmed, desired, &BTreeSet::new(), facts, &maps, now)
}

/// What an agent that starts would continue with.
fn adopted(maps: &Maps, now: Instant) -> Result<Programmed, MapsError> {
    Ok(adopt::adopt(Image::read(maps)?, now).0)
}

/// Plans the way to what is desired, and compares its end with the kernel.
fn compare(
    mut programmed: Programmed,
    desired: &Desired,
    held: &BTreeSet<ServicePortKey>,
    facts: &NetworkFacts,
    maps: &Maps,
    now: Instant,
) -> Result<Vec<Drift>, MapsError> {
    // Everything is looked at, whatever is known of last time.
    programmed.settled = None;
    plan::plan(&mut programmed, desired, held, facts, now);
    Ok(drift::find(&programmed, maps)?.drift)
}

/// What came of bringing the kernel up to date.
#[derive(Debug, Default)]
pub struct ApplyReport {
    /// How many Service ports changed.
    pub changed: usize,
    /// How many rows of maps, or runs of slots, that took.
    pub writes: usize,
    /// How many bytes these are.
    pub bytes: usize,
    /// Service ports that keep what they had, and why.
    pub refused: Vec<(ServicePortKey, Refusal)>,
    /// What of the node and the cluster stays as it was, and why.
    pub unfit: Vec<(&'static str, Refusal)>,
    /// Whether every Service port was looked at, not only those that changed.
    pub full: bool,
    /// How long it took.
    pub duration: Duration,
}

impl ApplyReport {
    /// Whether trying again soon may help.
    pub fn wants_retry(&self) -> bool {
        let refused = self.refused.iter().map(|(_, refusal)| refusal);
        let mut all = refused.chain(self.unfit.iter().map(|(_, refusal)| refusal));
        all.any(Refusal::is_temporary)
    }
}

/// Writes the maps of one pin directory.
pub struct Programmer {
    maps: Maps,
    /// `None` after a failed write.
    programmed: Option<Programmed>,
    /// Writes that put right what an agent before left halfway; first of all
    /// that come.
    repairs: Vec<Change>,
    /// Service ports that must not lose what they have.
    held: BTreeSet<ServicePortKey>,
    /// Ranges of Services' addresses that must stay, likewise.
    held_cidrs: BTreeSet<IpNet>,
}

/// An update on its way: see [`Programmer::begin`].
pub struct Update {
    /// What is in force when all is written.
    programmed: Programmed,
    changes: std::vec::IntoIter<Change>,
    /// Which Service ports are held then.
    held: BTreeSet<ServicePortKey>,
    report: ApplyReport,
    started: Instant,
}

impl Programmer {
    /// Opens the pinned maps, to continue with what they hold. Writes nothing, but
    /// waits for packets that are under way.
    pub fn open(pin_dir: &Path, now: Instant) -> Result<Self, MapsError> {
        let maps = Maps::open(pin_dir)?;
        let (programmed, repairs) = adopt::adopt(Image::take_over(&maps)?, now);
        let (held, held_cidrs) = (BTreeSet::new(), BTreeSet::new());
        Ok(Self { maps, programmed: Some(programmed), repairs, held, held_cidrs })
    }

    /// Goes on with other maps that are pinned in the place of those before, and
    /// with what they hold.
    pub fn reopen(&mut self, pin_dir: &Path) -> Result<(), MapsError> {
        self.maps = Maps::open(pin_dir)?;
        (self.programmed, self.repairs) = (None, Vec::new());
        Ok(())
    }

    /// How many Service ports are programmed.
    pub fn services(&self) -> usize {
        self.programmed.as_ref().map_or(0, |programmed| programmed.services.len())
    }

    /// Holds every Service port that is programmed: until it is desired with
    /// backends again, or released by [`Programmer::hold_only`], it keeps what
    /// it has. The ranges of Services' addresses are held, too.
    pub fn hold(&mut self) {
        let services = self.programmed.iter().flat_map(|programmed| programmed.services.keys());
        self.held = services.cloned().collect();
        self.held_cidrs = self.programmed.iter().flat_map(Programmed::service_cidrs).collect();
    }

    /// Releases the ranges of Services' addresses that are held.
    pub fn release_cidrs(&mut self) {
        self.held_cidrs.clear();
    }

    /// Goes on holding only those for which `still` says so.
    pub fn hold_only(&mut self, still: impl Fn(&ServicePortKey) -> bool) {
        self.held.retain(still);
    }

    /// How many Service ports are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Brings the kernel to `desired`.
    pub fn apply(
        &mut self,
        desired: &Desired,
        facts: &NetworkFacts,
        now: Instant,
    ) -> Result<ApplyReport, ApplyError> {
        let mut update = self.begin(desired, facts, now)?;
        while self.step(&mut update)? {}
        Ok(self.finish(update))
    }

    /// Plans how to bring the kernel to `desired`. Whoever stops before
    /// [`Programmer::finish`] leaves what serves, and must open the maps anew.
    pub fn begin(
        &mut self,
        desired: &Desired,
        facts: &NetworkFacts,
        now: Instant,
    ) -> Result<Update, ApplyError> {
        let started = Instant::now();
        let (mut programmed, mut changes) = self.take(now)?;
        changes.extend(programmed.expire(now));
        let facts = facts.with_service_cidrs(&self.held_cidrs);
        let plan = plan::plan(&mut programmed, desired, &self.held, &facts, now);
        let report = ApplyReport {
            changed: plan.changed,
            writes: plan.changes.len(),
            bytes: plan.changes.iter().map(Change::bytes).sum(),
            refused: plan.refused,
            unfit: plan.unfit,
            full: plan.full,
            duration: Duration::ZERO,
        };
        changes.extend(plan.changes);
        let held = self.held.iter().filter(|key| plan::is_missing(desired, key)).cloned().collect();
        Ok(Update { programmed, changes: changes.into_iter(), held, report, started })
    }

    /// Does the next write of an update; false if there is none.
    pub fn step(&mut self, update: &mut Update) -> Result<bool, ApplyError> {
        let Some(change) = update.changes.next() else { return Ok(false) };
        self.write(&change, &update.programmed)?;
        Ok(true)
    }

    /// Ends an update of which all is written.
    pub fn finish(&mut self, update: Update) -> ApplyReport {
        let Update { programmed, changes: _, held, report, started } = update;
        self.programmed = Some(programmed);
        self.held = held;
        ApplyReport { duration: started.elapsed(), ..report }
    }

    /// Frees what has rested long enough.
    pub fn expire(&mut self, now: Instant) -> Result<(), ApplyError> {
        let (mut programmed, mut changes) = self.take(now)?;
        changes.extend(programmed.expire(now));
        changes.iter().try_for_each(|change| self.write(change, &programmed))?;
        self.programmed = Some(programmed);
        Ok(())
    }

    /// Puts right what somebody else removed or altered, and says what that
    /// was. Without a picture there is nothing to compare: the next update
    /// begins with what the kernel holds.
    pub fn repair(&mut self) -> Result<Vec<Drift>, ApplyError> {
        // If a write fails, the picture still says how it should be.
        let Some(programmed) = self.programmed.take() else { return Ok(Vec::new()) };
        let found = drift::find(&programmed, &self.maps);
        let repaired = found.map_err(ApplyError::from).and_then(|found| {
            found.changes.iter().try_for_each(|change| self.write(change, &programmed))?;
            Ok(found.drift)
        });
        self.programmed = Some(programmed);
        repaired
    }

    /// What the kernel holds otherwise than `desired` asks for, as far as that
    /// fits; writes nothing.
    pub fn verify(
        &self,
        desired: &Desired,
        facts: &NetworkFacts,
        now: Instant,
    ) -> Result<Vec<Drift>, MapsError> {
        let facts = facts.with_service_cidrs(&self.held_cidrs);
        let programmed = self.programmed.clone();
        let programmed = programmed.map_or_else(|| adopted(&self.maps, now), Ok)?;
        compare(programmed, desired, &self.held, &facts, &self.maps, now)
    }

    /// When [`Programmer::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.programmed.as_ref().and_then(Programmed::next_expiry)
    }

    /// Takes the picture away, so that a failure on the way leaves none, with the
    /// writes that it needs first.
    fn take(&mut self, now: Instant) -> Result<(Programmed, Vec<Change>), ApplyError> {
        match self.programmed.take() {
            Some(programmed) => Ok((programmed, std::mem::take(&mut self.repairs))),
            None => Ok(adopt::adopt(Image::take_over(&self.maps)?, now)),
        }
    }

    fn write(&mut self, change: &Change, programmed: &Programmed) -> Result<(), ApplyError> {
        change::write(&mut self.maps, change)
            .map_err(|source| ApplyError::write(change, programmed, &self.maps, source))
    }
}
