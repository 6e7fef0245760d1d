//! Keeps the programs attached to the interfaces that a [`NetworkState`]
//! names, from one state to the next and from one process to the next.

use super::attach::{self, AttachError};
use super::clsact::{self, Clsact};
use super::keeper::Keeper;
use super::load::Programs;
use super::log::ProgramLog;
use super::migrate::MovingFlows;
use super::pins::{LinkKey, PinLock};
use super::rows::Rows;
use super::xdp::{self, Plan};
use super::{
    DataplaneError, HookOptions, HookPoint, HookStatus, MapSizes, Mode, PinDir, Rehearsal,
    SocketStatus, SyncReport, TcPreference, abi, layout, sockets, spec, teardown,
};
use crate::netlink::tc::Direction;
use crate::netlink::{Link, NetworkState};
use crate::privilege;
use lb_common::names;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// The loaded programs and where they are attached. Dropping it detaches
/// nothing.
pub struct Hooks {
    pub(super) options: HookOptions,
    pub(super) pins: PinDir,
    pub(super) programs: Programs,
    pub(super) rows: Rows,
    pub(super) clsact: Clsact,
    pub(super) keeper: Keeper,
    pub(super) attached: BTreeMap<(u32, HookPoint), HookStatus>,
    /// Whether the hooks of sockets are attached.
    pub(super) serves_sockets: bool,
    /// Links of an earlier process that the next state may still want.
    inherited: Vec<LinkKey>,
    /// Flows on their way to tables of another size.
    moving: Option<MovingFlows>,
    /// What the programs say, for as long as this is here.
    log: Option<ProgramLog>,
    pub(super) lock: PinLock,
}

impl Hooks {
    /// Loads the programs over the maps that are pinned, or over new ones.
    /// Attaches nothing; what an earlier process attached goes on as it is.
    pub fn open(options: &HookOptions) -> Result<Self, DataplaneError> {
        privilege::check()?;
        let pins = PinDir::new(&options.pin_dir);
        pins.create()?;
        let lock = pins.lock()?;
        let fresh = abi::read(&pins)?.is_none();
        let opened = Self::open_locked(options, pins.clone(), lock, None);
        if opened.is_err() && fresh {
            // Half a set of maps would only be in the way of the next try.
            teardown::remove_directories(&pins);
        }
        opened
    }

    /// Goes on where another process ended, with the programs that are loaded if
    /// the pins are as they have to be.
    pub fn take_over(rehearsal: Rehearsal) -> Result<Self, DataplaneError> {
        let Rehearsal { options, pins, programs } = rehearsal;
        let lock = pins.lock()?;
        Self::open_locked(&options, pins, lock, programs)
    }

    fn open_locked(
        options: &HookOptions,
        pins: PinDir,
        lock: PinLock,
        loaded: Option<Programs>,
    ) -> Result<Self, DataplaneError> {
        let inherited = pins.pinned_links()?;
        claim(&pins, &inherited)?;
        let (mut programs, moving) = match loaded {
            Some(programs) => {
                abi::write(&pins, abi::Abi::current())?;
                (programs, None)
            }
            None => layout::settle(options, &pins)?,
        };
        let mut keeper = Keeper::default();
        keeper.keep_maps(&pins);
        Ok(Self {
            options: options.clone(),
            rows: Rows::open(&pins)?,
            clsact: Clsact::open(&pins)?,
            keeper,
            log: ProgramLog::start(programs.object()),
            programs,
            attached: BTreeMap::new(),
            serves_sockets: false,
            inherited,
            moving,
            pins,
            lock,
        })
    }

    /// Goes on with maps of other sizes, and with programs that use them, which
    /// the next [`Hooks::sync`] attaches in the place of those that are.
    pub fn resize(&mut self, sizes: MapSizes) -> Result<(), DataplaneError> {
        let options = HookOptions { sizes, replace_layout: false, ..self.options.clone() };
        let (mut programs, moving) = layout::settle(&options, &self.pins)?;
        self.log = ProgramLog::start(programs.object());
        (self.options, self.programs, self.moving) = (options, programs, moving);
        self.keeper.keep_maps(&self.pins);
        self.inherited = self.pins.pinned_links()?;
        self.attached.clear();
        Ok(())
    }

    /// How large the maps are.
    pub fn map_sizes(&self) -> MapSizes {
        spec::with_pinned(&self.pins, &self.options.sizes)
    }

    /// Where everything is pinned.
    pub const fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// Every hook of every interface, by interface index.
    pub fn status(&self) -> Vec<HookStatus> {
        self.attached.values().cloned().collect()
    }

    /// Attaches to the calls of sockets, or detaches, as the options say. What
    /// fails is in the status.
    pub fn attach_sockets(&mut self) -> SocketStatus {
        let clients = self.options.socket_clients;
        let status = sockets::attach(&mut self.programs, clients, &self.pins);
        self.serves_sockets = status.cgroup.is_some();
        for (_, call) in names::PROGS_SOCKET {
            let pin = self.pins.socket_link(call);
            if self.serves_sockets { self.keeper.keep(&pin) } else { self.keeper.release(&pin) }
        }
        status
    }

