//! XDP on uplinks: where and in which mode, and attaching by a pinned link.

use super::attach::{AttachError, detach, is_live, pin};
use super::pins::LinkKey;
use super::sys::LinkKind;
use super::{HookPoint, Mode, PinDir, XdpPreference};
use crate::netlink::{Link, Role};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};

/// What XDP is to do on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing, and nothing to say about it.
    None,
    /// Nothing, for this reason.
    Without(String),
    /// Attach. A failure is one only if the mode was `demanded`.
    Attach { mode: Mode, demanded: bool },
}

/// Where XDP goes, and in which mode. Pure.
pub(super) fn plan(link: &Link, preference: XdpPreference) -> Plan {
    if link.role != Role::Uplink || !link.has_mac {
        return Plan::None;
    }
    match preference {
        XdpPreference::Off => Plan::None,
        XdpPreference::Native => Plan::Attach { mode: Mode::Native, demanded: true },
        XdpPreference::Generic => Plan::Attach { mode: Mode::Generic, demanded: true },
        // Virtual devices hand XDP packets whose checksums are not filled in
        // and swallow frames that it sends, unless both ends are prepared.
        XdpPreference::Auto => match &link.kind {
            None => Plan::Attach { mode: Mode::Native, demanded: false },
            Some(kind) => Plan::Without(format!(
                "a {kind} is no physical interface; `--xdp native` attaches nonetheless"
            )),
        },
    }
}

/// What to mind where XDP is attached in this mode.
pub(super) fn caution(link: &Link, mode: Mode) -> Option<&'static str> {
    // `veth_xdp_xmit` and XDP_TX need a receiver that polls.
    let veth = link.kind.as_deref() == Some("veth");
    (veth && mode == Mode::Native).then_some(
        "frames that XDP sends are lost unless the other end of the veth has an XDP program too",
    )
}

/// Attaches by a pinned link, or gives the link that is there the new program.
pub(super) fn attach(
    program: &mut Xdp,
    link: &Link,
    mode: Mode,
    pins: &PinDir,
) -> Result<(), AttachError> {
    let (kernel_mode, other) = match mode {
        Mode::Generic => (XdpMode::Skb, Mode::Native),
        Mode::Native | Mode::Tcx | Mode::Clsact => (XdpMode::Driver, Mode::Generic),
    };
    let key = |mode| LinkKey { index: link.index, hook: HookPoint::Xdp, mode };
    // The kernel allows one mode at a time. TC does the work meanwhile.
    detach(&pins.link(key(other)))?;
    let path = pins.link(key(mode));
    if is_live(&path, LinkKind::Xdp, link.index) {
        let old: XdpLink = FdLink::from(PinnedLink::from_pin(&path)?).try_into()?;
        let id = program.attach_to_link(old)?;
        drop(program.take_link(id)?);
        return Ok(());
    }
    detach(&path)?;
    let id = program.attach_to_if_index(link.index, kernel_mode)?;
    // A kernel without XDP links (before 5.9) attaches by netlink; converting
    // such a link fails and detaches it.
    let new: FdLink = program.take_link(id)?.try_into().map_err(|_invalid| AttachError::NoLinks)?;
    pin(new, &path, LinkKind::Xdp, link.index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Beyond;

    fn link(kind: Option<&str>, role: Role, has_mac: bool) -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            kind: kind.map(str::to_owned),
            role,
            has_mac,
            mac: None,
            beyond: Beyond::default(),
            local_clients: false,
            snat_v4: None,
            snat_v6: None,
        }
    }

    #[test]
    fn auto_means_the_driver_of_physical_uplinks() {
        let nic = link(None, Role::Uplink, true);
        let native = Plan::Attach { mode: Mode::Native, demanded: false };
        assert_eq!(plan(&nic, XdpPreference::Auto), native);
        let veth = link(Some("veth"), Role::Uplink, true);
        assert!(matches!(plan(&veth, XdpPreference::Auto), Plan::Without(_)));
        let demanded = Plan::Attach { mode: Mode::Native, demanded: true };
        assert_eq!(plan(&veth, XdpPreference::Native), demanded);
    }

    #[test]
    fn only_uplinks_with_ethernet_frames_have_xdp() {
        for preference in [XdpPreference::Auto, XdpPreference::Native, XdpPreference::Generic] {
            assert_eq!(plan(&link(Some("veth"), Role::Pod, true), preference), Plan::None);
            assert_eq!(plan(&link(Some("vxlan"), Role::Tunnel, true), preference), Plan::None);
            assert_eq!(plan(&link(None, Role::Uplink, false), preference), Plan::None);
        }
        assert_eq!(plan(&link(None, Role::Uplink, true), XdpPreference::Off), Plan::None);
    }
}
