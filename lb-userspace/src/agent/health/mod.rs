//! What load balancers and the kubelet ask this node over HTTP: whether it has
//! endpoints of a Service (`ports`), and whether the agent keeps up and the
//! node stays (`proxy`). Answers come from memory alone and within bounds: who
//! asks is unknown, and never the agent's concern.

mod listen;
mod ports;
mod probes;
mod proxy;

pub(super) use ports::HealthPorts;
pub(super) use probes::ProbeMetrics;
pub(super) use proxy::ProxyHealth;

use super::AgentError;
use super::server::{Connections, PATIENCE, serve};
use crate::cli::ListenAddress;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use listen::{listen, listen_everywhere};
use std::future::ready;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::net::TcpListener;

/// Where the agent's own health is told if nobody says otherwise; kube-proxy's.
pub(super) const HEALTHZ: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10_256);

/// Connections at the same time: far more than there are load balancers, and few
/// beside the usual limit of 1024 file descriptors.
const MOST: usize = 256;

/// `/healthz` and `/livez`, not answered yet.
#[derive(Debug)]
pub(super) struct Healthz {
    address: SocketAddr,
    listeners: Vec<TcpListener>,
}

impl Healthz {
    /// Listens. An unspecified address means both families. One that is taken
    /// ends the agent only where the user named it.
    pub(super) fn listen(asked: Option<ListenAddress>) -> Result<Option<Self>, AgentError> {
        let address = match asked {
            Some(ListenAddress::Off) => return Ok(None),
            Some(ListenAddress::On(address)) => address,
            None => HEALTHZ,
        };
        match listeners(address) {
            Ok(listeners) => Ok(Some(Self { address, listeners })),
            Err(source) if asked.is_none() => {
                tracing::warn!(
                    "no /healthz: {address} can't be used ({source}); name another \
                     --healthz-addr, or off"
                );
                Ok(None)
            }
            Err(source) => Err(AgentError::Healthz { address, source }),
        }
    }

    /// Where.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers for ever.
    pub(super) fn serve(self, proxy: &Arc<ProxyHealth>, probes: &ProbeMetrics) {
        let connections = Connections::new(MOST);
        for listener in self.listeners {
            let (proxy, probes) = (Arc::clone(proxy), probes.clone());
            let answer = move |path: String| ready(page(&proxy, &probes, &path));
            tokio::spawn(serve(listener, Arc::clone(&connections), PATIENCE, answer));
        }
    }
}

fn listeners(address: SocketAddr) -> io::Result<Vec<TcpListener>> {
    if address.ip().is_unspecified() {
        let sockets: io::Result<Vec<_>> = listen_everywhere(address.port()).into_iter().collect();
        Ok(sockets?.into_iter().flatten().collect())
    } else {
        Ok(vec![listen(address)?])
    }
}

fn page(proxy: &ProxyHealth, probes: &ProbeMetrics, path: &str) -> Response<String> {
    let (healthy, body) = match path {
        "/healthz" => {
            let (healthy, body) = proxy.healthz(Instant::now(), SystemTime::now());
            probes.healthz(healthy);
            (healthy, body)
        }
        "/livez" => {
            let (healthy, body) = proxy.livez(Instant::now(), SystemTime::now());
            probes.livez(healthy);
            (healthy, body)
        }
        _ => {
            let mut response = Response::new("404 page not found\n".to_owned());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    json(healthy, body)
}

/// A JSON answer as kube-proxy gives it.
fn json(healthy: bool, body: String) -> Response<String> {
    let mut response = Response::new(body);
    if !healthy {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let options = HeaderName::from_static("x-content-type-options");
    headers.insert(options, HeaderValue::from_static("nosniff"));
    response
}