    /// Attaches to what the state names and detaches from the rest. What fails
    /// on one interface is tried again at the next call and stops nothing.
    pub fn sync(&mut self, state: &NetworkState) -> SyncReport {
        let mut report = SyncReport::default();
        if let Some(moving) = &mut self.moving
            && let Err(error) = moving.follow()
        {
            report.failures.push(error.to_string());
        }
        // First what needs no other programs than those that are loaded.
        let (ethernet, other): (Vec<&Link>, Vec<&Link>) =
            state.links.iter().partition(|link| link.has_mac);
        let mut described = Vec::new();
        for link in ethernet.into_iter().chain(other) {
            if self.describe(link, &mut report) {
                described.push(link);
                self.sync_tc(link, HookPoint::Ingress, &mut report);
                self.sync_tc(link, HookPoint::Egress, &mut report);
            }
        }
        for link in described {
            self.sync_xdp(link, &mut report);
        }
        let wanted: BTreeSet<u32> = state.links.iter().map(|link| link.index).collect();
        self.release(&wanted, &mut report);
        if let Err(error) = self.rows.put_node(&state.links) {
            report.failures.push(error.to_string());
        }
        if let Some(moving) = self.moving.take() {
            if let Err(error) = moving.finish() {
                report.failures.push(error.to_string());
            }
            // Other tables are pinned now.
            self.keeper.keep_maps(&self.pins);
        }
        report
    }

    /// Tells the programs what the interface is; false if that fails. Without
    /// it they pass every packet.
    fn describe(&mut self, link: &Link, report: &mut SyncReport) -> bool {
        let wants_xdp = matches!(xdp::plan(link, self.options.xdp), Plan::Attach { .. });
        let written = self.rows.put(link, wants_xdp && self.rows.has_xdp(link.index));
        if let Err(error) = &written {
            report.failures.push(format!("interface {}: {error}", link.name));
        }
        written.is_ok()
    }

    fn sync_tc(&mut self, link: &Link, hook: HookPoint, report: &mut SyncReport) {
        if self.keep(link, hook) {
            return;
        }
        let outcome = self.attach_tc(link, hook).map(Some);
        self.record(link, hook, outcome, true, report);
    }

