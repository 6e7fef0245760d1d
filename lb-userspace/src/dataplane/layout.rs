//! What becomes of pins that differ from what this process needs: flow tables
//! of another size, and maps with too few rows for the Services, are replaced with
//! their rows; anything else is refused, with what would be lost, or replaced by new
//! maps if the user accepts that.

use super::grow::Growth;
use super::load::Programs;
use super::maps::{self, FlowFamily as _};
use super::migrate::MovingFlows;
use super::spec::{self, Mismatch};
use super::{DataplaneError, HookOptions, PinDir, abi, clsact, teardown};
use aya::maps::{MapData, MapError};
use lb_common::{V4, V6, names};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fmt;

/// How pins differ from what this process needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the replacement of pins would lose, in rows of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// Of the flow tables.
    pub flows: u32,
    /// Of the tables for session affinity.
    pub affinity: u32,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flows, affinity } = self;
        write!(f, "{flows} rows of flows (a connection has two or three)")?;
        write!(f, " and {affinity} of session affinity")
    }
}

/// The programs, over pins that fit: as they are, or as they will be once
/// every program was replaced.
pub(super) fn settle(
    options: &HookOptions,
    pins: &PinDir,
) -> Result<(Programs, Option<MovingFlows>), DataplaneError> {
    // What a replacement that was cut short left, before its end or after.
    if pins.staged().map(abi::MAP).exists() {
        teardown::remove_staged(pins);
    }
    let mismatches = spec::mismatches(pins, &options.sizes)?;
    if let Some(difference) = difference(pins, &mismatches)? {
        return replace(options, pins, difference);
    }
    abi::write(pins, abi::Abi::current())?;
    forget_rings(pins, &mismatches)?;
    let mut moving = MovingFlows::begin(pins, &options.sizes)?;
    if let Some(moving) = &mut moving
        && let Some((map, rows, room)) = moving.too_many()?
        && !options.replace_layout
    {
        let difference = Difference(format!("{map} has {rows} rows in use and is to have {room}"));
        let lost = Lost { flows: rows - room, affinity: 0 };
        teardown::remove_staged(pins);
        return Err(DataplaneError::Layout { pin_dir: pins.path().into(), difference, lost });
    }
    let growth = Growth::begin(pins, &mismatches)?;
    let programs = Programs::load(options, pins, growth.maps())?;
    growth.finish(moving.is_some())?;
    if let Some(moving) = &mut moving {
        moving.follow()?;
    }
    Ok((programs, moving))
}

/// Whether the pins are as they have to be, and nothing has to be moved or
/// replaced; an error if they may not be replaced.
pub(super) fn fits(options: &HookOptions, pins: &PinDir) -> Result<bool, DataplaneError> {
    let mismatches = spec::mismatches(pins, &options.sizes)?;
    match difference(pins, &mismatches)? {
        Some(difference) if !options.replace_layout => Err(refusal(pins, difference)),
        difference => Ok(difference.is_none() && mismatches.is_empty()),
    }
}

/// What no row can be taken along over.
fn difference(
    pins: &PinDir,
    mismatches: &[Mismatch],
) -> Result<Option<Difference>, DataplaneError> {
    let found = abi::read(pins)?.map(|abi| abi.version);
    let expected = abi::Abi::current().version;
    if let Some(found) = found.filter(|found| *found != expected) {
        return Ok(Some(Difference(format!("version {found} instead of {expected}"))));
    }
    Ok(mismatches.iter().find(|one| !one.grows && !is_resized_flows(one)).map(|other| {
        let Mismatch { map, property, found, expected, grows: _ } = other;
        Difference(format!("the {property} of {map} is {found} instead of {expected}"))
    }))
}

fn refusal(pins: &PinDir, difference: Difference) -> DataplaneError {
    DataplaneError::Layout { pin_dir: pins.path().into(), difference, lost: lost(pins) }
}

fn is_resized_flows(mismatch: &Mismatch) -> bool {
    let resized = [V4::MAP, V6::MAP, names::MAP_YOUNG_V4, names::MAP_YOUNG_V6];
    mismatch.is_number_of_rows() && resized.contains(&mismatch.map)
}

/// Unpins the rings of young flows that have another size than the flow tables
/// ask for: new ones are made, and the flows in the old ones are left to age.
fn forget_rings(pins: &PinDir, mismatches: &[Mismatch]) -> Result<(), DataplaneError> {
    for Mismatch { map, .. } in mismatches {
        if [names::MAP_YOUNG_V4, names::MAP_YOUNG_V6].contains(map) {
            let path = pins.map(map);
            std::fs::remove_file(&path).map_err(|source| DataplaneError::Io {
                operation: "remove",
                path,
                source,
            })?;
        }
    }
    Ok(())
}

/// Puts new maps in the place of those that are pinned. The programs that are
/// attached go on with the old maps, until the new ones are filled and the
/// agent replaces them: no packet meets an empty table.
fn replace(
    options: &HookOptions,
    pins: &PinDir,
    difference: Difference,
) -> Result<(Programs, Option<MovingFlows>), DataplaneError> {
    if !options.replace_layout {
        return Err(refusal(pins, difference));
    }
    let lost = lost(pins);
    teardown::remove_staged(pins);
    let staged = pins.stage()?;
    let made = make(options, pins, &staged);
    if made.is_err() {
        teardown::remove_staged(pins);
    }
    let programs = made?;
    tracing::warn!("the pins had another layout ({difference}) and are replaced: lost are {lost}");
    let (old, new) = (pins.maps(), staged.maps());
    renameat_with(CWD, &new, CWD, &old, RenameFlags::EXCHANGE).map_err(|source| {
        DataplaneError::Io { operation: "replace", path: old, source: source.into() }
    })?;
    teardown::remove_staged(pins);
    Ok((programs, None))
}

/// Makes new maps, with what attaching has to remember.
fn make(options: &HookOptions, pins: &PinDir, staged: &PinDir) -> Result<Programs, DataplaneError> {
    abi::write(staged, abi::Abi::current())?;
    let programs = Programs::load(options, staged, &[])?;
    let filters = pins.map(clsact::MAP);
    if filters.exists() {
        let fail = |source| DataplaneError::Map { map: clsact::MAP, source };
        let name = Some(clsact::MAP.into());
        MapData::from_pin(&filters)
            .map_err(fail)?
            .pin(staged.map(clsact::MAP))
            .map_err(|error| fail(MapError::PinError { name, error }))?;
    }
    Ok(programs)
}

/// Counts without knowing what the rows mean; a table that can't be read, as
/// one that another release does not have, counts for nothing.
fn lost(pins: &PinDir) -> Lost {
    let count = |maps: [&str; 2]| {
        maps.into_iter().map(|map| maps::count_rows(&pins.map(map)).unwrap_or(0)).sum()
    };
    Lost {
        flows: count([names::MAP_FLOWS_V4, names::MAP_FLOWS_V6]),
        affinity: count([names::MAP_AFFINITY_V4, names::MAP_AFFINITY_V6]),
    }
}
