//! Whether everything is attached, pinned and described as the network asks
//! for, told from the kernel alone: for `lb verify` without an agent.

use super::clsact::Clsact;
use super::hooks::direction;
use super::inspect::{self, link_fault};
use super::pins::{LinkKey, list};
use super::rows::Rows;
use super::sys::LinkKind;
use super::{DataplaneError, HookPoint, Mode, PinDir, SocketClients, abi, attach};
use crate::drift::{Drift, Part};
use crate::netlink::{Link, NetworkState};
use lb_common::names;
use std::path::Path;

/// What was looked at, and what is not as it should be.
#[derive(Debug, Default)]
pub struct Verified {
    /// Hooks that there should be.
    pub hooks: usize,
    /// Pins that there are.
    pub pins: usize,
    /// What is otherwise.
    pub drift: Vec<Drift>,
}

/// Compares hooks and pins with what the network asks for. In which mode a hook
/// is attached, and whether XDP is wanted, is the agent's business.
pub fn verify(
    pin_dir: &Path,
    state: &NetworkState,
    clients: SocketClients,
) -> Result<Verified, DataplaneError> {
    let pins = PinDir::new(pin_dir);
    let mut verified = Verified::default();
    for map in names::PINNED_MAPS.into_iter().chain([abi::MAP]) {
        if !pins.map(map).exists() {
            let place = format!("pin maps/{map}");
            verified.drift.push(Drift::new(Part::Pins, place, "the pin is missing"));
        }
    }
    verified.pins = list(&pins.maps())?.len() + list(&pins.links())?.len();
    let clsact = Clsact::open(&pins)?;
    for link in &state.links {
        for hook in [HookPoint::Ingress, HookPoint::Egress] {
            verified.hooks += 1;
            let key = LinkKey { index: link.index, hook, mode: Mode::Tcx };
            let info = attach::info(&pins.link(key));
            if let Some(message) = link_fault(info, LinkKind::Tcx, link.index, None)
                && !clsact.has_filter(link.index, direction(hook))?
            {
                verified.drift.push(inspect::hook(link, hook, message));
            }
        }
        if let Some(message) = xdp_fault(&pins, link) {
            verified.drift.push(inspect::hook(link, HookPoint::Xdp, message));
        }
    }
    // Otherwise, the missing pin has been told of.
    if pins.map(names::MAP_INTERFACES).exists() {
        let rows = Rows::open(&pins)?;
        let attached = |link: &Link| xdp_links(&pins, link).any(|pin| pin.exists());
        verified.drift.extend(inspect::rows(&rows, &state.links, attached)?);
    }
    if clients != SocketClients::Off {
        for (_, call) in names::PROGS_SOCKET {
            verified.hooks += 1;
            let info = attach::info(&pins.socket_link(call));
            if info.is_none_or(|info| info.kind != LinkKind::Cgroup || info.index == 0) {
                let place = format!("cgroup {call}");
                verified.drift.push(Drift::new(Part::Sockets, place, "nothing is attached"));
            }
        }
    }
    Ok(verified)
}

fn xdp_links(pins: &PinDir, link: &Link) -> impl Iterator<Item = std::path::PathBuf> {
    [Mode::Native, Mode::Generic]
        .map(|mode| pins.link(LinkKey { index: link.index, hook: HookPoint::Xdp, mode }))
        .into_iter()
}

/// What is wrong with XDP where it is pinned.
fn xdp_fault(pins: &PinDir, link: &Link) -> Option<&'static str> {
    let pinned = xdp_links(pins, link).find(|pin| pin.exists())?;
    link_fault(attach::info(&pinned), LinkKind::Xdp, link.index, None)
}