    fn attach_tc(&mut self, link: &Link, hook: HookPoint) -> Result<Mode, AttachError> {
        let key = LinkKey { index: link.index, hook, mode: Mode::Tcx };
        let program = self.programs.classifier(classifier(hook, link.has_mac))?;
        if self.options.tc != TcPreference::Clsact {
            match attach::tcx(program, link, key, &self.pins) {
                Err(error) if self.options.tc == TcPreference::Auto && error.is_unsupported() => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    // What an earlier process with `--tc clsact` left goes once
                    // both directions are attached anew.
                    if hook == HookPoint::Egress && self.clsact.contains(link.index) {
                        self.clsact.detach(link.index)?;
                    }
                    self.keeper.keep(&self.pins.link(key));
                    return Ok(Mode::Tcx);
                }
            }
        }
        self.clsact.attach(program, link, direction(hook))?;
        self.keeper.keep(&self.pins.map(clsact::MAP));
        self.detach_link(key)?;
        Ok(Mode::Clsact)
    }

    fn sync_xdp(&mut self, link: &Link, report: &mut SyncReport) {
        let hook = HookPoint::Xdp;
        match xdp::plan(link, self.options.xdp) {
            Plan::Attach { mode, demanded } => {
                // A driver that refused once is not asked again: some reset
                // the interface each time.
                let known = self.attached.get(&(link.index, hook));
                if known.is_none_or(|known| known.interface != link.name) {
                    let outcome = self.attach_xdp(link, mode);
                    let fine = outcome.is_ok();
                    self.record(link, hook, outcome.map(|()| Some(mode)), demanded, report);
                    if let Some(note) = xdp::caution(link, mode).filter(|_| fine) {
                        self.annotate(link, hook, note.to_owned());
                    }
                }
            }
            plan @ (Plan::None | Plan::Without(_)) => {
                let detached = self.detach_xdp(link.index).unwrap_or(false);
                report.detached += usize::from(detached);
                self.attached.remove(&(link.index, hook));
                if let Plan::Without(note) = plan {
                    self.record(link, hook, Ok(None), false, report);
                    self.annotate(link, hook, note);
                }
            }
        }
        // Others may redirect frames to it from now on, or no longer.
        let attached = self.keep(link, hook);
        if let Err(error) = self.rows.put(link, attached) {
            report.failures.push(format!("interface {}: {error}", link.name));
        }
    }

    fn attach_xdp(&mut self, link: &Link, mode: Mode) -> Result<(), AttachError> {
        let program = self.programs.xdp()?;
        // The kernel allows one mode at a time. TC does the work meanwhile.
        let other = if mode == Mode::Native { Mode::Generic } else { Mode::Native };
        let key = |mode| LinkKey { index: link.index, hook: HookPoint::Xdp, mode };
        self.keeper.release(&self.pins.link(key(other)));
        xdp::attach(program, link, mode, &self.pins)?;
        self.keeper.keep(&self.pins.link(key(mode)));
        Ok(())
    }

    /// Detaches XDP in either mode; true if it was attached.
    fn detach_xdp(&mut self, index: u32) -> io::Result<bool> {
        let mut detached = false;
        for mode in [Mode::Native, Mode::Generic] {
            detached |= self.detach_link(LinkKey { index, hook: HookPoint::Xdp, mode })?;
        }
        Ok(detached)
    }

    /// Detaches a link; true if it was attached.
    fn detach_link(&mut self, key: LinkKey) -> io::Result<bool> {
        let path = self.pins.link(key);
        let detached = attach::detach(&path);
        self.keeper.release(&path);
        detached
    }

    /// Whether the hook is attached already; brings its description up to date.
    fn keep(&mut self, link: &Link, hook: HookPoint) -> bool {
        match self.attached.get_mut(&(link.index, hook)) {
            Some(status) if status.mode.is_some() && status.interface == link.name => {
                status.role = link.role;
                true
            }
            Some(_) | None => false,
        }
    }

    fn record(
        &mut self,
        link: &Link,
        hook: HookPoint,
        outcome: Result<Option<Mode>, AttachError>,
        demanded: bool,
        report: &mut SyncReport,
    ) {
        let mut status = HookStatus {
            interface: link.name.clone(),
            index: link.index,
            role: link.role,
            hook,
            mode: None,
            note: None,
            failed: false,
        };
        match outcome {
            Ok(mode) => {
                status.mode = mode;
                if let Some(mode) = mode {
                    report.attached += 1;
                    tracing::debug!(interface = %link.name, %hook, %mode, role = %link.role, "attached");
                }
            }
            Err(error) => {
                status.note = Some(error.to_string());
                status.failed = demanded;
                let sentence = format!("interface {}, {hook}: {error}", link.name);
                if demanded {
                    report.failures.push(sentence);
                } else {
                    tracing::info!("{sentence}");
                }
            }
        }
        self.attached.insert((link.index, hook), status);
    }

    fn annotate(&mut self, link: &Link, hook: HookPoint, note: String) {
        if let Some(status) = self.attached.get_mut(&(link.index, hook)) {
            status.note = Some(note);
        }
    }

    /// Detaches from every interface that is not wanted, then forgets it.
    fn release(&mut self, wanted: &BTreeSet<u32>, report: &mut SyncReport) {
        let unwanted = |index: &u32| !wanted.contains(index);
        let mut gone: BTreeSet<LinkKey> =
            self.inherited.drain(..).filter(|key| unwanted(&key.index)).collect();
        for ((index, hook), status) in &self.attached {
            let mode = status.mode.filter(|mode| *mode != Mode::Clsact);
            if let Some(mode) = mode.filter(|_| unwanted(index)) {
                gone.insert(LinkKey { index: *index, hook: *hook, mode });
            }
        }
        for key in gone {
            match self.detach_link(key) {
                Ok(_) => report.detached += 1,
                Err(error) => report.failures.push(format!(
                    "interface number {}, {}: the pin could not be removed: {error}",
                    key.index, key.hook
                )),
            }
        }
        for index in self.clsact.interfaces().into_iter().filter(unwanted) {
            match self.clsact.detach(index) {
                Ok(filters) => report.detached += filters,
                Err(error) => report.failures.push(format!("interface number {index}: {error}")),
            }
        }
        self.attached.retain(|(index, _), _| wanted.contains(index));
        if let Err(error) = self.rows.retain(wanted) {
            report.failures.push(error.to_string());
        }
    }
}

/// The program for a hook at TC.
pub(super) const fn classifier(hook: HookPoint, has_mac: bool) -> &'static str {
    match (hook, has_mac) {
        (HookPoint::Egress, true) => names::PROG_EGRESS,
        (HookPoint::Egress, false) => names::PROG_EGRESS_L3,
        (HookPoint::Ingress | HookPoint::Xdp, true) => names::PROG_INGRESS,
        (HookPoint::Ingress | HookPoint::Xdp, false) => names::PROG_INGRESS_L3,
    }
}

/// Which packets a hook at TC sees.
pub(super) const fn direction(hook: HookPoint) -> Direction {
    match hook {
        HookPoint::Egress => Direction::Egress,
        HookPoint::Ingress | HookPoint::Xdp => Direction::Ingress,
    }
}

/// Refuses pins that serve another network namespace right now.
pub(super) fn claim(pins: &PinDir, links: &[LinkKey]) -> Result<(), DataplaneError> {
    let current = abi::Abi::current();
    if let Some(found) = abi::read(pins)?
        && found.namespace != current.namespace
    {
        // A link whose namespace is gone is attached to nothing.
        let is_live =
            |key: &LinkKey| attach::info(&pins.link(*key)).is_some_and(|info| info.index != 0);
        if links.iter().any(is_live) {
            return Err(DataplaneError::OtherNamespace { pin_dir: pins.path().into() });
        }
    }
    Ok(())
}
