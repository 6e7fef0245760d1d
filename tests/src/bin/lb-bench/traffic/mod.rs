//! Real traffic between a client and backends on one node, without Services,
//! through this load balancer, and through the rules that kube-proxy makes of the
//! same Services. All take turns of short turns, so that whatever else the
//! machine does meets all of them.

mod clients;
mod field;
mod sample;
mod server;
mod size;
mod target;
mod way;

use crate::part::Outcome;
use anyhow::{Context as _, Result, ensure};
use clients::Kind;
use field::Field;
use lb_tests::interrupt;
use sample::Sample;
pub(crate) use server::serve;
use size::Size;
use std::time::{Duration, Instant};
use way::{From, Stage, Way};

/// Options of `lb-bench traffic`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many Services there are, one size after the other
    #[arg(long, value_name = "N,N", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    services: Vec<u32>,
    /// How often everything is measured
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
}

impl Options {
    /// Those of a run of all parts: shorter, as the noise allows.
    pub(crate) fn of_all() -> Self {
        Self { services: Vec::new(), rounds: Some(12) }
    }

    fn plan(&self, quick: bool) -> Plan {
        let sizes: &[u32] = if quick { &[1, 100] } else { &[1, 1_000, 10_000] };
        let sizes = if self.services.is_empty() { sizes } else { &self.services };
        let (rounds, time) = if quick { (2, 20) } else { (self.rounds.unwrap_or(16), 80) };
        Plan { sizes: sizes.to_vec(), rounds, time: Duration::from_millis(time) }
    }
}

/// What is measured, and how long.
#[derive(Debug)]
struct Plan {
    sizes: Vec<u32>,
    rounds: u32,
    /// How long each kind of traffic goes on each way, in each round.
    time: Duration,
}

/// Measures all of it.
pub(crate) fn run(options: &Options, quick: bool) -> Result<Outcome> {
    ensure!(nix::unistd::geteuid().is_root(), "this makes network namespaces, so it needs root");
    let plan = options.plan(quick);
    let mut sizes = Vec::new();
    for services in &plan.sizes {
        let size = measure(*services, &plan).with_context(|| format!("{services} Services"))?;
        print!("{size}");
        sizes.push(size);
    }
    let charts = sizes.last().map(Size::chart).into_iter().collect();
    let figures = sizes.iter().map(Size::json).collect();
    Ok(Outcome { figures, targets: target::targets(&sizes), charts })
}

fn measure(services: u32, plan: &Plan) -> Result<Size> {
    let mut size = Size::new(services);
    size.refused = field::lacks_room(services);
    let make = |stages: &&'static [Stage]| {
        Field::new(stages, services).with_context(|| format!("{stages:?}"))
    };
    let mut fields = Field::SHARED.iter().map(make).collect::<Result<Vec<_>>>()?;
    let mut turns = Stage::TURNS;
    for _ in 0..plan.rounds {
        // What came first comes last in the next round.
        turns.reverse();
        for stages in turns {
            if !stages.iter().any(|stage| stage.has_agent()) {
                turn(&fields, stages, plan.time, &mut size)?;
            } else if size.refused.is_none() {
                with_agent(&mut fields, stages, plan.time, &mut size)?;
            }
        }
    }
    fields.into_iter().try_for_each(Field::end)?;
    Ok(size)
}

fn with_agent(
    fields: &mut [Field],
    stages: &[Stage],
    time: Duration,
    size: &mut Size,
) -> Result<()> {
    let stage = *stages.first().context("no stage")?;
    let place = fields.iter().position(|field| field.has(stage));
    let place = place.context("no network for the agent")?;
    fields[place].start_agent(stage)?;
    let (begin, before) = (Instant::now(), fields[place].agent_time()?);
    turn(fields, stages, time, size)?;
    size.agent_used += fields[place].agent_time()?.saturating_sub(before);
    size.agent_time += begin.elapsed();
    fields[place].end_agent()
}

/// Lets clients go all ways through some stages for a while, kind by kind.
fn turn(fields: &[Field], stages: &[Stage], time: Duration, size: &mut Size) -> Result<()> {
    let mut places = Vec::new();
    for way in [From::Pod, From::Node].into_iter().flat_map(|from| Way::through(from, stages)) {
        let field = fields.iter().find(|field| field.has(way.stage)).context("no network")?;
        let what = || format!("from a {}: {way}", way.from.name());
        field.check(way).with_context(what)?;
        places.push((way, field, Sample::default()));
    }
    for kind in Kind::ALL {
        for (way, field, sample) in &mut places {
            interrupt::check()?;
            let done = field.measure(*way, kind, time, sample);
            done.with_context(|| format!("from a {}: {way}", way.from.name()))?;
        }
    }
    for (way, _, sample) in places {
        size.add(way, sample);
    }
    Ok(())
}
