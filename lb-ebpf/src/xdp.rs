//! The XDP hook: finishes what enters and leaves by uplinks without a socket
//! buffer. What it cannot finish goes to the stack untouched, where TC meets
//! it with the same maps.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_redirect};
use aya_ebpf::programs::XdpContext;
use lb_common::filter::FRONTEND;
use lb_common::flow::flag;
use lb_common::value::role;
use lb_common::{Direction, Flow, FrontendKey, Hook, Tuple, V4, V6, Verdict, proto, tcp};

use crate::ETHERNET;
use crate::begin::{self, Made};
use crate::family::{self, Family};
use crate::ingress::{self, Arrival};
use crate::packet::{ETHERTYPE_V4, ETHERTYPE_V6, Fragment, Packet, Parsed, V6_LEN, Window};
use crate::rewrite_frame::{self, FrameFamily};
use crate::route::{Way, interface};
use crate::stats::{self, Size};
use crate::{filter, flows, service_addr, snat, sockets};

/// What both families need, to write the hook once.
trait XdpFamily: Family + FrameFamily {
    /// Whether nothing stands between the IP header and the transport header
    /// that the stack should see to.
    fn is_plain(packet: &Packet<Self>) -> bool;
}

impl XdpFamily for V4 {
    #[inline(always)]
    fn is_plain(packet: &Packet<Self>) -> bool {
        packet.fragment == Fragment::Whole
    }
}

impl XdpFamily for V6 {
    #[inline(always)]
    fn is_plain(packet: &Packet<Self>) -> bool {
        packet.l4 == ETHERNET + V6_LEN
    }
}

/// Runs the hook; the result is an XDP action.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    const ETHERTYPE: usize = 12;
    let window = Window { start: ctx.data(), end: ctx.data_end() };
    match window.read::<u16>(ETHERTYPE) {
        Some(ETHERTYPE_V4) => of_family::<V4>(ctx.ctx),
        Some(ETHERTYPE_V6) => of_family::<V6>(ctx.ctx),
        _ => {
            stats::verdict(Hook::Xdp, Verdict::Passed);
            xdp_action::XDP_PASS
        }
    }
}

/// One function after the other, for the verifier's sake and the stack's: see
/// [`begin`].
#[inline(always)]
fn of_family<A: XdpFamily>(ctx: *mut xdp_md) -> u32 {
    let action = entering::<A>(ctx);
    if action != BEGIN {
        return action;
    }
    begun::<A>(ctx, begin::rows::<A>())
}

/// Stands for the action where a flow begins.
const BEGIN: u32 = u32::MAX;

/// What keeps a packet from going on at once.
enum Stop {
    /// The flow in the scratch row begins with it.
    Begin,
    /// A verdict that leaves it as it is.
    Verdict(Verdict),
}

impl From<Verdict> for Stop {
    #[inline(always)]
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// All until a flow begins, or until the end.
#[inline(never)]
fn entering<A: XdpFamily>(ctx: *mut xdp_md) -> u32 {
    let ctx = XdpContext::new(ctx);
    match decide::<A>(&ctx, window(&ctx)) {
        Ok((verdict, action)) => finish(verdict, action),
        Err(Stop::Begin) => BEGIN,
        Err(Stop::Verdict(verdict)) => leave(verdict),
    }
}

/// What follows when the rows of a flow are made, or could not be.
#[inline(never)]
fn begun<A: XdpFamily>(ctx: *mut xdp_md, made: Made) -> u32 {
    let ctx = XdpContext::new(ctx);
    match forward_first::<A>(&ctx, window(&ctx), made) {
        Ok((verdict, action)) => finish(verdict, action),
        Err(verdict) => leave(verdict),
    }
}

#[inline(always)]
fn window(ctx: &XdpContext) -> Window {
    Window { start: ctx.data(), end: ctx.data_end() }
}

/// Counts a verdict.
#[inline(always)]
fn finish(verdict: Verdict, action: u32) -> u32 {
    stats::verdict(Hook::Xdp, verdict);
    action
}

/// Leaves the packet to the stack, or drops it.
#[inline(always)]
fn leave(verdict: Verdict) -> u32 {
    finish(verdict, if verdict.is_drop() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS })
}

