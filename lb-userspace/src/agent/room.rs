//! How many rows the maps of Services get: enough for those that there are and a
//! quarter more, and more when that is used up. The kernel takes the memory of arrays
//! at once, and that of counters for each processor.

use crate::dataplane::maps::FlowFamily;
use crate::dataplane::{MapSizes, PinDir, outgrown};
use crate::desired::Demand;
use crate::reconcile::Refusal;
use lb_common::{V4, V6, limits};

/// Rows come in steps, so that a few Services more ask for no other maps.
const STEP: u32 = 1_024;

/// Sizes for what is needed, beside those that don't depend on it.
pub(super) fn sizes(demand: &Demand, others: &MapSizes) -> MapSizes {
    let Demand { services, backends, slots, frontends, affinity } = *demand;
    MapSizes {
        // The first row of each is nobody's.
        services: fit(services + 1, [limits::MIN_SERVICES, limits::MAX_SERVICES]),
        backends: fit(backends + 1, [limits::MIN_BACKENDS, limits::MAX_BACKENDS]),
        slots: fit(slots, [limits::MIN_SLOTS, limits::MAX_SLOTS]),
        frontends: fit(frontends, [limits::MIN_FRONTENDS, limits::MAX_FRONTENDS]),
        affinity: if affinity { limits::MAX_AFFINITY } else { limits::MIN_AFFINITY },
        ..*others
    }
}

/// Lets a flow table that nobody named a size for be as large as it is, where the
/// flows in it would not fit its default any more.
pub(super) fn keep_flows(pins: &PinDir, sizes: &mut MapSizes, given: [bool; 2]) {
    keep::<V4>(pins, &mut sizes.flows_v4, given[0]);
    keep::<V6>(pins, &mut sizes.flows_v6, given[1]);
}

fn keep<A: FlowFamily>(pins: &PinDir, size: &mut u32, given: bool) {
    if let Some(rows) = (!given).then(|| outgrown::<A>(pins, *size)).flatten() {
        tracing::info!("{} keeps its {rows} rows: more than {size} are in use", A::MAP);
        *size = rows;
    }
}

fn fit(needed: usize, [least, most]: [u32; 2]) -> u32 {
    let needed = u32::try_from(needed).unwrap_or(u32::MAX);
    let rows = needed.saturating_add(needed / 4).min(most).next_multiple_of(STEP);
    rows.clamp(least, most)
}

/// Larger sizes, where something was refused for want of rows, or none where there
/// were enough, or there are no more.
pub(super) fn larger<'a>(
    now: &MapSizes,
    demand: &Demand,
    refused: impl Iterator<Item = &'a Refusal>,
) -> Option<MapSizes> {
    let wanted = sizes(demand, now);
    let mut larger = MapSizes {
        services: now.services.max(wanted.services),
        backends: now.backends.max(wanted.backends),
        slots: now.slots.max(wanted.slots),
        frontends: now.frontends.max(wanted.frontends),
        affinity: now.affinity.max(wanted.affinity),
        ..*now
    };
    // How many these need is only estimated.
    let double = |rows: u32, most: u32| rows.saturating_mul(2).min(most).max(rows);
    for refusal in refused {
        match refusal {
            Refusal::NoSlots { needed } => {
                let enough = u32::try_from(*needed).unwrap_or(u32::MAX).saturating_mul(2);
                let slots = double(now.slots, limits::MAX_SLOTS).max(enough);
                larger.slots = larger.slots.max(slots.min(limits::MAX_SLOTS));
            }
            Refusal::NoFrontend { .. } => {
                let frontends = double(now.frontends, limits::MAX_FRONTENDS);
                larger.frontends = larger.frontends.max(frontends);
            }
            Refusal::NameTooLong { .. }
            | Refusal::Taken { .. }
            | Refusal::NoService { .. }
            | Refusal::NoBackend { .. }
            | Refusal::NoRange { .. }
            | Refusal::Waiting { .. } => {}
        }
    }
    (larger != *now).then_some(larger)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_quarter_more_room_than_needed_within_the_limits() {
        let others = MapSizes::default();
        assert_eq!(sizes(&Demand::default(), &others), others);
        let many = Demand {
            services: 10_000,
            backends: 20_000,
            slots: 160_000,
            frontends: 20_000,
            affinity: true,
        };
        let fitting = sizes(&many, &others);
        let MapSizes { services, backends, slots, frontends, affinity, .. } = fitting;
        assert_eq!([services, backends, slots, frontends], [13_312, 25_600, 200_704, 25_600]);
        assert_eq!(affinity, limits::MAX_AFFINITY);
        let most = Demand { services: usize::MAX - 1, backends: 5_000_000, ..many };
        let MapSizes { services, backends, .. } = sizes(&most, &others);
        assert_eq!([services, backends], [limits::MAX_SERVICES, limits::MAX_BACKENDS]);
    }

    #[test]
    fn maps_grow_where_there_is_need_until_there_is_no_more() {
        let now = MapSizes::default();
        let full = Demand { services: 2_000, ..Demand::default() };
        let refused = [Refusal::Waiting { map: "service" }, Refusal::NoSlots { needed: 100 }];
        let grown = larger(&now, &full, refused.iter()).unwrap();
        assert_eq!((grown.services, grown.slots), (3_072, 2 * limits::MIN_SLOTS));
        assert_eq!(larger(&grown, &full, refused[..1].iter()), None);
        let most = MapSizes {
            services: limits::MAX_SERVICES,
            slots: limits::MAX_SLOTS,
            frontends: limits::MAX_FRONTENDS,
            ..now
        };
        let beyond = Demand { services: 100_000, ..Demand::default() };
        let refused = [
            Refusal::NoService { max: 65_535 },
            Refusal::NoSlots { needed: 100 },
            Refusal::NoFrontend { family: "IPv4", max: limits::MAX_FRONTENDS },
        ];
        assert_eq!(larger(&most, &beyond, refused.iter()), None);
    }
}
