//! Packets that enter: from clients to Services, and replies to addresses that
//! source translation put in.

use lb_common::filter::{BACKEND, FRONTEND, NODE_ADDR, SERVICE_ADDR};
use lb_common::flow::{TOUCH_INTERVAL, flag};
use lb_common::{BePort, Direction, Flow, Frontend, FrontendKey, Tuple, Verdict, proto, tcp};

use crate::family::{Family, port_number};
use crate::flows::{self, Failure};
use crate::maps::LB_INTERFACES;
use crate::packet::Packet;
use crate::select::Client;
use crate::stats::Size;
use crate::{bystanders, clients, filter, globals, select, service_addr, skip, stats, words};

/// What the hook knows beside the packet.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    /// Interface that the packet came in on.
    pub(crate) ifindex: u32,
    /// Monotonic clock, nanoseconds.
    pub(crate) now: u64,
    /// For the counters.
    pub(crate) size: Size,
}

/// What is next for a packet.
pub(crate) enum Step {
    /// It is of a flow that there is: it becomes what `to` says.
    Known(Verdict),
    /// Likewise, and the flow's packets may go past the stack: into a pod, or out by
    /// an uplink only.
    Onward { into_pod: bool },
    /// It may be the reply of a flow whose packets may go past the stack. For the
    /// stack it has its verdict, and becomes what `to` says.
    Back(Verdict),
    /// It has its verdict, and stays as it is.
    Done(Verdict),
    /// The flow in the scratch row begins with it.
    Begin,
}

/// Decides on a packet that enters; `to` is its own tuple, and what it must become
/// if that is another. What the hook knows of others' packets is not asked for.
#[inline(always)]
pub(crate) fn decide<A: Family>(
    packet: &Packet<A>,
    arrival: impl FnOnce() -> Arrival,
    to: &mut Tuple<A>,
    has_connection: impl Fn(&Tuple<A>) -> bool,
) -> Step {
    let socket = filter::socket(packet.tuple.dst, packet.tuple.dport, packet.proto);
    let address = filter::address(packet.tuple.dst);
    if !concerns(packet.tuple.dport, socket, address) {
        let verdict = service_addr::stranger(packet.tuple.dst, address);
        let replies = || filter::socket(packet.tuple.src, packet.tuple.sport, packet.proto);
        let back = skip::is_wanted() && verdict == Verdict::Passed && replies() & BACKEND != 0;
        return if back { Step::Back(verdict) } else { Step::Done(verdict) };
    }
    let arrival = &arrival();
    if let Some(row) = flows::find(packet.tuple, packet.proto, Direction::Ingress)
        && let Some(verdict) = known(packet, arrival, row, to)
    {
        if skip::is_wanted() && verdict == Verdict::SourceRestored {
            return Step::Back(verdict);
        }
        if skip::is_wanted() && verdict == Verdict::Forwarded && skip::may(row) {
            return Step::Onward { into_pod: skip::may_into_pod(row) };
        }
        return Step::Known(verdict);
    }
    if socket & FRONTEND != 0 {
        let key = FrontendKey::new(packet.tuple.dst, packet.tuple.dport, packet.proto);
        // SAFETY: the row is copied at once; the agent replaces rows whole.
        if let Some(frontend) = unsafe { A::frontends().get(&key) }.copied() {
            if bystanders::has(packet, &frontend, has_connection) {
                return Step::Done(Verdict::Passed);
            }
            return match prepare(packet, arrival, &frontend) {
                Ok(()) => Step::Begin,
                Err(verdict) => {
                    if verdict.is_refusal() {
                        stats::refused(frontend.service);
                    }
                    Step::Done(verdict)
                }
            };
        }
    }
    if service_addr::is_cluster_ip(packet.tuple.dst, address) {
        return Step::Done(Verdict::RefusedUnknownPort);
    }
    let verdict = service_addr::stranger(packet.tuple.dst, address);
    if verdict == Verdict::Passed && socket & BACKEND != 0 {
        return prepare_direct(packet, arrival);
    }
    Step::Done(verdict)
}

/// Whether an interface is a port of a bridge. Elsewhere a frame for another
/// link-layer address is another host's, or is for a device on top of this one
/// (macvlan), which has the programs too.
#[inline(always)]
pub(crate) fn is_port(ifindex: u32) -> bool {
    // SAFETY: one byte of a row that the agent replaces whole.
    unsafe { LB_INTERFACES.get(&ifindex) }.is_some_and(|interface| interface.port != 0)
}

/// The cheap test: can any map have something on a packet to this port, with
/// what the filter says of its destination?
#[inline(always)]
pub(crate) fn concerns(dport: BePort, socket: u8, address: u8) -> bool {
    if socket & (FRONTEND | BACKEND) != 0 || address & SERVICE_ADDR != 0 {
        return true;
    }
    let (min, max) = globals::snat_ports();
    let port = port_number(dport);
    address & NODE_ADDR != 0 && port >= min && port <= max
}

