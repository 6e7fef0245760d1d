//! What is promised of real traffic.

use super::sample::Metric;
use super::size::Size;
use super::way::{From, Stage, Way};
use crate::target::Target;

const TC: Way = Way { from: From::Pod, stage: Stage::Agent };
const SOCKET: Way = Way { from: From::Node, stage: Stage::Agent };
const PAST: Way = Way { from: From::Pod, stage: Stage::Skipping };

/// Of all sizes.
pub(super) fn targets(sizes: &[Size]) -> Vec<Target> {
    let mut targets: Vec<Target> = sizes.iter().flat_map(of).collect();
    if let [few, .., many] = sizes {
        targets.extend(between(few, many));
    }
    targets
}

/// Of one number of Services.
fn of(size: &Size) -> [Target; 6] {
    let ratio = |what: &str, way: Way, metric, least| {
        let (measured, error) = size.ratio(way, metric);
        let name = format!("{} Services: {what}, {way}, of direct", size.services);
        Target::at_least(least, name, measured, error)
    };
    [
        ratio("connections", TC, Metric::Connections, 0.97),
        ratio("connections", SOCKET, Metric::Connections, 1.0),
        ratio("connections", PAST, Metric::Connections, 1.0),
        ratio("one stream", TC, Metric::Throughput, 0.98),
        ratio("one stream", SOCKET, Metric::Throughput, 0.98),
        ratio("one stream", PAST, Metric::Throughput, 0.98),
    ]
}

/// That many Services cost what few do.
fn between(few: &Size, many: &Size) -> [Target; 3] {
    [TC, SOCKET, PAST].map(|way| {
        let [few_ratio, many_ratio] = [few, many].map(|size| size.ratio(way, Metric::Connections));
        let measured = many_ratio.0 / few_ratio.0;
        let error = (few_ratio.1 / few_ratio.0).hypot(many_ratio.1 / many_ratio.0) * measured;
        let name = format!("{} Services: connections, {way}, of {}", many.services, few.services);
        Target::at_least(0.97, name, measured, error)
    })
}
