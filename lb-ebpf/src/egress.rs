//! Packets that leave: replies to clients, and packets to backends whose
//! replies would otherwise miss this node.

use lb_common::filter::{BACKEND, FRONTEND};
use lb_common::flow::flag;
use lb_common::value::role;
use lb_common::{Direction, Flow, Interface, Tuple, Verdict, tcp};

use crate::family::Family;
use crate::flows;
use crate::packet::Packet;
use crate::stats::Size;
use crate::{bystanders, filter, ingress, route, service_addr, snat, stats};

/// What the hook knows beside the packet.
#[derive(Clone, Copy)]
pub(crate) struct Departure {
    /// Interface that the packet leaves by.
    pub(crate) ifindex: u32,
    /// Monotonic clock, nanoseconds.
    pub(crate) now: u64,
    /// For the counters.
    pub(crate) size: Size,
}

/// Decides on a packet that leaves; `to` is what it must become. `turns_back` says
/// whether it came in by the same interface. What the hook knows of others' packets
/// is not asked for. `astray` becomes not zero for a reply to a client beyond an uplink or a tunnel that
/// leaves by another interface than the client's first packet came in by.
#[inline(always)]
pub(crate) fn decide<A: Family>(
    packet: &Packet<A>,
    turns_back: bool,
    departure: impl FnOnce() -> Departure,
    to: &mut Tuple<A>,
    astray: &mut u32,
    in_use: impl Fn(&Tuple<A>) -> bool,
) -> Verdict {
    let tuple = packet.tuple;
    let source = filter::socket(tuple.src, tuple.sport, packet.proto);
    let destination = filter::socket(tuple.dst, tuple.dport, packet.proto);
    if source & (BACKEND | FRONTEND) == 0 && destination & BACKEND == 0 {
        return service_addr::leaving(tuple.dst, turns_back);
    }
    let departure = &departure();
    if source & BACKEND != 0
        && let Some(row) = flows::find(tuple, packet.proto, Direction::Egress)
    {
        *to = reply(packet, row, departure.now, departure.size);
        if row.flags & flag::DIRECT != 0 {
            return Verdict::Passed;
        }
        let external = row.flags & flag::EXTERNAL != 0;
        *astray = u32::from(external && row.ifindex != departure.ifindex);
        return Verdict::Returned;
    }
    if destination & BACKEND != 0
        && let Some(row) = flows::find(tuple.reversed(), packet.proto, Direction::Egress)
    {
        return towards_backend(departure, row, to, in_use);
    }
    if source & FRONTEND != 0 {
        bystanders::follow(packet, departure);
    }
    service_addr::leaving(tuple.dst, turns_back)
}

/// A reply on its way to the client, noted and counted; what it must become.
#[inline(always)]
pub(crate) fn reply<A: Family>(
    packet: &Packet<A>,
    row: &mut Flow<A>,
    now: u64,
    size: Size,
) -> Tuple<A> {
    flows::note(row, Flow::forward_key, tcp::From::Backend, packet.flags, now);
    if row.flags & flag::DIRECT == 0 {
        stats::packet_out(row, size);
    }
    row.dialled().reversed()
}

/// A packet on its way to the backend.
#[inline(always)]
fn towards_backend<A: Family>(
    departure: &Departure,
    row: &mut Flow<A>,
    to: &mut Tuple<A>,
    in_use: impl Fn(&Tuple<A>) -> bool,
) -> Verdict {
    if row.has_snat() {
        *to = row.masqueraded();
        return Verdict::SourceTranslated;
    }
    if row.flags & (flag::NO_SNAT | flag::DIRECT) != 0 {
        return Verdict::Passed;
    }
    let Some(interface) = route::interface(departure.ifindex) else { return Verdict::Passed };
    if !misses_this_node(departure.ifindex, &interface, row) {
        row.flags |= flag::NO_SNAT;
        return Verdict::Passed;
    }
    let source = A::snat_of(&interface);
    if source == A::NONE {
        // The node has no address yet; a later packet may find one.
        return Verdict::Passed;
    }
    row.last_used = departure.now;
    // XDP meets the forward row, and can finish the flow once it has the port.
    let other = row.forward_key();
    if let Err(failure) = snat::masquerade(row, &other, source, in_use) {
        return stats::no_port(row.service, ingress::failed(failure));
    }
    *to = row.masqueraded();
    Verdict::SourceTranslated
}

/// Whether the backend must see this node's address: its reply would miss this
/// node otherwise, or kube-proxy's rules ask for it. Replies miss the node to a
/// client that is its own backend, to one behind the same interface as the
/// backend, and to one from outside if the backend is not a pod of this node.
#[inline(always)]
fn misses_this_node<A: Family>(ifindex: u32, interface: &Interface, row: &Flow<A>) -> bool {
    let hairpin = row.client == row.backend_addr;
    let one_armed = row.ifindex == ifindex;
    let beyond = row.flags & flag::EXTERNAL != 0 && interface.role != role::POD;
    hairpin || one_armed || beyond || row.flags & flag::MASQUERADE != 0
}
