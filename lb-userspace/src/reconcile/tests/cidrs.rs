//! Ranges of Services' addresses: after any writes a packet finds those that
//! stay, and in the end those that are wanted, wherever an agent stopped.

use super::*;
use crate::dataplane::maps::FrontendId;
use ipnet::IpNet;
use lb_common::key::SERVICE_CIDRS;
use lb_common::range::ALL;
use lb_common::{Address as _, V4, V6};

/// What the programs do: the heads first, then the prefix map.
fn drops(kernel: &Image, addr: IpAddr) -> bool {
    let (head, family) = match addr {
        IpAddr::V4(addr) => (V4::from(addr).head(), 0),
        IpAddr::V6(addr) => (V6::from(addr).head(), 1),
    };
    let row = kernel.heads[family];
    let heads = row.heads.iter().take(usize::try_from(row.count).unwrap_or(0));
    let maybe = row.count == ALL || heads.into_iter().any(|known| known.matches(head));
    let rows = kernel.prefixes.iter().filter(|(owner, _)| *owner == SERVICE_CIDRS);
    maybe && rows.into_iter().any(|(_, range)| range.contains(&addr))
}

const RANGES: [&str; 9] = [
    "10.96.0.0/16",
    "10.96.0.0/12",
    "10.97.0.0/16",
    "172.30.0.0/16",
    "192.168.0.0/24",
    "100.64.0.0/10",
    "198.18.0.0/15",
    "fd00:10:96::/112",
    "fd00:10:96::/108",
];

proptest! {
    #[test]
    fn ranges_that_stay_are_found_at_any_time(
        steps in proptest::collection::vec((any::<[bool; 9]>(), any::<prop::sample::Index>()), 1..8)
    ) {
        let ranges: Vec<IpNet> = RANGES.iter().map(|text| text.parse().unwrap()).collect();
        let mut kernel = kernel(4, 4, 4, 64);
        let (mut programmed, _) = adopt(kernel.clone(), Instant::now());
        for (wanted, stop) in steps {
            let before = programmed.service_cidrs();
            let after: Vec<IpNet> =
                ranges.iter().zip(wanted).filter(|(_, wanted)| *wanted).map(|(r, _)| *r).collect();
            let changes = programmed.set_service_cidrs(&after);
            let count = stop.index(changes.len() + 1);
            for change in &changes[..count] {
                write(&mut kernel, change);
                for range in after.iter().filter(|range| before.contains(range)) {
                    prop_assert!(drops(&kernel, range.addr()), "{range} is lost on the way");
                }
            }
            // Another agent takes over.
            let (adopted, repairs) = adopt(kernel.clone(), Instant::now());
            prop_assert_eq!(repairs, vec![]);
            programmed = adopted;
            for change in programmed.set_service_cidrs(&after) {
                write(&mut kernel, &change);
            }
            for range in &ranges {
                let inside = after.iter().any(|one| one.contains(&range.addr()));
                prop_assert_eq!(drops(&kernel, range.addr()), inside, "{}", range);
            }
            prop_assert_eq!(programmed.set_service_cidrs(&after), vec![]);
        }
    }
}

#[test]
fn a_range_takes_effect_after_the_services_that_came_with_it() {
    let mut world = World::new(kernel(10, 10, 10, 10));
    let web = service("web", &["10.96.0.1"], &["10.1.0.1"]);
    let mut facts = facts();
    facts.service_cidrs = vec!["10.96.0.0/16".parse().unwrap()];
    let changes =
        plan(&mut world.programmed, &desired([web]), &BTreeSet::new(), &facts, world.now).changes;
    let address = FrontendId::address(ip("10.96.0.1"));
    let served = changes.iter().position(
        |change| matches!(change, Change::Frontend { id, row: Some(_) } if *id == address),
    );
    let closed = changes.iter().position(|change| matches!(change, Change::Heads { .. }));
    assert!(served.unwrap() < closed.unwrap(), "{changes:?}");
}
