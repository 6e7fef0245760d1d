//! Frontends on the way from what is in force to what is wanted: those of all
//! Service ports, or of some.

use super::change::Change;
use super::frontends::NetworkFacts;
use super::plan::Steps;
use super::state::{Programmed, address_bucket, socket_bucket};
use crate::dataplane::maps::FrontendId;
use lb_common::value::frontend_kind;
use lb_common::{Frontend, filter};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Brings all frontends to what is wanted.
pub(super) fn move_all(
    programmed: &mut Programmed,
    wanted: BTreeMap<FrontendId, Frontend>,
    steps: &mut Steps,
) {
    let old = std::mem::replace(&mut programmed.frontends, wanted);
    let wanted = &programmed.frontends;
    let gone = old.keys().filter(|id| !wanted.contains_key(id)).copied().collect();
    let new = wanted.iter().filter(|(id, row)| old.get(id) != Some(row));
    let (others, fresh) =
        new.map(|(id, row)| (*id, *row)).partition(|(id, _)| old.contains_key(id));
    // Also of those that stay: what is taken over may lack some.
    let stay: Vec<FrontendId> =
        wanted.iter().filter(|(id, row)| old.get(id) == Some(row)).map(|(id, _)| *id).collect();
    for id in stay {
        steps.filter.extend(flag(programmed, id));
    }
    write(programmed, gone, New { fresh, others }, steps);
}

/// The flag by which packets to a frontend are noticed, if it lacks.
fn flag(programmed: &mut Programmed, id: FrontendId) -> Option<Change> {
    if id.is_address() {
        programmed.flag(address_bucket(id.addr), filter::SERVICE_ADDR)
    } else {
        programmed.flag(socket_bucket(id.addr, id.port, id.proto), filter::FRONTEND)
    }
}

/// Moves the rows of some Service ports from `old`, where they are, to `wanted`,
/// and the rows of the addresses that they are on.
pub(super) fn move_some(
    programmed: &mut Programmed,
    old: &BTreeSet<FrontendId>,
    wanted: &BTreeMap<FrontendId, Frontend>,
    facts: &NetworkFacts,
    steps: &mut Steps,
) {
    let mut gone: BTreeSet<FrontendId> =
        old.iter().filter(|id| !wanted.contains_key(id)).copied().collect();
    let rows = &programmed.frontends;
    let mut new: BTreeMap<FrontendId, Frontend> = wanted
        .iter()
        .filter(|(id, row)| !id.is_address() && rows.get(id) != Some(row))
        .map(|(id, row)| (*id, *row))
        .collect();
    let addresses: BTreeSet<IpAddr> = gone.iter().chain(new.keys()).map(|id| id.addr).collect();
    let mut before: BTreeSet<FrontendId> =
        new.keys().filter(|id| rows.contains_key(id)).copied().collect();
    for id in &gone {
        programmed.frontends.remove(id);
    }
    programmed.frontends.extend(&new);
    for addr in addresses {
        let id = FrontendId::address(addr);
        match whole_row(&programmed.frontends, addr, facts) {
            Some(row) if programmed.frontends.get(&id) != Some(&row) => {
                before.extend(programmed.frontends.insert(id, row).map(|_| id));
                new.insert(id, row);
            }
            None if programmed.frontends.remove(&id).is_some() => {
                gone.insert(id);
            }
            Some(_) | None => {}
        }
    }
    let (others, fresh) = new.into_iter().partition(|(id, _)| before.contains(id));
    write(programmed, gone.into_iter().collect(), New { fresh, others }, steps);
}

/// Rows that come.
struct New {
    /// Where there is none.
    fresh: Vec<(FrontendId, Frontend)>,
    /// In place of others.
    others: Vec<(FrontendId, Frontend)>,
}

/// The row of a whole address, by the rows of its ports: what `rows_of` says
/// for each of them, and `Claims` for all.
fn whole_row(
    rows: &BTreeMap<FrontendId, Frontend>,
    addr: IpAddr,
    facts: &NetworkFacts,
) -> Option<Frontend> {
    if facts.node_addresses.contains(&addr) {
        return None;
    }
    let of_address = rows.range(FrontendId::address(addr)..).take_while(|(id, _)| id.addr == addr);
    let kinds = of_address.filter(|(id, _)| !id.is_address()).map(|(_, row)| row.kind);
    let whole = |kind| match kind {
        frontend_kind::CLUSTER_IP => Some(frontend_kind::ADDRESS),
        frontend_kind::LOAD_BALANCER | frontend_kind::EXTERNAL_IP => {
            Some(frontend_kind::EXTERNAL_ADDRESS)
        }
        _ => None,
    };
    let kind = kinds.filter_map(whole).min_by_key(|kind| *kind != frontend_kind::ADDRESS)?;
    Some(Frontend { kind, ..Frontend::default() })
}

/// Adds, replaces and removes frontends, in this order: a Service port that moves
/// is never without any, unless it trades with another. The row of a whole
/// address is there only while the rows of its ports are, so that no known port
/// is refused.
fn write(programmed: &mut Programmed, gone: Vec<FrontendId>, new: New, steps: &mut Steps) {
    let (gone_addresses, gone_ports): (Vec<_>, Vec<_>) =
        gone.into_iter().partition(FrontendId::is_address);
    let (new_addresses, new_ports): (Vec<_>, Vec<_>) =
        new.fresh.into_iter().chain(new.others).partition(|(id, _)| id.is_address());
    // An address that gains its first port gets its own row last; one that
    // loses all its ports loses its own row first.
    let gone: Vec<_> = gone_addresses.into_iter().chain(gone_ports).collect();
    let (sooner, later) = make_room(programmed, gone);
    steps.frontends.extend(sooner.into_iter().map(|id| Change::Frontend { id, row: None }));
    for (id, row) in new_ports.into_iter().chain(new_addresses) {
        steps.filter.extend(flag(programmed, id));
        steps.frontends.push(Change::Frontend { id, row: Some(row) });
    }
    steps.frontends.extend(later.into_iter().map(|id| Change::Frontend { id, row: None }));
}

/// Those of the rows that go which must go before others come, since a map can't
/// hold all of them at once, and the rest.
fn make_room(programmed: &Programmed, gone: Vec<FrontendId>) -> (Vec<FrontendId>, Vec<FrontendId>) {
    let mut lacking = [0_usize; 2];
    if !gone.is_empty() {
        for id in programmed.frontends.keys().chain(&gone) {
            lacking[id.family()] += 1;
        }
    }
    for (lacking, capacity) in lacking.iter_mut().zip(programmed.frontend_capacity) {
        *lacking = lacking.saturating_sub(capacity as usize);
    }
    gone.into_iter().partition(|id| {
        let lacking = &mut lacking[id.family()];
        let sooner = *lacking > 0;
        *lacking = lacking.saturating_sub(1);
        sooner
    })
}
