//! Sweeps the flow tables now and then, on a thread of its own: a full table
//! takes a while. Gives up fragments that wait for nothing, and says for which
//! Services source ports have run out.

use crate::dataplane::maps::{HeldTable, MapsError};
use crate::flows::{Reason, Sweeper, monotonic_now};
use crate::view::{ServiceView, services};
use lb_common::{Hook, Verdict};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Between two sweeps: a third of the shortest time that a flow is kept.
const INTERVAL: Duration = Duration::from_secs(10);

/// What the sweeps tell the metrics.
#[derive(Clone, Debug)]
pub(super) struct AgingMetrics {
    expired: Family<[(&'static str, &'static str); 1], Counter>,
    duration: Histogram,
    fragments_lost: Counter,
}

impl AgingMetrics {
    /// Nothing swept yet; every reason is told of.
    pub(super) fn new() -> Self {
        let expired = Family::default();
        for reason in Reason::ALL {
            let _: Counter = expired.get_or_create_owned(&label(reason));
        }
        let duration = Histogram::new(exponential_buckets(0.001, 2.0, 12));
        Self { expired, duration, fragments_lost: Counter::default() }
    }

    /// Adds them to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Flows that were forgotten, by why";
        registry.register("lb_flows_expired", help, self.expired.clone());
        let help = "How long it took to go through the flow tables";
        registry.register("lb_flows_sweep_duration_seconds", help, self.duration.clone());
        let help = "Fragments that waited for the first of their datagram, which did not come";
        registry.register("lb_fragments_lost", help, self.fragments_lost.clone());
    }
}

fn label(reason: Reason) -> [(&'static str, &'static str); 1] {
    [("reason", reason.name())]
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Aging {
    _end: Sender<()>,
}

impl Aging {
    /// Starts to sweep what is pinned below `pin_dir`.
    pub(super) fn start(pin_dir: &Path, metrics: AgingMetrics) -> Result<Self, MapsError> {
        let (sweeper, held) = (Sweeper::open(pin_dir)?, HeldTable::open(pin_dir)?);
        let (end, ended) = channel();
        let pin_dir = pin_dir.to_path_buf();
        let work = Work { pin_dir, sweeper, held, metrics, ports: Ports::default() };
        let thread = thread::Builder::new().name("lb-flows".to_owned());
        if let Err(error) = thread.spawn(move || work.until(&ended)) {
            complain(&error);
        }
        Ok(Self { _end: end })
    }
}

fn complain(error: &io::Error) {
    tracing::warn!("flows that are over stay in the tables: no thread to remove them: {error}");
}

struct Work {
    pin_dir: PathBuf,
    sweeper: Sweeper,
    held: HeldTable,
    metrics: AgingMetrics,
    ports: Ports,
}

impl Work {
    fn until(mut self, ended: &Receiver<()>) {
        let mut failed = false;
        loop {
            match self.sweep() {
                Ok(()) => failed = false,
                Err(error) if failed => tracing::debug!("sweeping the flow tables: {error}"),
                Err(error) => {
                    tracing::warn!("flows that are over stay in the tables: {error}");
                    failed = true;
                }
            }
            if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn sweep(&mut self) -> Result<(), MapsError> {
        self.metrics.fragments_lost.inc_by(self.held.expire(monotonic_now()));
        let begin = Instant::now();
        self.sweeper.refresh(&self.pin_dir);
        let swept = self.sweeper.sweep(monotonic_now())?;
        let took = begin.elapsed().as_secs_f64();
        self.metrics.duration.observe(took);
        for reason in Reason::ALL {
            self.metrics.expired.get_or_create(&label(reason)).inc_by(swept.expired.get(reason));
        }
        tracing::debug!(
            "{} of the flows in {} rows are over, {:.1} ms",
            swept.expired.total(),
            swept.rows,
            took * 1e3
        );
        self.ports.check(&self.sweeper)
    }
}

/// What was known of source ports that ran out.
#[derive(Default)]
struct Ports {
    /// Dropped packets in all; none before the first look.
    packets: Option<u64>,
    by_service: BTreeMap<String, u64>,
}

impl Ports {
    /// Names the Services whose packets were dropped since the last time.
    fn check(&mut self, sweeper: &Sweeper) -> Result<(), MapsError> {
        let verdicts = &sweeper.maps().verdicts;
        let counts = Hook::ALL.into_iter().map(|hook| verdicts.get(hook, Verdict::DroppedNoPort));
        let packets = counts.sum::<Result<u64, _>>()?;
        let first = self.packets.is_none();
        if self.packets.replace(packets).unwrap_or(0) != packets {
            for line in self.news(&services(sweeper.maps())?, first) {
                tracing::warn!("{line}");
            }
        }
        Ok(())
    }

    /// The lines to log; none at the first look, when all is from before.
    fn news(&mut self, services: &[ServiceView], first: bool) -> Vec<String> {
        let mut lines = Vec::new();
        for view in services.iter().filter(|view| view.packets_dropped_no_port > 0) {
            let name = format!("{} ({})", view.full_name(), view.protocol);
            let packets = view.packets_dropped_no_port;
            let before = self.by_service.insert(name.clone(), packets).unwrap_or(0);
            if packets > before && !first {
                let count = packets - before;
                lines.push(format!(
                    "Service {name}: {count} packets dropped, as no source port was free towards \
                     their backend; --snat-ports can name a larger range"
                ));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Counters;

    fn view(name: &str, packets: u64) -> ServiceView {
        ServiceView {
            namespace: "shop".into(),
            name: name.into(),
            port_name: "http".into(),
            protocol: "TCP".into(),
            port: 80,
            cluster_ips: vec![],
            load_balancer_ips: vec![],
            external_ips: vec![],
            node_port: None,
            internal_scope: "cluster",
            external_scope: "cluster",
            affinity_seconds: None,
            policy: "random",
            counters: Counters::default(),
            packets_refused: 0,
            packets_dropped_no_local: 0,
            packets_dropped_source_range: 0,
            packets_dropped_no_port: packets,
            backends: vec![],
        }
    }

    #[test]
    fn a_service_is_named_each_time_that_its_packets_were_dropped() {
        let mut ports = Ports::default();
        let before = [view("web", 5), view("calm", 0)];
        assert_eq!(ports.news(&before, true), [""; 0], "what an earlier agent saw is no news");
        let lines = ports.news(&[view("web", 9), view("calm", 0)], false);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("Service shop/web:http (TCP): 4 packets dropped"),
            "{lines:?}"
        );
        // The id has another owner, or counts anew.
        assert_eq!(ports.news(&[view("web", 1), view("calm", 1)], false).len(), 1);
    }
}