/// A packet of a flow that has a row; `None` if the row no longer holds and
/// the packet begins anew.
#[inline(always)]
fn known<A: Family>(
    packet: &Packet<A>,
    arrival: &Arrival,
    row: &mut Flow<A>,
    to: &mut Tuple<A>,
) -> Option<Verdict> {
    if row.flags & flag::RESTORE != 0 {
        // The client's edge counts the packet and follows the connection; here
        // only the row's age matters.
        if arrival.now.wrapping_sub(row.last_used) > TOUCH_INTERVAL {
            row.last_used = arrival.now;
        }
        *to = row.routed().reversed();
        return Some(Verdict::SourceRestored);
    }
    if !holds(packet, row) {
        return None;
    }
    flows::note(row, Flow::reverse_key, tcp::From::Client, packet.flags, arrival.now);
    *to = row.routed();
    if row.flags & flag::DIRECT != 0 {
        return Some(Verdict::Passed);
    }
    stats::packet_in(row, arrival.size);
    Some(Verdict::Forwarded)
}

/// Whether the forward row still says where this packet goes. An established
/// connection keeps its backend whatever happens to the Service; a datagram or
/// a first segment goes only to a backend that serves, and only while the
/// Service has the frontend.
#[inline(always)]
pub(crate) fn holds<A: Family>(packet: &Packet<A>, row: &Flow<A>) -> bool {
    let connects = proto::connects(packet.proto);
    if connects && !tcp::is_syn(packet.flags) {
        return true;
    }
    if connects && tcp::is_closed(row.tcp) {
        return false;
    }
    if row.flags & flag::DIRECT != 0 {
        return true;
    }
    if !select::still_serves(row.backend, row.generation) {
        return false;
    }
    let key = FrontendKey::new(packet.tuple.dst, packet.tuple.dport, packet.proto);
    // SAFETY: one word of a row that the agent replaces whole.
    unsafe { A::frontends().get(&key) }.is_some_and(|frontend| frontend.service == row.service)
}

/// The verdict on a packet whose flow could not be made.
#[inline(always)]
pub(crate) fn failed(failure: Failure) -> Verdict {
    match failure {
        Failure::NoPort => Verdict::DroppedNoPort,
        Failure::NoRow => Verdict::DroppedNoFlow,
    }
}

/// A row for what a client sends, not yet in any map, in this CPU's scratch
/// space.
#[inline(always)]
pub(crate) fn blank<A: Family>(
    dialled: &Tuple<A>,
    proto: u8,
    now: u64,
) -> Option<&'static mut Flow<A>> {
    let flow = &mut flows::scratch()?.flow;
    // SAFETY: this CPU's only user of the row is this run, and zero is a value.
    unsafe { words::clear(flow) };
    flow.last_used = now;
    flow.proto = proto;
    flow.client = dialled.src;
    flow.client_port = dialled.sport;
    flow.frontend = dialled.dst;
    flow.frontend_port = dialled.dport;
    Some(flow)
}

/// Describes in the scratch row the flow that begins with this packet; `Err` says
/// why none does.
#[inline(always)]
pub(crate) fn prepare<A: Family>(
    packet: &Packet<A>,
    arrival: &Arrival,
    frontend: &Frontend,
) -> Result<(), Verdict> {
    if packet.flags & tcp::flag::RST != 0 {
        // There is nothing to reset, and a reset is never answered.
        return Err(Verdict::DroppedNoFlow);
    }
    let room = A::ask().get_ptr_mut(0).ok_or(Verdict::DroppedNoFlow)?;
    if !clients::is_admitted(*frontend, packet.tuple.src, room) {
        return Err(stats::dropped(frontend.service, Verdict::DroppedSourceRange));
    }
    let origin = clients::origin(arrival.ifindex, packet.tuple.src, room);
    let client = Client {
        addr: packet.tuple.src,
        port: packet.tuple.sport,
        proto: packet.proto,
        now: arrival.now,
        room,
    };
    let picked = match select::backend(frontend, origin.scope(*frontend), &client) {
        Ok(picked) => picked,
        Err(verdict) => return Err(stats::dropped(frontend.service, verdict)),
    };
    let flow = blank(&packet.tuple, packet.proto, arrival.now).ok_or(Verdict::DroppedNoFlow)?;
    flow.service = frontend.service;
    flow.backend = picked.id;
    flow.generation = picked.row.generation;
    flow.backend_addr = A::from_words(picked.row.addr);
    flow.backend_port = picked.row.port;
    flow.ifindex = arrival.ifindex;
    if origin.external {
        flow.flags |= flag::EXTERNAL;
    }
    if origin.is_masqueraded(*frontend) {
        flow.flags |= flag::MASQUERADE;
    }
    Ok(())
}

/// Likewise for a packet straight to a backend, past its Service. It is passed on
/// as it is, but its tuple is reserved like that of a Service's flow, so that the
/// replies of the one are never taken for those of the other; where a live
/// flow of a Service has the tuple, this one gets another source port.
#[inline(always)]
fn prepare_direct<A: Family>(packet: &Packet<A>, arrival: &Arrival) -> Step {
    if proto::connects(packet.proto) && !tcp::is_syn(packet.flags) {
        return Step::Done(Verdict::Passed);
    }
    let Some(flow) = blank(&packet.tuple, packet.proto, arrival.now) else {
        return Step::Done(Verdict::Passed);
    };
    flow.backend_addr = packet.tuple.dst;
    flow.backend_port = packet.tuple.dport;
    flow.flags = flag::DIRECT;
    Step::Begin
}
