//! What is wrong with hooks and with the rows of interfaces: comparisons that
//! the agent and `lb verify` share.

use super::HookPoint;
use super::rows::{Rows, row_of, row_of_node};
use super::sys::{LinkInfo, LinkKind};
use super::{DataplaneError, Mode};
use crate::drift::{Drift, Part};
use crate::netlink::{self, Link, NetlinkError};
use lb_common::names::MAP_INTERFACES;
use lb_common::value::NODE_ITSELF;
use std::collections::BTreeSet;

/// What an interface is called in reports.
pub(super) fn interface(name: &str) -> String {
    format!("interface {name}")
}

/// What is wrong with a link that should run `program` on an interface; any
/// program, if it is none.
pub(super) fn link_fault(
    info: Option<LinkInfo>,
    kind: LinkKind,
    index: u32,
    program: Option<u32>,
) -> Option<&'static str> {
    let Some(info) = info else {
        return Some("no link is pinned");
    };
    if info.kind != kind {
        return Some("the pin is another kind of link");
    }
    if info.index != index {
        return Some("the link is detached");
    }
    let ours = program.is_none_or(|program| program == info.program);
    (!ours).then_some("another program is attached")
}

/// What kind of link a mode makes.
pub(super) const fn kind_of(mode: Mode) -> LinkKind {
    match mode {
        Mode::Tcx => LinkKind::Tcx,
        Mode::Native | Mode::Generic => LinkKind::Xdp,
        Mode::Clsact => LinkKind::Other,
    }
}

/// A hook that is not as it should be.
pub(super) fn hook(link: &Link, hook: HookPoint, message: &str) -> Drift {
    Drift::new(Part::Hooks, hook.to_string(), message).of(interface(&link.name))
}

/// Rows of interfaces that are missing, differ, or are nobody's. `xdp` says
/// where XDP is attached.
pub(super) fn rows(
    rows: &Rows,
    links: &[Link],
    xdp: impl Fn(&Link) -> bool,
) -> Result<Vec<Drift>, DataplaneError> {
    let drift = |message: &str| Drift::new(Part::Interfaces, MAP_INTERFACES, message);
    let mut held = rows.all()?;
    let mut found = Vec::new();
    for link in links {
        let message = match held.remove(&link.index) {
            Some(row) if row == row_of(link, xdp(link)) => continue,
            Some(_) => "its row says otherwise",
            None => "its row is missing",
        };
        found.push(drift(message).of(interface(&link.name)));
    }
    if held.remove(&NODE_ITSELF) != Some(row_of_node(links)) {
        found.push(drift("the row of the node itself is missing, or says otherwise"));
    }
    let nobodys = |index: u32| drift(&format!("row {index} is no interface's of ours"));
    found.extend(held.into_keys().map(nobodys));
    Ok(found)
}

/// Leaves out what is said of interfaces that have gone or changed their names
/// since `links` were read: the network is about to tell.
pub(super) fn without_gone(drift: Vec<Drift>, links: &[Link]) -> Result<Vec<Drift>, NetlinkError> {
    if drift.is_empty() {
        return Ok(drift);
    }
    let now: BTreeSet<(u32, String)> = netlink::interfaces()?.into_iter().collect();
    let gone: BTreeSet<String> = links
        .iter()
        .filter(|link| !now.contains(&(link.index, link.name.clone())))
        .map(|link| interface(&link.name))
        .collect();
    let stays = |drift: &Drift| drift.object.as_ref().is_none_or(|object| !gone.contains(object));
    Ok(drift.into_iter().filter(stays).collect())
}
