//! Reads and sets rows of the flow maps.

use aya::maps::HashMap;
use lb_common::{Flow, FlowKey, V4, V6, names};
use std::net::IpAddr;

use super::{Family, Rig};

impl Rig {
    /// Every row of a family's flow map.
    pub fn flows<A: Family>(&self) -> Vec<(FlowKey<A>, Flow<A>)> {
        let map: HashMap<_, A::FlowKey, A::Flow> =
            HashMap::try_from(self.map(A::FLOWS)).expect("a hash map");
        map.iter()
            .map(|row| row.expect("a row"))
            .map(|(key, flow)| (key.into(), flow.into()))
            .collect()
    }

    /// Sets a row.
    pub fn put_flow<A: Family>(&mut self, key: FlowKey<A>, flow: Flow<A>) {
        let mut map: HashMap<_, A::FlowKey, A::Flow> =
            HashMap::try_from(self.map_mut(A::FLOWS)).expect("a hash map");
        map.insert(A::FlowKey::from(key), A::Flow::from(flow), 0).expect("room for a row");
    }

    /// Takes away the rows of a family for which `lost` holds, as eviction does.
    pub fn lose_flows<A: Family>(&mut self, lost: impl Fn(&FlowKey<A>, &Flow<A>) -> bool) {
        for (key, flow) in self.flows::<A>() {
            if lost(&key, &flow) {
                let mut map: HashMap<_, A::FlowKey, A::Flow> =
                    HashMap::try_from(self.map_mut(A::FLOWS)).expect("a hash map");
                map.remove(&A::FlowKey::from(key)).expect("the row is there");
            }
        }
    }

    /// Makes every flow as old as the machine, which has been up for more than
    /// two minutes: time passes only in the rows.
    pub fn age_flows(&mut self) {
        self.age::<V4>();
        self.age::<V6>();
    }

    fn age<A: Family>(&mut self) {
        for (key, flow) in self.flows::<A>() {
            self.put_flow(key, Flow { last_used: 0, ..flow });
        }
    }

    /// Makes the flows of a client silent for so many seconds more.
    pub fn silence(&mut self, client: IpAddr, seconds: u64) {
        self.silence_rows::<V4>(client, seconds);
        self.silence_rows::<V6>(client, seconds);
    }

    fn silence_rows<A: Family>(&mut self, client: IpAddr, seconds: u64) {
        for (key, flow) in self.flows::<A>() {
            if flow.client.into() == client {
                let last_used = flow.last_used.saturating_sub(seconds * 1_000_000_000);
                self.put_flow(key, Flow { last_used, ..flow });
            }
        }
    }

    /// Forgets every flow.
    pub fn clear_flows(&mut self) {
        self.clear_hash::<FlowKey<V4>, Flow<V4>>(names::MAP_FLOWS_V4);
        self.clear_hash::<FlowKey<V6>, Flow<V6>>(names::MAP_FLOWS_V6);
    }
}
