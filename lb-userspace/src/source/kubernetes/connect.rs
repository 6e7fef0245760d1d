//! Connections to an API server: to the address that the agent was told, and if
//! nobody answers there, to those that the API servers said they have. Whoever
//! answers has to prove with its certificate that it is the one that was asked
//! for, so this is for TLS only.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::{BoxError, Service};

use super::addresses::ApiAddresses;

/// How long one address may take to answer, its name's resolution included.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection on which nothing comes back for so long is given up: nothing else
/// tells that the other side has gone, as a watch may be silent for minutes.
const SILENCE: Duration = Duration::from_secs(20);
/// How often the other side is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(5);

/// Makes connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    addresses: Arc<ApiAddresses>,
}

impl Connector {
    /// Knows other addresses beside the one that is asked for.
    pub(super) fn new(addresses: Arc<ApiAddresses>) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(PROBE));
        tcp.set_keepalive_interval(Some(PROBE));
        tcp.set_tcp_user_timeout(Some(SILENCE));
        tcp.set_connect_timeout(Some(PATIENCE));
        Self { tcp, addresses }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: Uri) -> Self::Future {
        let mut tcp = self.tcp.clone();
        let others = match asked.scheme_str() {
            Some("https") => self.addresses.known(),
            _ => Vec::new(),
        };
        Box::pin(async move {
            let error = match connect(&mut tcp, asked.clone()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            for address in others {
                let other: Uri = format!("https://{address}").parse()?;
                if let Ok(stream) = connect(&mut tcp, other).await {
                    tracing::debug!("{asked} does not answer ({error}), {address} does");
                    return Ok(stream);
                }
            }
            Err(error)
        })
    }
}

async fn connect(tcp: &mut HttpConnector, to: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
    let late = |_elapsed| io::Error::from(io::ErrorKind::TimedOut);
    Ok(tokio::time::timeout(PATIENCE, tcp.call(to)).await.map_err(late)??)
}
