//! The figures of all ways at one number of Services.

use super::sample::{Metric, Sample};
use super::way::{From, Stage, Way};
use crate::chart::{Bar, Chart};
use crate::figures::{median, median_with_error};
use serde_json::{Map, Value, json};
use std::fmt;
use std::time::Duration;

/// What was measured with so many Services.
#[derive(Debug)]
pub(crate) struct Size {
    pub(crate) services: u32,
    /// Of each way, a sample of each round.
    ways: Vec<(Way, Vec<Sample>)>,
    /// Why our agent could not be measured, if it could not.
    pub(crate) refused: Option<String>,
    /// Processor time of the agent while it was measured, and how long that took.
    pub(crate) agent_used: Duration,
    pub(crate) agent_time: Duration,
}

impl Size {
    /// Nothing yet.
    pub(crate) fn new(services: u32) -> Self {
        let ways = Way::all().map(|way| (way, Vec::new())).collect();
        Self {
            services,
            ways,
            refused: None,
            agent_used: Duration::ZERO,
            agent_time: Duration::ZERO,
        }
    }

    /// Adds what a round has shown of a way.
    pub(crate) fn add(&mut self, way: Way, sample: Sample) {
        if let Some((_, samples)) = self.ways.iter_mut().find(|(other, _)| *other == way) {
            samples.push(sample);
        }
    }

    fn samples(&self, way: Way) -> &[Sample] {
        self.ways.iter().find(|(other, _)| *other == way).map_or(&[], |(_, samples)| samples)
    }

    /// The median of a figure; not a number if the way was not measured.
    pub(crate) fn figure(&self, way: Way, metric: Metric) -> f64 {
        median(self.samples(way).iter().map(|sample| sample.get(metric)))
    }

    /// The median of a figure's ratios to what the same client had without Services
    /// in the same round, and twice the standard error of that median.
    pub(crate) fn ratio(&self, way: Way, metric: Metric) -> (f64, f64) {
        let [bare, again] = [Stage::Bare, Stage::Again].map(|stage| {
            self.samples(Way { stage, ..way }).iter().map(|sample| sample.get(metric))
        });
        let rounds = self.samples(way).iter().zip(bare.zip(again));
        let ratios =
            rounds.map(|(sample, (bare, again))| 2.0 * sample.get(metric) / (bare + again));
        median_with_error(ratios)
    }

    /// How much of one processor the agent took while it was measured.
    fn agent(&self) -> f64 {
        self.agent_used.as_secs_f64() / self.agent_time.as_secs_f64()
    }

    /// Connections, which are what Services cost most.
    pub(crate) fn chart(&self) -> Chart {
        let bar = |way: Way| {
            let (value, error) = self.ratio(way, Metric::Connections);
            Bar { label: way.to_string(), series: way.stage.series(), value, error }
        };
        let group = |from: From| {
            let ways = Way::through(from, &Stage::ALL).filter(|way| !way.is_direct());
            (format!("from a {}", from.name()), ways.map(bar).collect())
        };
        let groups = [From::Pod, From::Node].map(group).into();
        let title = format!(
            "New connections a second, {} Services, as part of those without Services",
            self.services
        );
        Chart { title, groups, mark: Some(1.0) }
    }

    /// All figures, for programs.
    pub(crate) fn json(&self) -> Value {
        let of_all = |figure: &dyn Fn(Metric) -> f64| -> Map<String, Value> {
            let named = |metric: Metric| (metric.name().to_owned(), figure(metric).into());
            Metric::ALL.into_iter().map(named).collect()
        };
        let ways = self.ways.iter().map(|(way, samples)| {
            let rounds = samples.iter().map(|sample| of_all(&|metric| sample.get(metric)));
            json!({
                "from": way.from.name(),
                "way": way.to_string(),
                "median": of_all(&|metric| self.figure(*way, metric)),
                "of_direct": of_all(&|metric| self.ratio(*way, metric).0),
                "of_direct_error": of_all(&|metric| self.ratio(*way, metric).1),
                "rounds": rounds.collect::<Vec<_>>(),
            })
        });
        json!({
            "services": self.services,
            "ways": ways.collect::<Vec<_>>(),
            "refused": self.refused,
            "agent_processors": self.agent(),
        })
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services = format!("{} Services", self.services);
        let [connections, requests] = ["connections", "requests on open ones"];
        writeln!(
            f,
            "\n{services:<22} | {connections:^33} | {requests:^33} | {:^18} | {:^20}",
            "one stream", "datagrams"
        )?;
        let asked = format!("{:>8} {:>11} {:>5} {:>6}", "a second", "of direct", "p50", "p99 us");
        writeln!(
            f,
            "{:<22} | {asked} | {asked} | {:>6} {:>11} | {:>8} {:>11}",
            "", "Gbit/s", "of direct", "a second", "of direct"
        )?;
        for (way, samples) in &self.ways {
            if way.stage == Stage::Bare {
                writeln!(f, "from a {}", way.from.name())?;
            }
            if samples.is_empty() {
                writeln!(f, "  {way:<20} | not measured")?;
                continue;
            }
            let figure = |metric| self.figure(*way, metric);
            let ratio = |metric| {
                let (ratio, error) = self.ratio(*way, metric);
                format!("{ratio:.3}\u{b1}{error:.3}")
            };
            let asked = |[rate, p50, p99]: [Metric; 3]| {
                let of_direct = ratio(rate);
                format!(
                    "{:>8.0} {of_direct:>11} {:>5.0} {:>6.0}",
                    figure(rate),
                    figure(p50),
                    figure(p99)
                )
            };
            writeln!(
                f,
                "  {way:<20} | {} | {} | {:>6.2} {:>11} | {:>8.0} {:>11}",
                asked([Metric::Connections, Metric::ConnectP50, Metric::ConnectP99]),
                asked([Metric::Requests, Metric::RequestP50, Metric::RequestP99]),
                figure(Metric::Throughput),
                ratio(Metric::Throughput),
                figure(Metric::Datagrams),
                ratio(Metric::Datagrams),
            )?;
        }
        if let Some(why) = &self.refused {
            writeln!(f, "{why}.")?;
        } else {
            writeln!(f, "The agent took {:.1} % of one processor.", self.agent() * 100.0)?;
        }
        Ok(())
    }
}
