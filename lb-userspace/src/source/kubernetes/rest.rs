//! Requests to the API, counted and timed as client-go does, by its names
//! (component-base/metrics/prometheus/restclient): dashboards for kube-proxy show
//! them.

use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Uri};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

type Requests = Family<[(&'static str, Arc<str>); 3], Counter>;
type Durations = Family<[(&'static str, Arc<str>); 2], Histogram, fn() -> Histogram>;

/// What stands for a status where there was no answer, as with client-go.
const NO_ANSWER: &str = "<error>";

/// The counts.
#[derive(Clone, Debug)]
pub struct RestMetrics {
    requests: Requests,
    durations: Durations,
}

impl Default for RestMetrics {
    fn default() -> Self {
        Self { requests: Family::default(), durations: Family::new_with_constructor(buckets) }
    }
}

fn buckets() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0])
}

impl RestMetrics {
    /// Adds them to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Number of HTTP requests, partitioned by status code, method, and host";
        registry.register("rest_client_requests", help, self.requests.clone());
        let help = "Request latency in seconds. Broken down by verb, and host";
        registry.register("rest_client_request_duration_seconds", help, self.durations.clone());
    }
}

/// One request, on its way.
#[derive(Debug)]
pub(super) struct Request {
    host: Arc<str>,
    method: Arc<str>,
    /// Whether it stays open for as long as it lasts.
    watch: bool,
}

impl Request {
    pub(super) fn new(method: &Method, uri: &Uri) -> Self {
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut query = uri.query().unwrap_or_default().split('&');
        let watch = query.any(|pair| matches!(pair, "watch=true" | "watch=1"));
        Self { host: host.into(), method: method.as_str().into(), watch }
    }

    /// It was answered with a status, or not at all, after this time. How long a
    /// watch takes until it begins says nothing, and client-go leaves it out.
    pub(super) fn ended(self, metrics: &RestMetrics, status: Option<u16>, took: Duration) {
        let Self { host, method, watch } = self;
        let code = status.map_or_else(|| NO_ANSWER.into(), |status| status.to_string().into());
        let labels = [("code", code), ("method", Arc::clone(&method)), ("host", Arc::clone(&host))];
        metrics.requests.get_or_create(&labels).inc();
        if !watch {
            let labels = [("verb", method), ("host", host)];
            metrics.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }
}
