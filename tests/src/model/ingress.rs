//! Packets that enter, at TC.

use lb_common::proto::connects;
use lb_common::tcp::{self, From, flag};
use lb_common::{Verdict, value::backend_state};

use super::{Choice, Fate, Model, Pending, Seen, is_external};
use crate::prog::net::Port;

impl Model {
    /// What must become of a packet that enters by `by`.
    pub fn ingress(&mut self, packet: Seen, by: &Port) -> Fate {
        self.pending = None;
        let Seen { proto, flags, src, dst, len } = packet;
        if let Some(run) = self.restore.get(&(proto, src, dst)) {
            let run = &self.runs[*run];
            let to = vec![(Choice::Exactly(run.backend_addr), run.source)];
            return Fate::Rewritten(Verdict::SourceRestored, to);
        }
        if let Some(run) = self.known(packet) {
            self.note(run, From::Client, flags);
            self.count_in(run, len);
            let run = &self.runs[run];
            let verdict = if run.service.is_some() { Verdict::Forwarded } else { Verdict::Passed };
            return Fate::Rewritten(verdict, vec![(Choice::Exactly(run.source), run.backend_addr)]);
        }
        self.unknown(packet, by)
    }

    /// The run that a packet belongs to, if it still goes where that went.
    pub(super) fn known(&self, packet: Seen) -> Option<usize> {
        let run = *self.forward.get(&(packet.proto, packet.src, packet.dst))?;
        let opens = !connects(packet.proto) || tcp::is_syn(packet.flags);
        let state = &self.runs[run];
        let over = connects(packet.proto) && tcp::is_closed(state.tcp);
        (!opens || (!over && self.still_serves(state))).then_some(run)
    }

    pub(super) fn unknown(&mut self, packet: Seen, by: &Port) -> Fate {
        let Seen { proto, flags, src, dst, .. } = packet;
        let (ifindex, external) = (by.index, is_external(by));
        if let Some(service) = self.frontends.get(&(dst, proto)).copied() {
            if flags & flag::RST != 0 {
                // At an address of the node it may be somebody else's.
                return if self.addresses.contains(&dst.ip()) {
                    Fate::Dropped(Verdict::DroppedNoFlow)
                } else {
                    Fate::Unchanged(Verdict::Passed)
                };
            }
            let rows: Vec<usize> = self.services[service]
                .iter()
                .copied()
                .filter(|row| self.backends[*row].state == backend_state::ACTIVE)
                .filter(|row| self.backends[*row].addr.is_ipv4() == dst.is_ipv4())
                .collect();
            if rows.is_empty() {
                self.service_traffic[service].refused += 1;
                return Fate::Refused(Verdict::RefusedNoBackend);
            }
            let to = |row: &usize| {
                let backend = self.backends[*row].addr;
                (self.sources(proto, src, dst, backend), backend)
            };
            let choices = rows.iter().map(to).collect();
            let backends = rows.into_iter().map(Some).collect();
            let (service, masquerade) = (Some(service), false);
            let begin = Pending::Begin { service, backends, ifindex, external, masquerade };
            self.pending = Some(begin);
            return Fate::Rewritten(Verdict::Forwarded, choices);
        }
        if self.addresses.contains(&dst.ip()) {
            // A reset is counted so, but not answered.
            return if flags & flag::RST == 0 {
                Fate::Refused(Verdict::RefusedUnknownPort)
            } else {
                Fate::Dropped(Verdict::RefusedUnknownPort)
            };
        }
        let opens = !connects(proto) || tcp::is_syn(flags);
        if opens && self.known_backends.contains(&(dst, proto)) {
            let choices = vec![(self.sources(proto, src, dst, dst), dst)];
            self.pending = Some(Pending::Begin {
                service: None,
                backends: vec![None],
                ifindex,
                external: false,
                masquerade: false,
            });
            return Fate::Rewritten(Verdict::Passed, choices);
        }
        self.stranger(dst)
    }
}
