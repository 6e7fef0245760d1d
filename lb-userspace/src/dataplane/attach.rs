//! Attaching by tcx, and what every pinned link has in common: a link that is
//! there gets the new program in place, so that no packet meets none.

use super::pins::LinkKey;
use super::sys::{self, LinkInfo, LinkKind};
use super::{HookPoint, PinDir, error::describe};
use crate::netlink::{Link, NetlinkError};
use aya::pin::PinError;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError};
use std::fs;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

/// Why a program could not be attached to one interface.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttachError {
    /// aya or the kernel refused.
    #[error("{}", describe(.0))]
    Program(#[from] ProgramError),
    /// The link is not usable.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The link could not be pinned.
    #[error("the link could not be pinned: {0}")]
    Pin(#[from] PinError),
    /// A pin could not be removed.
    #[error("an old pin could not be removed: {0}")]
    Io(#[from] io::Error),
    /// The filters could not be read or removed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The program could not be loaded, or a map not be written.
    #[error(transparent)]
    Dataplane(#[from] super::DataplaneError),
    /// The interface changed its name or went away meanwhile.
    #[error("the interface went away meanwhile")]
    Gone,
    /// The kernel can attach, but not so that it survives the agent.
    #[error("the kernel has no links for it, so it would not outlive the agent")]
    NoLinks,
}

impl AttachError {
    /// Whether the kernel does not know this way to attach.
    pub(super) fn is_unsupported(&self) -> bool {
        let code = match self {
            Self::Program(ProgramError::SyscallError(error)) => error.io_error.raw_os_error(),
            Self::Program(_)
            | Self::Link(_)
            | Self::Pin(_)
            | Self::Io(_)
            | Self::Netlink(_)
            | Self::Dataplane(_)
            | Self::Gone
            | Self::NoLinks => None,
        };
        matches!(code, Some(libc::EINVAL | libc::EOPNOTSUPP))
    }
}

/// Attaches a TC program by a pinned tcx link.
///
/// On the way in it comes first and on the way out last, so that whatever else
/// is attached (a network policy) sees real addresses, as the stack does.
pub(super) fn tcx(
    program: &mut SchedClassifier,
    link: &Link,
    key: LinkKey,
    pins: &PinDir,
) -> Result<(), AttachError> {
    let path = pins.link(key);
    if is_live(&path, LinkKind::Tcx, link.index) {
        let old: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(&path)?).try_into()?;
        let id = program.attach_to_link(old)?;
        // Dropping it closes a descriptor; the pin keeps the link.
        drop(program.take_link(id)?);
        return Ok(());
    }
    remove_pin(&path)?;
    let (direction, order) = match key.hook {
        HookPoint::Ingress | HookPoint::Xdp => (TcAttachType::Ingress, LinkOrder::first()),
        HookPoint::Egress => (TcAttachType::Egress, LinkOrder::last()),
    };
    let options = TcAttachOptions::TcxOrder(order);
    let id = program.attach_with_options(&link.name, direction, options)?;
    let made: FdLink = program.take_link(id)?.try_into()?;
    pin(made, &path, LinkKind::Tcx, link.index)
}

/// Pins a new link, if it is where it should be: aya attaches by name, and the
/// name may be another interface's by now.
pub(super) fn pin(
    made: FdLink,
    path: &Path,
    kind: LinkKind,
    index: u32,
) -> Result<(), AttachError> {
    made.pin(path)?;
    if is_live(path, kind, index) {
        return Ok(());
    }
    detach(path)?;
    Err(AttachError::Gone)
}

/// Whether a pin is a link of this kind that is attached to this interface.
/// The interface of the number may be another than the one that had it.
pub(super) fn is_live(path: &Path, kind: LinkKind, index: u32) -> bool {
    info(path).is_some_and(|info| info.kind == kind && info.index == index)
}

/// What a pinned link does; none if there is no such pin.
pub(super) fn info(path: &Path) -> Option<LinkInfo> {
    let link = sys::open_pin(path).ok()?;
    sys::link_info(link.as_fd()).ok()
}

/// Detaches a pinned link and removes the pin; true if it was attached.
pub(super) fn detach(path: &Path) -> io::Result<bool> {
    // Fails for a link whose interface is gone, which needs no detaching.
    let detached = sys::open_pin(path).and_then(|link| sys::detach_link(link.as_fd())).is_ok();
    remove_pin(path)?;
    Ok(detached)
}

fn remove_pin(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The code that the kernel gave, if the error came by netlink.
pub(super) fn netlink_code(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        TcError::NulError(_)
        | TcError::AlreadyAttached
        | TcError::InvalidTcxAttach(_)
        | TcError::InvalidLinkOperation => None,
    }
}
