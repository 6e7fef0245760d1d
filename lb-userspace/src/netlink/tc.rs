//! Filters and the clsact qdisc, where the kernel has no tcx: what is there,
//! and how it is removed. aya attaches, but can neither list nor remove what
//! an earlier process attached.

use super::NetlinkError;
use super::decode::{attributes, text, u32_at};
use super::request::{Message, request};

/// Length of `struct tcmsg`.
const HEADER: usize = 20;
/// `TC_H_CLSACT`: the handle of a clsact or ingress qdisc is `ffff:`.
const CLSACT: u32 = 0xffff_fff1;
/// Parent of the filters for packets that enter: `TC_H_MIN_INGRESS` of it.
const PARENT_INGRESS: u32 = 0xffff_fff2;
/// Parent of the filters for packets that leave: `TC_H_MIN_EGRESS` of it.
const PARENT_EGRESS: u32 = 0xffff_fff3;
/// `TCA_KIND`.
const KIND: u16 = 1;
/// `TCA_OPTIONS`.
const OPTIONS: u16 = 2;
/// `TCA_BPF_NAME`.
const BPF_NAME: u16 = 7;

/// Which packets a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Packets that enter.
    Ingress,
    /// Packets that leave.
    Egress,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ingress, Self::Egress];

    const fn parent(self) -> u32 {
        match self {
            Self::Ingress => PARENT_INGRESS,
            Self::Egress => PARENT_EGRESS,
        }
    }
}

/// A filter of a clsact qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Priority.
    pub priority: u16,
    /// Handle within the priority.
    pub handle: u32,
    /// Name of the BPF program, if it is one.
    pub name: Option<String>,
}

/// The filters of an interface, in one direction; empty without a qdisc.
pub fn filters(index: u32, direction: Direction) -> Result<Vec<Filter>, NetlinkError> {
    let body = header(index, 0, direction.parent(), 0);
    match request("list the filters", libc::RTM_GETTFILTER, libc::NLM_F_DUMP, &body) {
        Ok(replies) => Ok(replies.iter().filter_map(filter).collect()),
        // No such qdisc, or no such interface.
        Err(NetlinkError::Refused { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes one filter.
pub fn remove_filter(
    index: u32,
    direction: Direction,
    filter: &Filter,
) -> Result<(), NetlinkError> {
    let protocol = u16::try_from(libc::ETH_P_ALL).unwrap_or(3).to_be();
    let info = (u32::from(filter.priority) << 16) | u32::from(protocol);
    let body = header(index, filter.handle, direction.parent(), info);
    request("remove a filter", libc::RTM_DELTFILTER, libc::NLM_F_ACK, &body).map(drop)
}

/// Removes the clsact qdisc of an interface, with any filters that it has.
pub fn remove_clsact(index: u32) -> Result<(), NetlinkError> {
    let body = header(index, 0xffff_0000, CLSACT, 0);
    request("remove the clsact qdisc", libc::RTM_DELQDISC, libc::NLM_F_ACK, &body).map(drop)
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(HEADER);
    for word in [0, index, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// A filter, if the message describes one (and not merely its priority).
fn filter(message: &Message) -> Option<Filter> {
    if message.kind != libc::RTM_NEWTFILTER {
        return None;
    }
    let payload = &message.payload;
    let handle = u32_at(payload, 8)?;
    let info = u32_at(payload, 16)?;
    let is_bpf =
        attributes(payload, HEADER).any(|nla| nla.kind() == KIND && text(nla.value()) == "bpf");
    let options = attributes(payload, HEADER).find(|nla| nla.kind() == OPTIONS);
    let name = options.filter(|_| is_bpf).and_then(|options| {
        attributes(options.value(), 0)
            .find(|nla| nla.kind() == BPF_NAME)
            .map(|nla| text(nla.value()))
    });
    (handle != 0).then(|| Filter { priority: u16::try_from(info >> 16).unwrap_or(0), handle, name })
}
