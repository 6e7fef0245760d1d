//! What is promised, and whether it is kept.

use super::sample::Metric;
use super::size::Size;
use super::way::{From, Stage, Way};
use serde_json::{Value, json};
use std::fmt;

const TC: Way = Way { from: From::Pod, stage: Stage::Agent };
const SOCKET: Way = Way { from: From::Node, stage: Stage::Agent };

/// A promise, with what was measured.
#[derive(Debug)]
pub(crate) struct Target {
    name: String,
    least: f64,
    measured: f64,
    /// Twice the standard error of that.
    error: f64,
}

impl Target {
    /// Those of one number of Services.
    pub(crate) fn of(size: &Size) -> [Self; 4] {
        let ratio = |what: &str, way: Way, metric, least| {
            let (measured, error) = size.ratio(way, metric);
            let name = format!("{} Services: {what}, {way}, of direct", size.services);
            Self { name, least, measured, error }
        };
        [
            ratio("connections", TC, Metric::Connections, 0.97),
            ratio("connections", SOCKET, Metric::Connections, 1.0),
            ratio("one stream", TC, Metric::Throughput, 0.98),
            ratio("one stream", SOCKET, Metric::Throughput, 0.98),
        ]
    }

    /// That many Services cost what few do.
    pub(crate) fn between(few: &Size, many: &Size) -> [Self; 2] {
        [TC, SOCKET].map(|way| {
            let [few_ratio, many_ratio] =
                [few, many].map(|size| size.ratio(way, Metric::Connections));
            let measured = many_ratio.0 / few_ratio.0;
            let error = (few_ratio.1 / few_ratio.0).hypot(many_ratio.1 / many_ratio.0) * measured;
            let name =
                format!("{} Services: connections, {way}, of {}", many.services, few.services);
            Self { name, least: 0.97, measured, error }
        })
    }

    fn verdict(&self) -> &'static str {
        let above = self.measured - self.least;
        let certain = above.abs() > self.error;
        match (self.measured.is_nan(), above >= 0.0, certain) {
            (true, _, _) => "not measured",
            (_, true, true) => "met",
            (_, true, false) => "met, by less than the error",
            (_, false, true) => "missed",
            (_, false, false) => "missed, by less than the error",
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Self { name, least, measured, error } = self;
        json!({ "name": name, "least": least, "measured": measured, "error": error,
                "verdict": self.verdict() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, least, measured, error } = self;
        let verdict = self.verdict();
        write!(f, "{name:<56} {measured:>6.3} (\u{b1}{error:.3}), at least {least}: {verdict}")
    }
}
