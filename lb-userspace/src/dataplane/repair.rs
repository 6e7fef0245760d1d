//! Finds what somebody detached, unpinned or altered, and puts it right.

use super::hooks::{Hooks, classifier, direction};
use super::inspect::{self, kind_of, link_fault};
use super::pins::LinkKey;
use super::sys::LinkKind;
use super::{DataplaneError, HookPoint, HookStatus, Mode, SocketStatus, SyncReport};
use crate::drift::{Drift, Part};
use crate::netlink::{Link, NetworkState};
use lb_common::names;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What [`Hooks::repair`] did.
#[derive(Debug, Default)]
pub struct Repaired {
    /// What was not as it should be.
    pub drift: Vec<Drift>,
    /// What came of attaching again, if that was necessary.
    pub sync: Option<SyncReport>,
    /// What came of attaching to the calls of sockets, likewise.
    pub sockets: Option<SocketStatus>,
}

/// What is not as it should be, by what has to be done about it.
#[derive(Default)]
struct Findings {
    pins: Vec<PathBuf>,
    /// With the name of the interface.
    hooks: Vec<((u32, HookPoint), String)>,
    drift: Vec<Drift>,
}

impl Hooks {
    /// What is not attached, pinned or described as it was left, and changes
    /// nothing.
    pub fn inspect(&self, state: &NetworkState) -> Result<Vec<Drift>, DataplaneError> {
        self.find(state).map(|findings| findings.drift)
    }

    /// How many hooks are attached, and how many pins are there.
    pub fn sizes(&self) -> (usize, usize) {
        let sockets = if self.serves_sockets { names::PROGS_SOCKET.len() } else { 0 };
        let attached = self.attached.values().filter(|status| status.mode.is_some()).count();
        (attached + sockets, self.keeper.len())
    }

    /// Puts right whatever is not as it was left. What fails is found again the
    /// next time.
    pub fn repair(&mut self, state: &NetworkState) -> Result<Repaired, DataplaneError> {
        let Findings { pins, hooks, drift } = self.find(state)?;
        let mut repaired = Repaired { drift, ..Repaired::default() };
        if repaired.drift.is_empty() {
            return Ok(repaired);
        }
        // First, since a link that is pinned again needs no other in its place.
        if !pins.is_empty() {
            self.pin_again(&pins)?;
        }
        let of = |parts: &[Part]| repaired.drift.iter().any(|drift| parts.contains(&drift.part));
        let attach = of(&[Part::Hooks, Part::Interfaces]);
        if of(&[Part::Sockets]) {
            repaired.sockets = Some(self.attach_sockets());
        }
        let stays = |name: &String| repaired.drift.iter().any(|d| d.object.as_ref() == Some(name));
        for (key, _) in hooks.iter().filter(|(_, name)| stays(name)) {
            self.attached.remove(key);
        }
        repaired.sync = attach.then(|| self.sync(state));
        Ok(repaired)
    }

    fn pin_again(&mut self, paths: &[PathBuf]) -> Result<(), DataplaneError> {
        self.pins.create()?;
        if !self.lock.covers(&self.pins) {
            self.lock = self.pins.lock()?;
        }
        for path in paths {
            self.keeper.pin(path).map_err(|source| DataplaneError::Io {
                operation: "pin",
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }

    fn find(&self, state: &NetworkState) -> Result<Findings, DataplaneError> {
        let mut findings = Findings { pins: self.keeper.lost(), ..Findings::default() };
        for link in &state.links {
            for hook in [HookPoint::Ingress, HookPoint::Egress, HookPoint::Xdp] {
                let key = (link.index, hook);
                let fault = self.attached.get(&key).map(|status| self.fault(link, hook, status));
                if let Some(message) = fault.transpose()?.flatten() {
                    findings.hooks.push((key, inspect::interface(&link.name)));
                    findings.drift.push(inspect::hook(link, hook, message));
                }
            }
        }
        let xdp = |link: &Link| {
            let status = self.attached.get(&(link.index, HookPoint::Xdp));
            status.is_some_and(|status| status.mode.is_some())
        };
        // Where nothing could be attached, that has been told of.
        let known: BTreeSet<String> =
            self.attached.values().map(|status| inspect::interface(&status.interface)).collect();
        let mut rows = inspect::rows(&self.rows, &state.links, xdp)?;
        rows.retain(|drift| drift.object.as_ref().is_none_or(|object| known.contains(object)));
        findings.drift.extend(rows);
        findings.drift = inspect::without_gone(findings.drift, &state.links)?;
        findings.drift.extend(self.socket_drift());
        findings.drift.extend(findings.pins.iter().map(|path| self.lost_pin(path)));
        Ok(findings)
    }

    /// What is wrong with a hook that is attached as far as is known.
    fn fault(
        &self,
        link: &Link,
        hook: HookPoint,
        status: &HookStatus,
    ) -> Result<Option<&'static str>, DataplaneError> {
        let Some(mode) = status.mode.filter(|_| status.interface == link.name) else {
            return Ok(None);
        };
        if mode == Mode::Clsact {
            let there = self.clsact.has_filter(link.index, direction(hook))?;
            return Ok((!there).then_some("the clsact filter is gone"));
        }
        let name = match hook {
            HookPoint::Xdp => names::PROG_XDP,
            HookPoint::Ingress | HookPoint::Egress => classifier(hook, link.has_mac),
        };
        let pin = self.pins.link(LinkKey { index: link.index, hook, mode });
        let info = self.keeper.link(&pin);
        Ok(link_fault(info, kind_of(mode), link.index, self.programs.id(name)))
    }

    fn socket_drift(&self) -> Vec<Drift> {
        if !self.serves_sockets {
            return Vec::new();
        }
        let calls = names::PROGS_SOCKET.iter().filter_map(|(name, call)| {
            let info = self.keeper.link(&self.pins.socket_link(call));
            // Which cgroup it is, is not known here: any that is left.
            let index = info.map_or(0, |info| info.index);
            let detached = info.is_some() && index == 0;
            let fault = link_fault(info, LinkKind::Cgroup, index, self.programs.id(name));
            let message = if detached { Some("the link is detached") } else { fault };
            message.map(|message| Drift::new(Part::Sockets, format!("cgroup {call}"), message))
        });
        calls.collect()
    }

    fn lost_pin(&self, path: &Path) -> Drift {
        let place = path.strip_prefix(self.pins.path()).unwrap_or(path);
        let message = if path.exists() { "the pin leads elsewhere" } else { "the pin is missing" };
        Drift::new(Part::Pins, format!("pin {}", place.display()), message)
    }
}
