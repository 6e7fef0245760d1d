//! Connections that are no Service's, from or to a port of this node that is:
//! those of the node's own processes, and those that somebody else on the node
//! translated (a CNI's masquerade may draw any port). A Service has such a port
//! for new connections from outside; what the node itself began, and what was
//! there before the Service, goes on.

use lb_common::filter::NODE_ADDR;
use lb_common::flow::flag;
use lb_common::value::frontend_kind;
use lb_common::{Address, Direction, Flow, Frontend, FrontendKey, Tuple, proto, tcp};

use crate::egress::Departure;
use crate::family::Family;
use crate::packet::Packet;
use crate::{filter, flows, ingress, policy};

/// Whether a frontend is at an address of this node, where others have ports
/// too.
#[inline(always)]
fn is_at_node<A: Address>(frontend: &Frontend, addr: A) -> bool {
    frontend.kind == frontend_kind::NODE_PORT || filter::address(addr) & NODE_ADDR != 0
}

/// Whether a packet that is of no known flow belongs to somebody else, and not
/// to a flow that begins, or that was forgotten. `has_connection` says
/// whether a connection of the node would receive it.
#[inline(always)]
pub(crate) fn has<A: Family>(
    packet: &Packet<A>,
    frontend: &Frontend,
    has_connection: impl Fn(&Tuple<A>) -> bool,
) -> bool {
    if !proto::connects(packet.proto) || tcp::is_syn(packet.flags) {
        return false;
    }
    let at_node = is_at_node(frontend, packet.tuple.dst);
    if !at_node && frontend.kind != frontend_kind::EXTERNAL_IP {
        // Only Services have these addresses.
        return false;
    }
    if packet.flags & (tcp::flag::SYN | tcp::flag::RST) != 0 {
        // It answers something that no client of a Service has sent.
        return true;
    }
    if at_node {
        has_connection(&packet.tuple)
    } else {
        // An external address may be a host's. Where every node picks the same
        // backend, a flow of another node that failed may go on here.
        !policy::is_by_hash(frontend.service)
    }
}

/// Follows a packet that leaves from a frontend's address and port and is no
/// reply of a Service: answers to it are not for the Service.
#[inline(always)]
pub(crate) fn follow<A: Family>(packet: &Packet<A>, departure: &Departure) {
    let Tuple { src, sport, .. } = packet.tuple;
    let key = FrontendKey::new(src, sport, packet.proto);
    // SAFETY: the row is copied at once; the agent replaces rows whole.
    let Some(frontend) = unsafe { A::frontends().get(&key) }.copied() else { return };
    if !is_at_node(&frontend, src) {
        return;
    }
    let back = packet.tuple.reversed();
    if let Some(row) = flows::find(back, packet.proto, Direction::Ingress)
        && !row.is_over(departure.now)
    {
        if row.flags & flag::DIRECT != 0 {
            let from = tcp::From::Backend;
            flows::note(row, Flow::reverse_key, from, packet.flags, departure.now);
        }
        return;
    }
    if packet.flags & tcp::flag::RST != 0 {
        return;
    }
    let Some(flow) = ingress::blank(&back, packet.proto, departure.now) else { return };
    flow.backend_addr = flow.frontend;
    flow.backend_port = flow.frontend_port;
    flow.source_port = flow.client_port;
    flow.flags = flag::DIRECT;
    // Without rows it is as if the connection had not been there: rare, and
    // nothing to stop a packet for.
    flows::add(&flow.reverse_key(), flow);
    flows::put(&flow.forward_key(), flow);
}
