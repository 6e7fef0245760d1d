//! The hooks of sockets: loaded, attached to the root of the cgroups by pinned
//! links, replaced in place by the next process, detached if unwanted.

use super::attach::{self, AttachError};
use super::load::Programs;
use super::maps;
use super::sys::{self, LinkKind};
use super::{PinDir, SocketClients, abi, cgroup};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSockAddr, Program};
use aya::util::KernelVersion;
use lb_common::names::{self, socket_option};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

/// The first kernel with `bpf_set_retval` for these programs.
const CHOOSES_ERROR: KernelVersion = KernelVersion::new(6, 1, 0);

/// Whose sockets are served, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketStatus {
    /// Whose sockets should be.
    pub clients: SocketClients,
    /// The cgroup that the programs are attached to, if they are.
    pub cgroup: Option<PathBuf>,
    /// Why they are not.
    pub note: Option<String>,
}

/// Load-time constants: this namespace's cookie, and options.
pub(super) fn constants(clients: SocketClients) -> (u64, u32) {
    let mut options = 0;
    if clients == SocketClients::All {
        options |= socket_option::ALL_NAMESPACES;
    }
    if KernelVersion::current().is_ok_and(|version| version >= CHOOSES_ERROR) {
        options |= socket_option::CHOOSE_ERROR;
    }
    (abi::namespace_cookie(), options)
}

/// Attaches all of the programs, or none.
pub(super) fn attach(
    programs: &mut Programs,
    clients: SocketClients,
    pins: &PinDir,
) -> SocketStatus {
    let outcome = match clients {
        SocketClients::Off => Ok(None),
        SocketClients::Host | SocketClients::All => attach_all(programs, pins).map(Some),
    };
    let (cgroup, mut note) = match outcome {
        Ok(cgroup) => (cgroup, None),
        Err(reason) => (None, Some(reason)),
    };
    if cgroup.is_none()
        && let Err(error) = detach_all(pins)
    {
        let reason = note.map_or_else(String::new, |note| format!("{note}; "));
        note = Some(format!("{reason}what an earlier agent attached can't be removed: {error}"));
    }
    SocketStatus { clients, cgroup, note }
}

fn attach_all(programs: &mut Programs, pins: &PinDir) -> Result<PathBuf, String> {
    if abi::namespace_cookie() == 0 {
        return Err("the kernel can't tell network namespaces apart (Linux 5.14 can)".to_owned());
    }
    let path = cgroup::root()?;
    let cgroup = File::open(&path)
        .map_err(|error| format!("{} can't be opened: {error}", path.display()))?;
    // That all of them load is known before any is attached.
    for (name, _) in names::PROGS_SOCKET {
        programs.socket(name).map_err(|error| error.to_string())?;
    }
    if !names::PROGS_SOCKET.iter().all(|(_, call)| is_live(&pins.socket_link(call))) {
        maps::forget_tcp_sockets(pins.path()).map_err(|error| error.to_string())?;
    }
    for (name, call) in names::PROGS_SOCKET {
        attach_one(programs, name, &cgroup, &pins.socket_link(call))
            .map_err(|error| format!("{call}: {error}"))?;
    }
    Ok(path)
}

fn attach_one(
    programs: &mut Programs,
    name: &'static str,
    cgroup: &File,
    pin: &Path,
) -> Result<(), AttachError> {
    let program = programs.socket(name)?;
    if is_live(pin) {
        let link = sys::open_pin(pin)?;
        return Ok(sys::update_link(link.as_fd(), program.fd()?.as_fd())?);
    }
    attach::detach(pin)?;
    // A link stacks with those of other programs, also in this mode.
    let mode = CgroupAttachMode::Single;
    let unlinked = |_invalid: LinkError| AttachError::NoLinks;
    let link: FdLink = if let Program::CgroupSock(closing) = program {
        let id = closing.attach(cgroup, mode)?;
        closing.take_link(id)?.try_into().map_err(unlinked)?
    } else {
        let calls: &mut CgroupSockAddr = program.try_into()?;
        let id = calls.attach(cgroup, mode)?;
        calls.take_link(id)?.try_into().map_err(unlinked)?
    };
    link.pin(pin)?;
    Ok(())
}

/// Whether a call of sockets is served by this link.
pub(super) fn is_live(pin: &Path) -> bool {
    attach::info(pin).is_some_and(|info| info.kind == LinkKind::Cgroup && info.index != 0)
}

fn detach_all(pins: &PinDir) -> io::Result<()> {
    // The calls that lead to backends first.
    for (_, call) in names::PROGS_SOCKET.iter().rev() {
        attach::detach(&pins.socket_link(call))?;
    }
    Ok(())
}