/// `Ok` is a verdict and the action with which the frame goes on.
#[inline(always)]
fn decide<A: XdpFamily>(ctx: &XdpContext, window: Window) -> Result<(Verdict, u32), Stop> {
    let Some(Parsed { packet, .. }) = family::parse::<A>(window, ETHERNET) else {
        return Err(Stop::Verdict(Verdict::Passed));
    };
    if !packet.has_ports() {
        return Err(Stop::Verdict(Verdict::Passed));
    }
    let socket = filter::socket(packet.tuple.dst, packet.tuple.dport, packet.proto);
    let address = filter::address(packet.tuple.dst);
    if !ingress::concerns(packet.tuple.dport, socket, address) {
        let verdict = service_addr::stranger(packet.tuple.dst, address);
        let ours = verdict == Verdict::Passed || is_for(window, ctx.ingress_ifindex() as u32);
        return Err(Stop::Verdict(if ours { verdict } else { Verdict::Passed }));
    }
    ours(ctx, window, packet, socket)
}

/// A packet that may be ours.
#[inline(always)]
fn ours<A: XdpFamily>(
    ctx: &XdpContext,
    window: Window,
    packet: &Packet<A>,
    socket: u8,
) -> Result<(Verdict, u32), Stop> {
    let present = window.end - window.start - ETHERNET;
    let headers = packet.l4 - ETHERNET;
    let is_empty = packet.len as usize <= headers;
    if !A::is_plain(packet) || is_empty || packet.len as usize > present {
        return Err(Stop::Verdict(Verdict::HandedOver));
    }
    if rewrite_frame::checksum_is_partial(window, packet) {
        return Err(Stop::Verdict(Verdict::HandedOver));
    }
    let arrival = arrival(ctx, packet);
    match flows::find(packet.tuple, packet.proto, Direction::Ingress) {
        Some(row) if row.flags & flag::RESTORE != 0 => {
            Ok(returned(ctx, window, packet, row, &arrival)?)
        }
        Some(row) if ingress::holds(packet, row) => {
            Ok(forward(ctx, window, packet, row, &arrival)?)
        }
        _ => Err(prepare(window, packet, &arrival, socket)),
    }
}

#[inline(always)]
fn arrival<A: XdpFamily>(ctx: &XdpContext, packet: &Packet<A>) -> Arrival {
    Arrival {
        ifindex: ctx.ingress_ifindex() as u32,
        // SAFETY: the helper has no preconditions.
        now: unsafe { bpf_ktime_get_coarse_ns() },
        size: Size { packets: 1, bytes: u64::from(packet.len) },
    }
}

/// The first packet of a flow. The row is the one that later packets meet.
#[inline(always)]
fn forward_first<A: XdpFamily>(
    ctx: &XdpContext,
    window: Window,
    made: Made,
) -> Result<(Verdict, u32), Verdict> {
    let Parsed { packet, .. } = family::parsed::<A>().ok_or(Verdict::HandedOver)?;
    if let Err(failure) = made.result() {
        return Err(ingress::failed(failure));
    }
    let row = flows::find(packet.tuple, packet.proto, Direction::Ingress);
    forward(ctx, window, packet, row.ok_or(Verdict::HandedOver)?, &arrival(ctx, packet))
}

