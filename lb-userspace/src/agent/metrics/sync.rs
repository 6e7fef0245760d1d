//! How the kernel is brought up to date, by kube-proxy's names, labels and buckets
//! (pkg/proxy/metrics/metrics.go of 1.36).
//!
//! kube-proxy has a proxy for each family of addresses; here both are brought up
//! to date together, so that the series of both have the same values, as the two
//! of a kube-proxy with both families nearly have. Only what depends on a family's
//! addresses differs: programming latency and missing local endpoints.

use crate::desired::{Desired, DesiredService, Scope};
use crate::model::AddressFamily;
use crate::source::{Seen, Tally, Trigger};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

type Label = (&'static str, &'static str);
type Histograms = Family<[Label; 1], Histogram, fn() -> Histogram>;

const FAMILIES: [(AddressFamily, &str); 2] =
    [(AddressFamily::V4, "IPv4"), (AddressFamily::V6, "IPv6")];

fn of(family: &'static str) -> [Label; 1] {
    [("ip_family", family)]
}

/// What the agent's loop counts, and whoever scrapes reads.
#[derive(Clone, Debug)]
pub(in crate::agent) struct SyncMetrics {
    own: Histogram,
    all: Histograms,
    full: Histograms,
    partial: Histograms,
    programming: Histograms,
    last: Family<[Label; 1], Gauge<f64, AtomicU64>>,
    no_local: Family<[Label; 2], Gauge>,
    changes: Changes,
}

/// Changes that came, and those that are in force.
#[derive(Clone, Debug)]
struct Changes {
    tally: Arc<Tally>,
    in_force: Arc<Mutex<Seen>>,
}

impl SyncMetrics {
    /// Nothing happened yet; both families are told of.
    pub(in crate::agent) fn new(tally: Arc<Tally>) -> Self {
        let last: Family<[Label; 1], Gauge<f64, AtomicU64>> = Family::default();
        let metrics = Self {
            own: sync_duration(),
            all: Family::new_with_constructor(sync_duration),
            full: Family::new_with_constructor(sync_duration),
            partial: Family::new_with_constructor(sync_duration),
            programming: Family::new_with_constructor(programming_duration),
            last,
            no_local: Family::default(),
            changes: Changes { tally, in_force: Arc::default() },
        };
        for (_, family) in FAMILIES {
            for histograms in [&metrics.all, &metrics.full, &metrics.partial, &metrics.programming]
            {
                let _: Histogram = histograms.get_or_create_owned(&of(family));
            }
            let _: Gauge<f64, AtomicU64> = metrics.last.get_or_create_owned(&of(family));
        }
        metrics.set_no_local(&Desired::default());
        metrics.changes.tally.queued();
        metrics
    }

