//! Packets that leave, at TC.

use lb_common::Verdict;
use lb_common::tcp::From;
use lb_common::value::role;

use super::{Choice, Fate, Model, Pending, Seen};
use crate::prog::net::Port;

impl Model {
    /// What must become of a packet that leaves by `by`.
    pub fn egress(&mut self, packet: Seen, by: &Port) -> Fate {
        self.pending = None;
        let Seen { proto, flags, src, dst, len } = packet;
        if let Some(run) = self.reverse.get(&(proto, src, dst)).copied() {
            self.note(run, From::Backend, flags);
            self.count_out(run, len);
            let run = &self.runs[run];
            let verdict = if run.service.is_some() { Verdict::Returned } else { Verdict::Passed };
            return Fate::Rewritten(verdict, vec![(Choice::Exactly(run.front), run.client)]);
        }
        let Some(index) = self.reverse.get(&(proto, dst, src)).copied() else {
            if self.addresses.contains(&dst.ip()) {
                return Fate::Dropped(Verdict::DroppedLoop);
            }
            return self.stranger(dst);
        };
        let run = &self.runs[index];
        if let Some(source) = run.snat {
            let to = vec![(Choice::Exactly(source), dst)];
            return Fate::Rewritten(Verdict::SourceTranslated, to);
        }
        if run.no_snat || run.service.is_none() {
            return Fate::Unchanged(Verdict::Passed);
        }
        let hairpin = run.client.ip() == run.backend_addr.ip();
        let one_armed = run.ifindex == by.index;
        let beyond = run.external && by.role != role::POD;
        if !(hairpin || one_armed || beyond) {
            self.runs[index].no_snat = true;
            return Fate::Unchanged(Verdict::Passed);
        }
        let choices = vec![(self.node_sources(run, by.address(src.ip())), dst)];
        self.pending = Some(Pending::Masquerade(index));
        Fate::Rewritten(Verdict::SourceTranslated, choices)
    }
}