/// A packet of a flow that has a row. `Err` is a verdict that leaves it as it is.
#[inline(always)]
fn forward<A: XdpFamily>(
    ctx: &XdpContext,
    window: Window,
    packet: &Packet<A>,
    row: &mut Flow<A>,
    arrival: &Arrival,
) -> Result<(Verdict, u32), Verdict> {
    if row.flags & (flag::DIRECT | flag::NO_SNAT) != 0 {
        return Err(Verdict::HandedOver);
    }
    let &Arrival { ifindex, now, size } = arrival;
    let way = way(ctx, row.routed(), packet, ifindex).ok_or(Verdict::HandedOver)?;
    // Before the row looks as if it had just been used.
    flows::note(row, Flow::reverse_key, tcp::From::Client, packet.flags, now);
    if !row.has_snat() {
        let interface = interface(way.ifindex()).ok_or(Verdict::HandedOver)?;
        let source = A::snat_of(&interface);
        if interface.role == role::POD || source == A::NONE {
            return Err(Verdict::HandedOver);
        }
        row.last_used = now;
        let (other, service) = (row.reverse_key(), row.service);
        snat::masquerade(row, &other, source, |tuple| {
            sockets::has_socket(ctx.ctx.cast(), tuple, packet.proto)
        })
        .map_err(|failure| stats::no_port(service, ingress::failed(failure)))?;
    }
    let action = take(&way, ifindex).ok_or(Verdict::HandedOver)?;
    rewrite_frame::frame(window, packet, &row.masqueraded(), &way.macs())
        .ok_or(Verdict::HandedOver)?;
    stats::packet_in(row, size);
    Ok((Verdict::Forwarded, action))
}

/// A reply to this node's address: all the way back to the client at once.
#[inline(always)]
fn returned<A: XdpFamily>(
    ctx: &XdpContext,
    window: Window,
    packet: &Packet<A>,
    row: &mut Flow<A>,
    arrival: &Arrival,
) -> Result<(Verdict, u32), Verdict> {
    let to = row.dialled().reversed();
    let way = way(ctx, to, packet, arrival.ifindex).ok_or(Verdict::HandedOver)?;
    let action = take(&way, arrival.ifindex).ok_or(Verdict::HandedOver)?;
    rewrite_frame::frame(window, packet, &to, &way.macs()).ok_or(Verdict::HandedOver)?;
    if flows::note(row, Flow::forward_key, tcp::From::Backend, packet.flags, arrival.now) {
        flows::touch(&row.reverse_key(), row);
    }
    stats::packet_out(row, arrival.size);
    Ok((Verdict::Returned, action))
}

/// What is next for the first packet of a flow. TC says whether what begins in the
/// middle is a flow of ours.
#[inline(always)]
fn prepare<A: XdpFamily>(
    window: Window,
    packet: &Packet<A>,
    arrival: &Arrival,
    socket: u8,
) -> Stop {
    let opens = !proto::connects(packet.proto) || tcp::is_syn(packet.flags);
    if !opens || socket & FRONTEND == 0 || !is_for(window, arrival.ifindex) {
        return Stop::Verdict(Verdict::HandedOver);
    }
    let key = FrontendKey::new(packet.tuple.dst, packet.tuple.dport, packet.proto);
    // SAFETY: the row is copied at once; the agent replaces rows whole.
    let Some(frontend) = unsafe { A::frontends().get(&key) }.copied() else {
        return Stop::Verdict(Verdict::HandedOver);
    };
    match ingress::prepare(packet, arrival, &frontend) {
        Ok(()) => Stop::Begin,
        Err(verdict) if verdict.is_drop() => Stop::Verdict(verdict),
        // TC says no, and counts it: it can send the answer.
        Err(_) => Stop::Verdict(Verdict::HandedOver),
    }
}

/// Whether the frame is for the interface that it came in by. The driver passes
/// all frames up while somebody listens to them.
#[inline(always)]
fn is_for(window: Window, ifindex: u32) -> bool {
    match (window.read::<[u8; 6]>(0), interface(ifindex)) {
        (Some(mac), Some(interface)) => mac == interface.mac,
        _ => false,
    }
}

/// The way of a frame; `None` if the stack must see to it.
#[inline(always)]
fn way<A: Family>(ctx: &XdpContext, to: Tuple<A>, packet: &Packet<A>, ifindex: u32) -> Option<Way> {
    Way::find(ctx.ctx.cast(), to, packet.proto, packet.len as u16, ifindex)
}

/// The action that sends a frame this way; `None` if the interface takes no frames
/// from XDP programs.
#[inline(always)]
fn take(way: &Way, arrived_on: u32) -> Option<u32> {
    if way.ifindex() == arrived_on {
        return Some(xdp_action::XDP_TX);
    }
    if interface(way.ifindex())?.xdp == 0 {
        return None;
    }
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(way.ifindex(), 0) as u32 })
}
