//! Slow start: a backend that joins others begins with a tenth of its weight
//! and has all of it after a while, so that a cold one is not flooded. Pure;
//! the caller has the clock and comes back at [`SlowStart::next_step`].

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Desired, DesiredService, ServicePortKey, Takes};

/// Parts of a weight.
const PARTS: u16 = 10;

/// Backends of a Service port that take new flows: since when, for those that
/// have not their whole weight yet.
type Known = BTreeMap<(IpAddr, u16), Option<Instant>>;

/// Remembers who is new.
#[derive(Clone, Debug)]
pub struct SlowStart {
    duration: Duration,
    known: HashMap<ServicePortKey, Known>,
}

impl SlowStart {
    /// With this time from a tenth to the whole weight; none at all if zero.
    pub fn new(duration: Duration) -> Self {
        Self { duration, known: HashMap::new() }
    }

    /// The desired state with the weights of this moment. While a Service has
    /// somebody new, all its weights are ten times what they were, so that
    /// there are tenths.
    pub fn weigh<'a>(&mut self, desired: &'a Desired, now: Instant) -> Cow<'a, Desired> {
        let mut weighed = Cow::Borrowed(desired);
        if self.duration.is_zero() {
            return weighed;
        }
        let mut before = std::mem::take(&mut self.known);
        for (key, service) in &desired.services {
            let known = self.meet(service, &before.remove(key).unwrap_or_default(), now);
            if known.values().any(Option::is_some)
                && let Some(service) = weighed.to_mut().services.get_mut(key)
            {
                self.ramp(Arc::make_mut(service), &known, now);
            }
            self.known.insert(key.clone(), known);
        }
        weighed
    }

    /// Who takes new flows now, and who of them is new. Where nobody did, there
    /// is nobody to take over from; a hash table would move other flows.
    fn meet(&self, service: &DesiredService, before: &Known, now: Instant) -> Known {
        let slow = !before.is_empty() && !service.policy.is_by_hash();
        let takes_new = service.backends.iter().filter(|backend| backend.takes == Takes::New);
        takes_new
            .map(|backend| {
                let endpoint = (backend.addr, backend.port);
                let since = before.get(&endpoint).copied().unwrap_or_else(|| slow.then_some(now));
                (endpoint, since.filter(|since| now.duration_since(*since) < self.duration))
            })
            .collect()
    }

    fn ramp(&self, service: &mut DesiredService, known: &Known, now: Instant) {
        for backend in &mut service.backends {
            let since = known.get(&(backend.addr, backend.port)).copied().flatten();
            let parts = since.map_or(PARTS, |since| self.parts(now.duration_since(since)));
            backend.weight = backend.weight.saturating_mul(parts);
        }
    }

    /// Parts of the weight after this time: 1 at first, all at the end.
    fn parts(&self, age: Duration) -> u16 {
        (1..PARTS).take_while(|&step| self.step(step) <= age).fold(1, |parts, _| parts + 1)
    }

    fn step(&self, step: u16) -> Duration {
        self.duration * u32::from(step) / u32::from(PARTS - 1)
    }

    /// When weights change next.
    pub fn next_step(&self, now: Instant) -> Option<Instant> {
        let new = self.known.values().flat_map(BTreeMap::values).flatten();
        let next =
            |since: &Instant| (1..PARTS).map(|step| *since + self.step(step)).find(|at| *at > now);
        new.filter_map(next).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{DesiredBackend, Policy, Protocol};

    fn desired(policy: Policy, weights: &[u16]) -> Desired {
        let key = ServicePortKey {
            namespace: "default".into(),
            name: "web".into(),
            port_name: String::new(),
            protocol: Protocol::Tcp,
        };
        let backend = |(host, weight): (u8, &u16)| DesiredBackend {
            addr: IpAddr::from([10, 1, 0, host]),
            port: 80,
            takes: Takes::New,
            scopes: 1,
            local: false,
            weight: *weight,
        };
        let service = DesiredService {
            policy,
            backends: (1..).zip(weights).map(backend).collect(),
            ..DesiredService::bare(key.clone(), 80)
        };
        Desired { services: [(key, Arc::new(service))].into() }
    }

    fn weights(desired: &Desired) -> Vec<u16> {
        let backends = desired.services.values().flat_map(|service| &service.backends);
        backends.map(|backend| backend.weight).collect()
    }

    #[test]
    fn a_backend_that_joins_others_has_its_weight_after_ten_steps() {
        let begin = Instant::now();
        let mut slow = SlowStart::new(Duration::from_secs(9));
        let one = desired(Policy::RoundRobin, &[3]);
        assert_eq!(weights(&slow.weigh(&one, begin)), [3], "the first has nobody to relieve it");
        let two = desired(Policy::RoundRobin, &[3, 2]);
        let mut now = begin + Duration::from_mins(1);
        for part in 1..10 {
            assert_eq!(weights(&slow.weigh(&two, now)), [30, 2 * part]);
            let next = slow.next_step(now).unwrap();
            assert_eq!(next, now + Duration::from_secs(1));
            now = next;
        }
        assert_eq!(weights(&slow.weigh(&two, now)), [3, 2]);
        assert_eq!(slow.next_step(now), None);
        // One that was away is new again.
        slow.weigh(&one, now);
        assert_eq!(weights(&slow.weigh(&two, now)), [30, 2]);
    }

    #[test]
    fn hash_policies_and_agents_without_the_option_know_no_slow_start() {
        let now = Instant::now();
        for (policy, duration) in [(Policy::Maglev, 9), (Policy::Random, 0)] {
            let mut slow = SlowStart::new(Duration::from_secs(duration));
            slow.weigh(&desired(policy, &[1]), now);
            assert_eq!(weights(&slow.weigh(&desired(policy, &[1, 1]), now)), [1, 1]);
            assert_eq!(slow.next_step(now), None);
        }
    }
}
