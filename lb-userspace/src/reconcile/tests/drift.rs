//! Rows that somebody else removed or altered, one or many at random: found,
//! told of, and put right as they were.

use super::super::drift::{Kernel, find};
use super::*;
use crate::dataplane::maps::{FrontendId, MapsError};
use ipnet::IpNet;
use lb_common::{Backend, Frontend, RangeHeads, Segment, Service, ServiceName, filter};

impl Kernel for Image {
    fn names(&self) -> Result<Vec<(u32, ServiceName)>, MapsError> {
        Ok(self.names.clone())
    }

    fn frontends(&self) -> Result<Vec<(FrontendId, Frontend)>, MapsError> {
        Ok(self.frontends.clone())
    }

    fn prefixes(&self) -> Result<Vec<(u32, IpNet)>, MapsError> {
        Ok(self.prefixes.clone())
    }

    fn service(&self, id: u32) -> Option<Service> {
        self.services.get(id as usize).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(id as usize).copied()
    }

    fn slots(&self, word: u32) -> Option<u64> {
        self.slots.get(word as usize).copied()
    }

    fn filter(&self, word: u32) -> u64 {
        self.filter[word as usize]
    }

    fn heads(&self, family: usize) -> RangeHeads {
        self.heads[family]
    }
}

/// What somebody does to a row; the number picks which.
#[derive(Clone, Copy, Debug)]
enum Damage {
    NoFrontend,
    Frontend,
    ForeignFrontend,
    NoName,
    ForeignName,
    Service,
    Slots,
    Backend,
    Filter,
    NoPrefix,
    ForeignPrefix,
    Heads,
}

const EVERY: [Damage; 12] = [
    Damage::NoFrontend,
    Damage::Frontend,
    Damage::ForeignFrontend,
    Damage::NoName,
    Damage::ForeignName,
    Damage::Service,
    Damage::Slots,
    Damage::Backend,
    Damage::Filter,
    Damage::NoPrefix,
    Damage::ForeignPrefix,
    Damage::Heads,
];

/// Does it; false if there is no such row.
fn damage(kernel: &mut Image, what: Damage, pick: usize) -> bool {
    let used = |row: &Service| row.used == 1;
    let in_use: Vec<usize> =
        (0..kernel.services.len()).filter(|id| used(&kernel.services[*id])).collect();
    let segments = || kernel.services.iter().flat_map(|row| row.segments);
    match what {
        Damage::NoFrontend if !kernel.frontends.is_empty() => {
            kernel.frontends.remove(pick % kernel.frontends.len());
        }
        Damage::Frontend if !kernel.frontends.is_empty() => {
            let count = kernel.frontends.len();
            kernel.frontends[pick % count].1.service += 1;
        }
        Damage::ForeignFrontend => {
            let id = FrontendId::port(ip("203.0.113.99"), 80, 6);
            kernel.frontends.push((id, Frontend::default()));
        }
        Damage::NoName if !kernel.names.is_empty() => {
            kernel.names.remove(pick % kernel.names.len());
        }
        Damage::ForeignName if !kernel.names.is_empty() => {
            let name = kernel.names[pick % kernel.names.len()].1;
            let id = 1 + kernel.names.iter().map(|(id, _)| *id).max().unwrap();
            kernel.names.push((id, name));
        }
        Damage::Service if !in_use.is_empty() => {
            kernel.services[in_use[pick % in_use.len()]] = Service::default();
        }
        Damage::Slots => {
            let Some(segment) = segments().filter(|segment| segment.len > 0).nth(pick % 3) else {
                return false;
            };
            kernel.slots[segment.base as usize / 2] ^= 1;
        }
        Damage::Backend => {
            let taken: Vec<usize> =
                (0..kernel.backends.len()).filter(|id| kernel.backends[*id].state != 0).collect();
            let Some(id) = taken.get(pick % taken.len().max(1)) else { return false };
            kernel.backends[*id].addr[0] ^= 1;
        }
        Damage::Filter => {
            let Some(word) = kernel.filter.iter().position(|flags| *flags != 0) else {
                return false;
            };
            kernel.filter[word] = 0;
        }
        Damage::NoPrefix if !kernel.prefixes.is_empty() => {
            kernel.prefixes.remove(pick % kernel.prefixes.len());
        }
        Damage::ForeignPrefix => kernel.prefixes.push((4_000_000, "192.0.2.0/24".parse().unwrap())),
        Damage::Heads => kernel.heads[pick % 2].count ^= 1,
        Damage::NoFrontend
        | Damage::Frontend
        | Damage::NoName
        | Damage::ForeignName
        | Damage::Service
        | Damage::NoPrefix => return false,
    }
    true
}

