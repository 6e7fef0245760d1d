//! What kube-proxy tells on its port 10249: `/metrics` for whoever scrapes,
//! `/healthz`, `/livez`, `/proxyMode` and `/configz`.

use super::health::ProxyHealth;
use super::metrics::Metrics;
use super::server::{self, Connections};
use super::status::SharedStatus;
use crate::kube_proxy::MODE;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use std::sync::Arc;
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::sync::Mutex;

/// The text format that kube-proxy's `/metrics` has.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Connections at the same time: far more than there are scrapers.
const MOST: usize = 64;

/// What the pages tell of.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) metrics: Metrics,
    pub(super) status: Arc<SharedStatus>,
    pub(super) health: Arc<ProxyHealth>,
    /// The configuration in force, which does not change.
    pub(super) configz: String,
}

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, pages: Pages) {
    let Pages { metrics, status, health, configz } = pages;
    let exposition = Arc::new(Exposition { metrics, last: Arc::default() });
    let configz = Bytes::from(configz);
    let answer = move |path: String| {
        let (exposition, status) = (Arc::clone(&exposition), Arc::clone(&status));
        let (health, configz) = (Arc::clone(&health), configz.clone());
        async move {
            match path.as_str() {
                "/metrics" => metrics_page(exposition).await,
                "/healthz" => health_page(&status),
                "/livez" => live_page(&health),
                "/proxyMode" => page(StatusCode::OK, PLAIN, MODE),
                "/configz" => page(StatusCode::OK, JSON, configz),
                _ => page(StatusCode::NOT_FOUND, PLAIN, "404 page not found\n"),
            }
        }
    };
    server::serve(listener, Connections::new(MOST), server::PATIENCE, answer).await;
}

/// The metrics, and their last text with the time at which reading began.
#[derive(Debug)]
struct Exposition {
    metrics: Metrics,
    last: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

async fn metrics_page(exposition: Arc<Exposition>) -> Response<Bytes> {
    let asked = Instant::now();
    // One at a time, so that many who ask don't keep all threads busy; who waited
    // for another takes what that one got, if it isn't older than the question.
    let mut last = Arc::clone(&exposition.last).lock_owned().await;
    let text = match &*last {
        Some((began, text)) if *began >= asked => Some(text.clone()),
        // Counting the flow tables takes milliseconds: not on the event loop.
        _ => tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let text = exposition.metrics.encode().ok().map(Bytes::from);
            *last = text.clone().map(|text| (began, text));
            text
        })
        .await
        .unwrap_or(None),
    };
    match text {
        Some(text) => page(StatusCode::OK, EXPOSITION, text),
        None => page(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "the maps can't be read\n"),
    }
}

fn health_page(status: &SharedStatus) -> Response<Bytes> {
    let reasons = status.get().reasons;
    if reasons.is_empty() {
        page(StatusCode::OK, PLAIN, "ok\n")
    } else {
        page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, reasons.join("\n") + "\n")
    }
}

fn live_page(health: &ProxyHealth) -> Response<Bytes> {
    if health.keeps_up(Instant::now()) {
        page(StatusCode::OK, PLAIN, "ok\n")
    } else {
        let late = "a change has been waiting for a minute to be in force\n";
        page(StatusCode::SERVICE_UNAVAILABLE, PLAIN, late)
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    let options = HeaderName::from_static("x-content-type-options");
    headers.insert(options, HeaderValue::from_static("nosniff"));
    response
}
