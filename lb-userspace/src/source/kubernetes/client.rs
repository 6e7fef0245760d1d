//! The client of the API: kube's own layers around connections that know more
//! than one address, and an ear for what is answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::{Request, Response};
use hyper_util::rt::TokioExecutor;
use kube::client::{Body, ConfigExt as _};
use kube::{Client, Config};
use tower::{BoxError, Service, ServiceBuilder};
use tower_http::decompression::DecompressionLayer;

use super::addresses::ApiAddresses;
use super::connect::Connector;
use super::rest::{Request as Counted, RestMetrics};

/// How long an API server may take until an answer begins.
const PATIENCE: Duration = Duration::from_mins(1);

/// A client that calls `heard` with the path of each request that succeeds, and
/// counts all of them.
pub(super) fn client(
    config: &Config,
    addresses: Arc<ApiAddresses>,
    metrics: &RestMetrics,
    heard: impl Fn(&str) + Clone + Send + Sync + 'static,
) -> Result<Client, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(Connector::new(addresses))?;
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .layer(DecompressionLayer::new().gzip(!config.disable_compression))
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .layer_fn(|inner| Attentive { inner, metrics: metrics.clone(), heard: heard.clone() })
        .map_err(BoxError::from)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// Hears what is answered.
#[derive(Clone)]
struct Attentive<S, F> {
    inner: S,
    metrics: RestMetrics,
    heard: F,
}

impl<S, F, B> Service<Request<Body>> for Attentive<S, F>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    F: Fn(&str) + Clone + Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let counted = Counted::new(request.method(), request.uri());
        let begin = Instant::now();
        let answer = self.inner.call(request);
        let (heard, metrics) = (self.heard.clone(), self.metrics.clone());
        Box::pin(async move {
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            let status = match &answer {
                Ok(Ok(response)) => Some(response.status().as_u16()),
                Ok(Err(_)) | Err(_) => None,
            };
            counted.ended(&metrics, status, begin.elapsed());
            let late = |_elapsed| format!("no answer within {PATIENCE:?}");
            let response = answer.map_err(late)?.map_err(Into::into)?;
            if response.status().is_success() {
                heard(&path);
            }
            Ok(response)
        })
    }
}
