//! 10,000 Services with 50,000 endpoints: they load, and a change to one of
//! them touches nothing of the others.

use anyhow::{Context as _, Result, ensure};
use lb_common::{Backend, Frontend, Service, filter};
use lb_tests::privilege::root_or_skip;
use lb_tests::scale::{Field, LARGE, Shape, Size};
use lb_userspace::dataplane::maps::{FrontendId, Maps};
use std::collections::BTreeMap;

/// Enough of them to be read in pieces.
const SMALL: Size = Size { services: 200, endpoints: 5, rich: true };
/// Rows that an endpoint more may take: its own, two segments with their slots,
/// and the flags of the filter, for each family.
const MOST_WRITES: u64 = 10;

/// What the kernel holds, but for counters and flows.
struct Dump {
    services: Vec<Service>,
    backends: Vec<Backend>,
    slots: Vec<u64>,
    filter: Vec<u8>,
    frontends: BTreeMap<FrontendId, Frontend>,
    names: BTreeMap<u32, String>,
}

impl Dump {
    fn of(field: &Field) -> Result<Self> {
        let maps = Maps::open(field.agent.pin_dir())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_matches('\0').to_owned();
        Ok(Self {
            services: (0..).map_while(|id| maps.services.get(id)).collect(),
            backends: (0..).map_while(|id| maps.backends.get(id)).collect(),
            slots: maps.slots.all(),
            filter: maps.filter.words().into_iter().flat_map(u64::to_le_bytes).collect(),
            frontends: maps.frontends.rows()?.into_iter().collect(),
            names: maps.names.rows()?.iter().map(|(id, row)| (*id, text(&row.name))).collect(),
        })
    }

    fn endpoints(&self) -> usize {
        self.backends.iter().filter(|row| row.state != 0).count()
    }
}

/// Places at which two tables differ.
fn differing<T: PartialEq>(before: &[T], after: &[T]) -> Vec<usize> {
    let pairs = before.iter().zip(after).enumerate();
    pairs.filter(|(_, (before, after))| before != after).map(|(place, _)| place).collect()
}

/// That everything that differs is the real Service's.
fn only_web_differs(before: &Dump, after: &Dump) -> Result<()> {
    ensure!(before.names == after.names && before.frontends == after.frontends);
    let named = after.names.iter().find(|(_, name)| *name == "web").map(|(id, _)| *id);
    let web = named.unwrap_or_default() as usize;
    ensure!(differing(&before.services, &after.services) == [web]);
    let backends = differing(&before.backends, &after.backends);
    ensure!(!backends.is_empty() && backends.len() <= 4, "{backends:?}");
    for id in backends {
        ensure!(after.backends[id].service as usize == web, "backend {id} is another's");
    }
    let own = |word: &usize| {
        after.services[web].segments.iter().any(|segment| {
            let words = segment.base / 2..(segment.base + segment.len).div_ceil(2);
            words.contains(&u32::try_from(*word).unwrap_or(u32::MAX))
        })
    };
    let slots = differing(&before.slots, &after.slots);
    ensure!(!slots.is_empty() && slots.iter().all(own), "slots {slots:?} are not all its own");
    let flags = differing(&before.filter, &after.filter);
    // For each family one of the address, and one of the address with its port.
    ensure!(flags.len() <= 4, "{flags:?}");
    let backend = filter::BACKEND | filter::BACKEND_ADDR;
    ensure!(flags.iter().all(|bucket| after.filter[*bucket] & backend != 0));
    Ok(())
}

#[test]
fn an_endpoint_more_among_50_000_touches_the_rows_of_its_service_only() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (field, start) = Field::start(LARGE, Shape::Yaml)?;
    let before = Dump::of(&field)?;
    ensure!(before.names.len() == 10_000, "{} Services", before.names.len());
    // The real Service's endpoint has an address of each family.
    ensure!(before.endpoints() == 50_001, "{} endpoints", before.endpoints());
    let crowded = before.filter.iter().filter(|flags| **flags != 0).count();
    println!("{crowded} of {} buckets of the filter are in use", before.filter.len());
    let took = field.change(true)?;
    println!("in force after {start:?}, an endpoint more after {took:?}");
    // Builds without optimisation have no time to keep, but a proportion.
    ensure!(took * 5 < start, "one endpoint took {took:?}, all of them {start:?}");
    let [changed, writes, _] = field.last_sync()?;
    ensure!(changed == 1 && (1..=MOST_WRITES).contains(&writes), "{changed}, {writes} writes");
    only_web_differs(&before, &Dump::of(&field)?)?;
    let check = field.agent.status()?["last_check"]["duration_seconds"].as_f64();
    let check = check.context("the kernel was never compared")?;
    println!("comparing all of it takes {:.1} ms", check * 1e3);
    // Twenty times what it takes without optimisation on a machine at rest.
    ensure!(check < 2.0, "comparing all of it takes {check} s");
    ensure!(field.agent.verify(&[])? == [""; 0]);
    Ok(())
}

#[test]
fn every_form_of_many_services_loads_and_changes_in_one_place() -> Result<()> {
    for shape in Shape::ALL {
        if !root_or_skip() {
            return Ok(());
        }
        let (field, _) = Field::start(SMALL, shape)?;
        let before = Dump::of(&field)?;
        ensure!(before.names.len() == 201, "{shape:?}: {} Services", before.names.len());
        field.change(true)?;
        let [changed, writes, _] = field.last_sync()?;
        ensure!(changed == 1 && (1..=MOST_WRITES).contains(&writes), "{shape:?}: {writes} writes");
        only_web_differs(&before, &Dump::of(&field)?)?;
        field.change(false)?;
        ensure!(field.last_sync()?[0] == 1);
    }
    Ok(())
}
