//! Puts the numbers of open connections right, from the flows themselves: the
//! programs count what they see begin and end, but datagram flows have no end,
//! hosts vanish, rows are evicted, and a Service that takes up the policy
//! least-connections has flows that nobody counted.

use crate::dataplane::maps::{ConnectedSockets, Maps, MapsError};
use lb_common::flow::flag;
use lb_common::value::policy;
use lb_common::{Address, Direction, Flow, FlowKey, SocketPeer};
use std::collections::{BTreeMap, BTreeSet};

/// Counts flows while somebody walks through the flow tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Recount {
    backends: BTreeMap<u32, Seen>,
}

/// A backend whose connections are counted.
#[derive(Clone, Copy, Debug)]
struct Seen {
    generation: u32,
    /// What the programs had counted when the walk began.
    before: u64,
    /// Its flows so far.
    flows: u64,
}

impl Recount {
    /// Begins with what the programs have counted: backend ids, generations,
    /// and numbers.
    fn new(backends: impl IntoIterator<Item = (u32, u32, u64)>) -> Self {
        let seen = |(id, generation, before)| (id, Seen { generation, before, flows: 0 });
        Self { backends: backends.into_iter().map(seen).collect() }
    }

    /// Begins to count the connections of the backends of every Service with
    /// the policy least-connections: to be shown all rows of the flow tables.
    pub(super) fn begin(maps: &Maps) -> Self {
        let ids = (0..maps.services.len()).filter(|&id| {
            maps.services.get(id).is_some_and(|row| row.policy == policy::LEAST_CONNECTIONS)
        });
        let services: BTreeSet<u32> = ids.collect();
        if services.is_empty() {
            return Self::default();
        }
        let rows = (0..).map_while(|id| Some((id, maps.backends.get(id)?)));
        let counted = rows.filter(|(_, row)| services.contains(&row.service));
        Self::new(counted.map(|(id, row)| (id, row.generation, maps.open.get(id))))
    }

    /// Puts right what the count has found wrong.
    pub(super) fn finish(&self, maps: &mut Maps) -> Result<(), MapsError> {
        for (id, connections) in self.corrections(|id| maps.open.get(id)) {
            maps.open.set(id, connections)?;
        }
        Ok(())
    }

    /// A row of a flow table, at this time of the monotonic clock. Of the rows
    /// of a flow, the one under its reverse key counts.
    pub(super) fn see<A: Address>(&mut self, key: &FlowKey<A>, flow: &Flow<A>, now: u64) {
        let counts = key.direction == Direction::Egress as u8
            && flow.flags & flag::DIRECT == 0
            && flow.ended == 0
            && !flow.is_over(now);
        if counts {
            self.count(flow.backend, flow.generation);
        }
    }

    /// Sockets of this node that are connected: their packets make no flows.
    pub(super) fn see_sockets(&mut self, tables: &[ConnectedSockets]) -> Result<(), MapsError> {
        if self.backends.is_empty() {
            return Ok(());
        }
        for table in tables {
            for (_, given) in table.rows()? {
                self.see_socket(&given);
            }
        }
        Ok(())
    }

    fn see_socket(&mut self, given: &SocketPeer) {
        self.count(given.backend, given.generation);
    }

    /// One connection more, if the id's owner is still who it went to.
    fn count(&mut self, backend: u32, generation: u32) {
        if let Some(seen) = self.backends.get_mut(&backend)
            && seen.generation == generation
        {
            seen.flows += 1;
        }
    }

    /// Backends whose number is wrong, with the right one; `after` is what the
    /// programs have counted until now. Connections come and go during the
    /// walk: a number that the programs had meanwhile stays.
    fn corrections(&self, after: impl Fn(u32) -> u64) -> Vec<(u32, u64)> {
        let wrong = |(&id, seen): (&u32, &Seen)| {
            let after = after(id);
            let likely = seen.before.min(after)..=seen.before.max(after);
            (!likely.contains(&seen.flows)).then_some((id, seen.flows))
        };
        self.backends.iter().filter_map(wrong).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::{BePort, V4, tcp::state};

    const NOW: u64 = 1_000_000_000_000;

    fn flow(port: u16) -> Flow<V4> {
        Flow {
            last_used: NOW,
            backend: 7,
            generation: 2,
            proto: 6,
            tcp: state::REPLIED,
            client: V4(1),
            client_port: BePort::new(port),
            source_port: BePort::new(port),
            ..Flow::default()
        }
    }

    #[test]
    fn live_flows_of_the_endpoint_count_once() {
        let mut recount = Recount::new([(7, 2, 9), (8, 1, 3)]);
        let closed = state::CLIENT_FIN | state::BACKEND_FIN;
        for flow in [
            flow(1),
            flow(2),
            Flow { proto: 17, ..flow(3) },
            // Over, of the id's owner before, past the Service, silent.
            Flow { tcp: closed, ..flow(4) },
            Flow { ended: 1, ..flow(5) },
            Flow { generation: 1, ..flow(6) },
            Flow { flags: flag::DIRECT, ..flow(7) },
            Flow { proto: 17, last_used: 0, ..flow(8) },
            Flow { backend: 9, ..flow(9) },
        ] {
            recount.see(&flow.forward_key(), &flow, NOW);
            recount.see(&flow.reverse_key(), &flow, NOW);
        }
        let given = SocketPeer { backend: 7, generation: 2, ..SocketPeer::default() };
        recount.see_socket(&given);
        recount.see_socket(&SocketPeer { generation: 1, ..given });
        assert_eq!(recount.corrections(|_| 9), [(7, 4), (8, 0)]);
    }

    #[test]
    fn what_came_or_went_during_the_walk_is_no_mistake() {
        let mut recount = Recount::new([(7, 2, 5)]);
        for port in 0..8 {
            recount.see(&flow(port).reverse_key(), &flow(port), NOW);
        }
        assert_eq!(recount.corrections(|_| 10), []);
        assert_eq!(recount.corrections(|_| 8), []);
        assert_eq!(recount.corrections(|_| 7), [(7, 8)]);
    }
}
