//! Frames that enter by an uplink, at XDP.

use std::net::{IpAddr, SocketAddr};

use lb_common::Verdict;
use lb_common::proto::connects;
use lb_common::tcp::{self, From};

use super::{Choice, Fate, Model, Pending, Run, Seen};
use crate::prog::SNAT_PORTS;
use crate::prog::net::{PORTS, Port};

impl Model {
    /// What must become of a frame that enters by `by`, where `way` says by
    /// which uplink XDP can reach an address: none if it can't. None if XDP
    /// would make a choice that can't be read off the frame: the test lets TC
    /// have that packet.
    pub fn xdp(
        &mut self,
        packet: Seen,
        by: &Port,
        way: impl Fn(SocketAddr) -> Option<Port>,
    ) -> Option<Fate> {
        self.pending = None;
        let Seen { proto, flags, src, dst, len } = packet;
        if let Some(index) = self.restore.get(&(proto, src, dst)).copied() {
            let run = self.runs[index].clone();
            if self.forward.get(&(proto, run.client, run.front)) != Some(&index) {
                return None;
            }
            if way(run.client).is_none() {
                return Some(Fate::Unchanged(Verdict::HandedOver));
            }
            self.note(index, From::Backend, flags);
            self.count_out(index, len);
            let to = vec![(Choice::Exactly(run.front), run.client)];
            return Some(Fate::Sent(Verdict::Returned, to));
        }
        let Some(index) = self.known(packet) else { return self.xdp_unknown(packet, by, way) };
        let run = self.runs[index].clone();
        let out = if run.service.is_some() { way(run.backend_addr) } else { None };
        let Some(out) = out else { return Some(Fate::Unchanged(Verdict::HandedOver)) };
        self.note(index, From::Client, flags);
        self.count_in(index, len);
        let source = if let Some(source) = run.snat {
            Choice::Exactly(source)
        } else {
            self.pending = Some(Pending::Masquerade(index));
            self.node_sources(&run, out.address(src.ip()))
        };
        Some(Fate::Sent(Verdict::Forwarded, vec![(source, run.backend_addr)]))
    }

    fn xdp_unknown(
        &mut self,
        packet: Seen,
        by: &Port,
        way: impl Fn(SocketAddr) -> Option<Port>,
    ) -> Option<Fate> {
        let begins = !connects(packet.proto) || tcp::is_syn(packet.flags);
        if !begins && self.frontends.contains_key(&(packet.dst, packet.proto)) {
            return Some(Fate::Unchanged(Verdict::HandedOver));
        }
        let counters = self.service_traffic.clone();
        let fate = self.unknown(packet, by);
        // What XDP refuses, TC counts.
        self.service_traffic = counters;
        match fate {
            Fate::Rewritten(Verdict::Forwarded, choices) => {
                let sent = choices
                    .into_iter()
                    .map(|(source, backend)| {
                        // Another port than the client's own does not show.
                        if source != Choice::Exactly(packet.src) {
                            return None;
                        }
                        let run = Run::blank(packet, backend);
                        let node = way(backend)?.address(packet.src.ip());
                        Some((self.node_sources(&run, node), backend))
                    })
                    .collect::<Option<Vec<_>>>();
                let (Some(sent), Some(Pending::Begin { masquerade, .. })) =
                    (sent, self.pending.as_mut())
                else {
                    self.pending = None;
                    return None;
                };
                *masquerade = true;
                Some(Fate::Sent(Verdict::Forwarded, sent))
            }
            Fate::Unchanged(_) => {
                let maybe = self.known_backends.contains(&(packet.dst, packet.proto))
                    || (is_node(packet.dst.ip()) && SNAT_PORTS.contains(&packet.dst.port()));
                let verdict = if maybe { Verdict::HandedOver } else { Verdict::Passed };
                Some(Fate::Unchanged(verdict))
            }
            Fate::Dropped(Verdict::DroppedNoFlow | Verdict::DroppedUnallocated) => Some(fate),
            Fate::Dropped(_) | Fate::Refused(_) | Fate::Rewritten(..) | Fate::Sent(..) => {
                self.pending = None;
                Some(Fate::Unchanged(Verdict::HandedOver))
            }
        }
    }
}

/// Whether an address is this node's: only TC knows what to do with a packet
/// that may be a reply to it.
fn is_node(ip: IpAddr) -> bool {
    PORTS.iter().any(|port| port.address(ip) == ip)
}
