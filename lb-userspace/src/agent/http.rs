//! `/metrics` and `/healthz` over HTTP.

use super::metrics::Metrics;
use super::status::SharedStatus;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::sync::Arc;
use tokio::net::TcpListener;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone)]
struct Served {
    metrics: Arc<Metrics>,
    status: Arc<SharedStatus>,
}

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, metrics: Metrics, status: Arc<SharedStatus>) {
    let router = Router::new()
        .route("/metrics", get(metrics_page))
        .route("/healthz", get(health_page))
        .with_state(Served { metrics: Arc::new(metrics), status });
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("the metrics server ended: {error}");
    }
}

async fn metrics_page(State(served): State<Served>) -> impl IntoResponse {
    // Counting the flow tables takes milliseconds: not on the event loop.
    let text = tokio::task::spawn_blocking(move || served.metrics.encode()).await;
    match text {
        Ok(Ok(text)) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain")],
            "the maps can't be read\n".to_owned(),
        ),
    }
}

async fn health_page(State(served): State<Served>) -> impl IntoResponse {
    let reasons = served.status.get().reasons;
    if reasons.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n")
    }
}
