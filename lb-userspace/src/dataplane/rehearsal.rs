//! A start up to the point where it changes something: what the kernel may
//! refuse is known, and the programs are loaded, while another agent still
//! works with the same pins.

use super::clsact::Clsact;
use super::load::Programs;
use super::maps::{Maps, MapsError};
use super::pins::LinkKey;
use super::rows::Rows;
use super::xdp::{self, Plan};
use super::{
    DataplaneError, HookOptions, HookPoint, PinDir, SocketClients, XdpPreference, hooks, layout,
    sockets,
};
use crate::netlink::NetworkState;
use lb_common::names;
use thiserror::Error;

/// Programs that are ready to replace those of another process.
pub struct Rehearsal {
    pub(super) options: HookOptions,
    pub(super) pins: PinDir,
    /// Over the pins; none if those are about to change.
    pub(super) programs: Option<Programs>,
}

/// Why the start would fail.
#[derive(Debug, Error)]
pub enum RehearsalError {
    /// The data plane can't be set up.
    #[error(transparent)]
    Dataplane(#[from] DataplaneError),
    /// The maps can't be opened.
    #[error(transparent)]
    Maps(Box<MapsError>),
}

impl From<MapsError> for RehearsalError {
    fn from(error: MapsError) -> Self {
        Self::Maps(Box::new(error))
    }
}

impl Rehearsal {
    /// Opens the maps, and loads every program that this network needs. Writes
    /// and attaches nothing.
    pub fn new(options: &HookOptions, network: &NetworkState) -> Result<Self, RehearsalError> {
        let pins = PinDir::new(&options.pin_dir);
        let links = pins.pinned_links()?;
        hooks::claim(&pins, &links)?;
        let fits = layout::fits(options, &pins)?;
        let mut programs = if fits {
            // Fails where pins are missing, before the loader would make them.
            Maps::open(&options.pin_dir)?;
            Rows::open(&pins)?;
            Clsact::open(&pins)?;
            Programs::load(options, &pins, &[])?
        } else {
            Programs::open(options, None)?
        };
        if network.links.iter().any(|link| !link.has_mac) {
            programs.classifier(names::PROG_INGRESS_L3)?;
            programs.classifier(names::PROG_EGRESS_L3)?;
        }
        load_xdp(&mut programs, options, &links, network)?;
        load_sockets(&mut programs, options, &pins)?;
        Ok(Self { options: options.clone(), pins, programs: fits.then_some(programs) })
    }
}

/// A refusal counts where XDP was demanded, and where it is in use.
fn load_xdp(
    programs: &mut Programs,
    options: &HookOptions,
    links: &[LinkKey],
    network: &NetworkState,
) -> Result<(), DataplaneError> {
    let in_use = links.iter().any(|key| key.hook == HookPoint::Xdp);
    let attach = |link| matches!(xdp::plan(link, options.xdp), Plan::Attach { .. });
    let must = match options.xdp {
        XdpPreference::Off => return Ok(()),
        XdpPreference::Native | XdpPreference::Generic => true,
        XdpPreference::Auto => in_use,
    };
    if (must || network.links.iter().any(attach))
        && let Err(error) = programs.xdp()
    {
        if must {
            return Err(error);
        }
        tracing::info!("{error}");
    }
    Ok(())
}

/// A refusal counts where calls of sockets are served already.
fn load_sockets(
    programs: &mut Programs,
    options: &HookOptions,
    pins: &PinDir,
) -> Result<(), DataplaneError> {
    if options.socket_clients == SocketClients::Off {
        return Ok(());
    }
    for (name, call) in names::PROGS_SOCKET {
        if let Err(error) = programs.socket(name) {
            if sockets::is_live(&pins.socket_link(call)) {
                return Err(error);
            }
            tracing::info!("{error}");
            break;
        }
    }
    Ok(())
}
