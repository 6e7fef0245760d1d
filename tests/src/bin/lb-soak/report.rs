//! What the soak prints.

use crate::memory::{Samples, Series};
use crate::tally::Tally;
use lb_tests::cluster::Cluster;

/// What an agent may have more at the end than after a minute, beside a tenth: its
/// allocator keeps what a burst of changes needed.
const AGENT_KIB: u64 = 4096;
/// The same for the maps, of which some have no rows before they are needed.
const MAPS_KIB: u64 = 1024;

/// Says what begins.
pub(crate) fn begin(cluster: &Cluster, minutes: u64) {
    let nodes = cluster.topology.nodes.len();
    println!("{minutes} minutes on {nodes} nodes; the agent of the last one is left alone");
}

/// One line, and what was wrong since the last one.
pub(crate) fn minute(minute: u64, tally: &Tally, samples: &Samples) {
    let Samples { steady, maps, flows, .. } = samples;
    println!(
        "minute {minute}: {} requests, {} changes, {} kills, {} upgrades, {} stops, {} faults; \
         {} wrong, {} failed, {} lasting; agent {}, maps {}, {} rows of flows",
        tally.short.get() + tally.long.get(),
        tally.changes.get(),
        tally.kills.get(),
        tally.upgrades.get(),
        tally.stops.get(),
        tally.faults.get(),
        tally.wrong.get(),
        tally.failed.get(),
        tally.lasting.get(),
        mib(steady.last),
        mib(maps.last),
        flows.last,
    );
    news(tally);
}

fn news(tally: &Tally) {
    for sentence in tally.news() {
        println!("  {sentence}");
    }
}

/// The table at the end; true if all is well.
pub(crate) fn end(tally: &Tally, samples: &Samples, rows: Option<&str>) -> bool {
    news(tally);
    println!();
    for (count, what) in [
        (&tally.short, "requests of short connections and flows"),
        (&tally.long, "requests of those that stay"),
        (&tally.refused, "not answered, while the Service had no endpoints"),
        (&tally.repeated, "datagrams sent again"),
        (&tally.changes, "changes of the Services"),
        (&tally.kills, "agents killed"),
        (&tally.upgrades, "agents replaced"),
        (&tally.stops, "agents stopped for a while"),
        (&tally.faults, "faults"),
        (&tally.wrong, "answers from a wrong backend"),
        (&tally.failed, "failed requests"),
        (&tally.lasting, "changes late, or faults not repaired"),
    ] {
        println!("{:10}  {what}", count.get());
    }
    println!("\n{:<32}{:>12}{:>12}{:>12}", "memory", "first", "last", "most");
    let Samples { steady, others, maps, flows } = samples;
    let kib = [("agent that lives throughout", steady), ("other agents", others), ("maps", maps)];
    for (what, series) in kib {
        let Series { first, last, most } = *series;
        let [first, last, most] = [first.unwrap_or(0), last, most].map(mib);
        println!("{what:<32}{first:>12}{last:>12}{most:>12}");
    }
    let Series { first, last, most } = *flows;
    println!("{:<32}{:>12}{last:>12}{most:>12}", "rows of flows", first.unwrap_or(0));
    let grown = [
        steady.grew(AGENT_KIB).then_some("the agent has grown"),
        maps.grew(MAPS_KIB).then_some("the maps have grown"),
        rows,
    ];
    let grown: Vec<&str> = grown.into_iter().flatten().collect();
    for sentence in &grown {
        println!("GREW: {sentence}");
    }
    let clean = tally.is_clean() && grown.is_empty();
    println!("\n{}", if clean { "nothing wrong, nothing lost, nothing grew" } else { "FAILED" });
    clean
}

fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}
