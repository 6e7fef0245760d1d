//! How often `/healthz` and `/livez` were answered, and how.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

type ByCode = Family<[(&'static str, &'static str); 1], Counter>;

const CODES: [(bool, &str); 2] = [(true, "200"), (false, "503")];

/// The counts, by kube-proxy's names (KEP-3836).
#[derive(Clone, Debug)]
pub(in crate::agent) struct ProbeMetrics {
    healthz: ByCode,
    livez: ByCode,
}

impl ProbeMetrics {
    /// Nobody has asked yet; both codes are told of.
    pub(in crate::agent) fn new() -> Self {
        let (healthz, livez) = (ByCode::default(), ByCode::default());
        for (_, code) in CODES {
            for answers in [&healthz, &livez] {
                let _: Counter = answers.get_or_create_owned(&[("code", code)]);
            }
        }
        Self { healthz, livez }
    }

    /// Adds them to a registry.
    pub(in crate::agent) fn register(&self, registry: &mut Registry) {
        let help = "Cumulative proxy healthz HTTP status";
        registry.register("kubeproxy_proxy_healthz", help, self.healthz.clone());
        let help = "Cumulative proxy livez HTTP status";
        registry.register("kubeproxy_proxy_livez", help, self.livez.clone());
    }

    pub(super) fn healthz(&self, healthy: bool) {
        count(&self.healthz, healthy);
    }

    pub(super) fn livez(&self, healthy: bool) {
        count(&self.livez, healthy);
    }
}

fn count(answers: &ByCode, healthy: bool) {
    for (_, code) in CODES.iter().filter(|(good, _)| *good == healthy) {
        answers.get_or_create(&[("code", code)]).inc();
    }
}
