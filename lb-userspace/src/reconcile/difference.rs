//! Plans only what differs from last time, in a moment however much there is:
//! the same writes as if every Service port was looked at. Where one Service
//! port concerns others, because it wants what they have or nothing is left,
//! everything is planned instead.

use super::frontends::{Claims, NetworkFacts, rows_of};
use super::moves::move_some;
use super::place::place;
use super::plan::{Plan, Steps, retire, settle};
use super::state::{Programmed, ProgrammedService};
use crate::dataplane::maps::FrontendId;
use crate::desired::{Desired, DesiredService, ServicePortKey};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Service ports that differ, in their order.
#[derive(Debug, Default)]
struct Difference<'a> {
    /// Those that are programmed otherwise.
    known: Vec<&'a Arc<DesiredService>>,
    /// Those that are not programmed.
    new: Vec<&'a Arc<DesiredService>>,
    /// Those that are not desired.
    gone: Vec<ServicePortKey>,
}

impl<'a> Difference<'a> {
    fn of(programmed: &BTreeMap<ServicePortKey, ProgrammedService>, desired: &'a Desired) -> Self {
        let mut difference = Self::default();
        let mut programmed = programmed.iter().peekable();
        for (key, service) in &desired.services {
            // The same allocation has the same key, and to compare keys takes longer
            // than all the rest.
            let stays = |(_, state): &(_, &ProgrammedService)| {
                state.settled.as_ref().is_some_and(|settled| Arc::ptr_eq(settled, service))
            };
            if programmed.next_if(stays).is_some() {
                continue;
            }
            loop {
                let order =
                    programmed.peek().map_or(Ordering::Greater, |(known, _)| known.cmp(&key));
                if order == Ordering::Greater {
                    difference.new.push(service);
                    break;
                }
                let Some((known, state)) = programmed.next() else { break };
                if order == Ordering::Less {
                    difference.gone.push(known.clone());
                    continue;
                }
                let settled = state.settled.as_ref();
                if !settled.is_some_and(|settled| Arc::ptr_eq(settled, service)) {
                    difference.known.push(service);
                }
                break;
            }
        }
        difference.gone.extend(programmed.map(|(key, _)| key.clone()));
        difference
    }

    fn services(&self) -> impl Iterator<Item = &'a Arc<DesiredService>> {
        self.known.iter().chain(&self.new).copied()
    }
}

/// Plans what differs; says whether that is all. If not, the rest of it is left
/// to who plans everything.
pub(super) fn plan(
    programmed: &mut Programmed,
    desired: &Desired,
    facts: &NetworkFacts,
    now: Instant,
    steps: &mut Steps,
    plan: &mut Plan,
) -> bool {
    let difference = Difference::of(&programmed.services, desired);
    let Some(old) = rows_in_force(programmed, &difference, facts) else {
        return false;
    };
    if !is_free(programmed, &old, &difference, facts) {
        return false;
    }
    let mut claims = Claims::new([u32::MAX; 2]);
    for service in difference.services() {
        let before = steps.count();
        let Ok(place) = place(programmed, &mut claims, service, facts, now) else {
            return false;
        };
        settle(programmed, service, place, now, steps);
        plan.changed += usize::from(steps.count() > before);
    }
    plan.changed += difference.gone.len();
    for key in &difference.gone {
        retire(programmed, key, now, steps);
    }
    move_some(programmed, &old, &claims.into_rows(), facts, steps);
    true
}

/// The ports' rows that the Service ports in question have now; none if that
/// can't be told.
fn rows_in_force(
    programmed: &Programmed,
    difference: &Difference<'_>,
    facts: &NetworkFacts,
) -> Option<BTreeSet<FrontendId>> {
    let known = difference.known.iter().map(|service| &service.key);
    let mut rows = BTreeSet::new();
    for key in known.chain(&difference.gone) {
        let service = programmed.services.get(key)?;
        let settled = service.settled.as_ref()?;
        let ids = rows_of(settled, service.id, facts).into_iter().map(|(id, _)| id);
        rows.extend(ids.filter(|id| !id.is_address()));
    }
    Some(rows)
}

/// Whether everything that is wanted is free, or in the hands of those who may
/// give it away, and fits.
fn is_free(
    programmed: &Programmed,
    old: &BTreeSet<FrontendId>,
    difference: &Difference<'_>,
    facts: &NetworkFacts,
) -> bool {
    // Ids do not matter here.
    let wanted = difference.services().flat_map(|service| rows_of(service, 0, facts));
    let mut new = [0_usize; 2];
    for (id, _) in wanted.filter(|(id, _)| !old.contains(id)) {
        if programmed.frontends.contains_key(&id) {
            if !id.is_address() {
                return false;
            }
        } else {
            new[id.family()] += 1;
        }
    }
    // Rows that go make room, which is not counted: with so little left,
    // everything is looked at.
    new == [0; 2]
        || (0..2).all(|family| {
            let used = programmed.frontends.keys().filter(|id| id.family() == family).count();
            used + new[family] <= programmed.frontend_capacity[family] as usize
        })
}