/// A kernel but for the order of its rows, and for what no packet reads.
fn content(kernel: &Image) -> impl PartialEq + std::fmt::Debug + use<> {
    let sorted = |mut rows: Vec<String>| {
        rows.sort();
        rows
    };
    let names =
        kernel.names.iter().map(|(id, name)| format!("{id} {:?}", super::super::key_of(name)));
    let frontends = kernel.frontends.iter().map(|row| format!("{row:?}"));
    let prefixes = kernel.prefixes.iter().map(|row| format!("{row:?}"));
    let slots: Vec<_> = kernel
        .services
        .iter()
        .flat_map(|row| row.segments)
        .map(|segment: Segment| kernel.slots_of(segment))
        .collect();
    (
        sorted(names.collect()),
        sorted(frontends.collect()),
        sorted(prefixes.collect()),
        (kernel.services.clone(), kernel.backends.clone(), slots),
        (kernel.filter.iter().filter(|flags| **flags != 0).count(), kernel.heads),
    )
}

fn world() -> World {
    let mut world = World::new(kernel(16, 32, 64, 64));
    let mut guarded =
        service("web", &["10.96.0.1", "fd00::1"], &["10.1.0.1", "10.1.0.2", "fd01::1"]);
    guarded.load_balancer_ips = vec![ip("203.0.113.1")];
    guarded.source_ranges = vec!["198.51.100.0/24".parse().unwrap()];
    let other = service("dns", &["10.96.0.2"], &["10.1.0.1"]);
    world.apply(&desired([guarded, other]));
    world
}

#[test]
fn every_damage_is_found_named_and_put_right() {
    for what in EVERY {
        for pick in 0..4 {
            let mut world = world();
            let before = content(&world.kernel);
            assert_eq!(find(&world.programmed, &world.kernel).unwrap().drift, []);
            assert!(damage(&mut world.kernel, what, pick), "{what:?} finds nothing to damage");
            let found = find(&world.programmed, &world.kernel).unwrap();
            assert_eq!(found.drift.len(), 1, "{what:?}: {:?}", found.drift);
            for change in &found.changes {
                write(&mut world.kernel, change);
            }
            assert_eq!(find(&world.programmed, &world.kernel).unwrap().drift, []);
            assert!(content(&world.kernel) == before, "{what:?} is not as it was");
        }
    }
}

#[test]
fn a_difference_says_whose_row_it_is() {
    let mut world = world();
    let at = world
        .kernel
        .frontends
        .iter()
        .position(|(id, _)| id.addr == ip("10.96.0.2") && !id.is_address());
    world.kernel.frontends.remove(at.unwrap());
    let found = find(&world.programmed, &world.kernel).unwrap();
    let expected =
        "Service default/dns:http (TCP): LB_FRONTENDS_V4: 10.96.0.2:80 TCP is missing".to_owned();
    assert_eq!(found.drift[0].to_string(), expected);
}

/// An agent that starts finds the same in the kernel as one that was there.
#[test]
fn who_starts_puts_right_what_was_damaged_before() {
    for what in EVERY {
        let mut world = world();
        let wanted =
            world.programmed.services.values().filter_map(|service| service.settled.clone());
        let wanted = Desired { services: wanted.map(|s| (s.key.clone(), s)).collect() };
        assert!(damage(&mut world.kernel, what, 1));
        let (mut programmed, changes) = adopt(world.kernel.clone(), world.now);
        let plan = plan(&mut programmed, &wanted, &BTreeSet::new(), &facts(), world.now);
        for change in changes.iter().chain(&plan.changes) {
            write(&mut world.kernel, change);
        }
        let left = find(&programmed, &world.kernel).unwrap().drift;
        assert_eq!(left, [], "{what:?}");
        let complete = filter::FRONTEND | filter::SERVICE_ADDR | filter::BACKEND;
        let words = world.kernel.filter.iter().flat_map(|word| word.to_le_bytes());
        let flags = words.fold(0, |all, flags| all | flags);
        assert_eq!(flags & complete, complete, "{what:?}");
        view(&world.kernel);
    }
}

proptest! {
    #[test]
    fn many_damages_at_once_leave_nothing_behind(
        damages in proptest::collection::vec((0_usize..EVERY.len(), 0_usize..8), 1..10),
    ) {
        let mut world = world();
        let before = content(&world.kernel);
        let packets = view(&world.kernel);
        for (what, pick) in damages {
            damage(&mut world.kernel, EVERY[what], pick);
        }
        let found = find(&world.programmed, &world.kernel).unwrap();
        for change in &found.changes {
            write(&mut world.kernel, change);
        }
        prop_assert!(content(&world.kernel) == before);
        prop_assert_eq!(view(&world.kernel), packets);
    }
}