    /// Adds them to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "How long it took to bring the kernel up to date";
        registry.register("lb_sync_duration_seconds", help, self.own.clone());
        let prefix = "kubeproxy_sync";
        for (name, help, histograms) in [
            ("proxy_rules", "SyncProxyRules latency in seconds", &self.all),
            ("full_proxy_rules", "SyncProxyRules latency in seconds for full resyncs", &self.full),
            (
                "partial_proxy_rules",
                "SyncProxyRules latency in seconds for partial resyncs",
                &self.partial,
            ),
        ] {
            let name = format!("{prefix}_{name}_duration_seconds");
            registry.register(name, help, histograms.clone());
        }
        let help = "In Cluster Network Programming Latency in seconds";
        let name = "kubeproxy_network_programming_duration_seconds";
        registry.register(name, help, self.programming.clone());
        let help = "The last time proxy rules were successfully synced";
        let name = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
        registry.register(name, help, self.last.clone());
        let help = "Number of services with a Local traffic policy and no endpoints";
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        registry.register(name, help, self.no_local.clone());
        registry.register_collector(Box::new(self.changes.clone()));
    }

    /// Something else than a change of Services is to be brought in force.
    pub(in crate::agent) fn queued(&self) {
        self.changes.tally.queued();
    }

    /// An attempt to bring the kernel up to date ended; `full` says whether it looked
    /// at every Service port, if it came so far.
    pub(in crate::agent) fn tried(&self, took: Duration, full: Option<bool>) {
        let kind = full.map(|full| if full { &self.full } else { &self.partial });
        for histograms in [Some(&self.all), kind].into_iter().flatten() {
            for (_, family) in FAMILIES {
                histograms.get_or_create(&of(family)).observe(took.as_secs_f64());
            }
        }
    }

    /// All that is desired is in force, with the changes that were seen until then
    /// and what triggered them.
    pub(in crate::agent) fn in_force(
        &self,
        took: Duration,
        seen: Seen,
        triggers: impl Iterator<Item = Trigger>,
        now: SystemTime,
    ) {
        self.own.observe(took.as_secs_f64());
        self.set_in_force(seen, now);
        for Trigger { family, at } in triggers {
            // Clocks of nodes differ; nothing is in force before it was asked for.
            let latency = now.duration_since(at).unwrap_or_default().as_secs_f64();
            let label = match family {
                AddressFamily::V4 => FAMILIES[0].1,
                AddressFamily::V6 => FAMILIES[1].1,
            };
            self.programming.get_or_create(&of(label)).observe(latency);
        }
    }

    /// Changes were seen that undo each other: what is in force is right, if it was.
    pub(in crate::agent) fn came_to_nothing(&self, before: Seen, seen: Seen, now: SystemTime) {
        let in_force = *self.changes.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        if seen != before && in_force == before {
            self.set_in_force(seen, now);
        }
    }

    fn set_in_force(&self, seen: Seen, now: SystemTime) {
        *self.changes.in_force.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for (_, family) in FAMILIES {
            self.last.get_or_create(&of(family)).set(at.as_secs_f64());
        }
    }

    /// Counts Service ports whose policy is Local and whose endpoints all are
    /// elsewhere.
    pub(in crate::agent) fn set_no_local(&self, desired: &Desired) {
        for (family, name) in FAMILIES {
            for (policy, scope) in [
                ("internal", internal as fn(&DesiredService) -> Scope),
                ("external", external as fn(&DesiredService) -> Scope),
            ] {
                let services = desired.services.values();
                let lacking = services.filter(|service| {
                    scope(service) == Scope::Local && lacks_local(service, family)
                });
                let count = i64::try_from(lacking.count()).unwrap_or(i64::MAX);
                let labels = [("ip_family", name), ("traffic_policy", policy)];
                self.no_local.get_or_create(&labels).set(count);
            }
        }
    }
}

const fn internal(service: &DesiredService) -> Scope {
    service.internal_scope
}

const fn external(service: &DesiredService) -> Scope {
    service.external_scope
}

/// Whether a Service port has endpoints of a family, and none of this node.
fn lacks_local(service: &DesiredService, family: AddressFamily) -> bool {
    let own = |addr| AddressFamily::of(addr) == family;
    let mut addresses = service.cluster_ips.iter();
    let backends = || service.backends.iter().filter(|backend| own(backend.addr));
    addresses.any(|addr| own(*addr))
        && backends().any(|backend| backend.serves(Scope::Cluster))
        && !backends().any(|backend| backend.serves(Scope::Local))
}

fn sync_duration() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// kube-proxy's buckets begin at zero, of which a histogram has one by itself that
/// is always empty.
fn programming_duration() -> Histogram {
    let seconds = [0.0, 0.25, 0.5].into_iter();
    let whole = (1..60_u32).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    Histogram::new(seconds.chain(whole.map(f64::from)))
}

impl Collector for Changes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // First what is in force: what comes in between is then pending.
        let in_force = *self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.tally.seen();
        for (what, help, seen, in_force) in [
            ("endpoint", "Endpoint", seen.endpoint_slices, in_force.endpoint_slices),
            ("service", "Service", seen.services, in_force.services),
        ] {
            let name = format!("kubeproxy_sync_proxy_rules_{what}_changes");
            let help = format!("proxy rules {help} changes");
            let total = format!("Cumulative {help}");
            let metric = encoder.encode_descriptor(&name, &total, None, MetricType::Counter)?;
            ConstCounter::new(seen).encode(metric)?;
            let (name, help) = (format!("{name}_pending"), format!("Pending {help}"));
            let metric = encoder.encode_descriptor(&name, &help, None, MetricType::Gauge)?;
            ConstGauge::new(seen.saturating_sub(in_force)).encode(metric)?;
        }
        let name = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
        let help = "The last time a sync of proxy rules was queued";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (_, family) in FAMILIES {
            let labels = of(family);
            ConstGauge::new(self.tally.last_queued()).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{CompileOptions, Compiler};
    use crate::source::manifests::read_text;

    fn told(metrics: &SyncMetrics) -> String {
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn ports_whose_policy_is_local_count_where_all_endpoints_are_elsewhere() {
        let service = |name: &str, address: u8, policy: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec: {{clusterIP: 10.96.0.{address}, ports: [{{port: 80}}], {policy}}}\n---\n"
            )
        };
        let slice = |name: &str, node: &str| {
            format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
                 metadata: {{name: {name}, namespace: shop, \
                 labels: {{kubernetes.io/service-name: {name}}}}}\nports: [{{port: 80}}]\n\
                 endpoints: [{{addresses: [10.1.0.1], nodeName: {node}}}]\n---\n"
            )
        };
        let (internal, external) =
            ("internalTrafficPolicy: Local", "type: NodePort, externalTrafficPolicy: Local");
        let text = [
            service("away", 1, internal),
            slice("away", "other"),
            service("here", 2, internal),
            slice("here", "own"),
            service("none", 3, internal),
            service("outside", 4, external),
            slice("outside", "other"),
        ];
        let snapshot = read_text("a.yaml", &text.concat());
        assert_eq!(snapshot.problems, []);
        let mut compiler = Compiler::new(CompileOptions {
            node_name: Some("own".to_owned()),
            ..CompileOptions::default()
        });
        compiler.update(&snapshot.objects, &snapshot.changes);
        let metrics = SyncMetrics::new(Arc::default());
        metrics.set_no_local(compiler.desired());
        let text = told(&metrics);
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        for (family, policy, count) in
            [("IPv4", "internal", 1), ("IPv4", "external", 1), ("IPv6", "internal", 0)]
        {
            let labels = format!("{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}}");
            let line = format!("{name}{labels} {count}\n");
            assert!(text.contains(&line), "{line} is missing in {text}");
        }
    }

    #[test]
    fn changes_are_pending_until_they_are_in_force_or_undone() {
        let tally = Arc::new(Tally::default());
        let metrics = SyncMetrics::new(Arc::clone(&tally));
        let pending = || {
            let name = "kubeproxy_sync_proxy_rules_service_changes_pending ";
            let text = told(&metrics);
            text.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok()).unwrap()
        };
        let seen = |services| Seen { services, endpoint_slices: 0 };
        tally.count_services(3);
        assert_eq!(pending(), 3);
        metrics.in_force(Duration::ZERO, seen(2), std::iter::empty(), SystemTime::now());
        assert_eq!(pending(), 1);
        // What was read before is not in force, so neither is what came to nothing.
        metrics.came_to_nothing(seen(3), seen(3), SystemTime::now());
        assert_eq!(pending(), 1);
        metrics.came_to_nothing(seen(2), seen(3), SystemTime::now());
        assert_eq!(pending(), 0);
    }

    #[test]
    fn buckets_are_those_of_kube_proxy() {
        let metrics = SyncMetrics::new(Arc::default());
        let text = told(&metrics);
        let bounds = |name: &str| {
            let lines = text.lines().filter(|line| line.starts_with(name));
            let own = lines.filter(|line| line.contains("IPv4"));
            let bound =
                |line: &str| line.split("le=\"").nth(1)?.split('"').next().map(str::to_owned);
            own.filter_map(bound).collect::<Vec<_>>()
        };
        let sync = bounds("kubeproxy_sync_proxy_rules_duration_seconds_bucket");
        assert_eq!((sync.len(), &*sync[0], &*sync[14]), (16, "0.001", "16.384"));
        let programming = bounds("kubeproxy_network_programming_duration_seconds_bucket");
        assert_eq!(programming.len(), 82);
        assert_eq!(programming[..4], ["0.0", "0.25", "0.5", "1.0"]);
        assert_eq!(programming[61..64], ["59.0", "60.0", "65.0"]);
        assert_eq!(
            programming[73..],
            ["115.0", "120.0", "150.0", "180.0", "210.0", "240.0", "270.0", "300.0", "+Inf"]
        );
    }
}
