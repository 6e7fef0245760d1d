//! Small answers over HTTP, within bounds: a connection that says nothing is
//! closed, and when there are too many, the oldest makes room. So whoever opens
//! many and stalls can't keep others from an answer, nor take the agent's
//! memory and file descriptors.

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Connections at the same time: far more than there are load balancers, and few
/// beside the usual limit of 1024 file descriptors.
const MOST: usize = 256;

/// How long a connection may take to ask, or to ask again. Load balancers that
/// keep connections probe more often.
const PATIENCE: Duration = Duration::from_mins(1);

/// The most that is read of a request before it is whole.
const REQUEST: usize = 16 * 1024;

/// After a failure to accept, which most likely lasts.
const PAUSE: Duration = Duration::from_millis(200);

/// The connections of one or more listeners, and how many there may be.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    patience: Duration,
    open: Mutex<Open>,
}

/// Those that are open, the oldest first.
#[derive(Debug, Default)]
struct Open {
    next: u64,
    tasks: BTreeMap<u64, AbortHandle>,
}

impl Default for Connections {
    fn default() -> Self {
        Self::new(MOST, PATIENCE)
    }
}

impl Connections {
    fn new(most: usize, patience: Duration) -> Self {
        Self { most, patience, open: Mutex::default() }
    }

    /// Runs one more, in place of the oldest if there are too many.
    fn admit(
        self: &Arc<Self>,
        tasks: &mut JoinSet<()>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        let place = Place { connections: Arc::clone(self), number };
        let task = tasks.spawn(async move {
            let _place = place;
            connection.await;
        });
        open.tasks.insert(number, task);
        let oldest = if open.tasks.len() > self.most { open.tasks.pop_first() } else { None };
        drop(open);
        if let Some((_, oldest)) = oldest {
            oldest.abort();
        }
    }
}

/// Gives the place of a connection back, however it ends.
struct Place {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let open = self.connections.open.lock();
        open.unwrap_or_else(PoisonError::into_inner).tasks.remove(&self.number);
    }
}

/// Answers for ever; connections end with this future.
pub(super) async fn serve<A>(listener: TcpListener, connections: Arc<Connections>, answer: A)
where
    A: Fn(&str) -> Response<String> + Clone + Send + Sync + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let connection = converse(stream, connections.patience, answer.clone());
                    connections.admit(&mut tasks, connection);
                }
                Err(error) => {
                    tracing::debug!("a health check can't be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

async fn converse(
    stream: TcpStream,
    patience: Duration,
    answer: impl Fn(&str) -> Response<String>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(answer(request.uri().path())))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(REQUEST)
        // As Go writes them, for clients that compare bytes.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("a health check ended early: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::task::JoinHandle;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn start(most: usize, patience: Duration) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Connections::new(most, patience));
        let answer = |path: &str| Response::new(format!("you asked for {path}"));
        (address, tokio::spawn(serve(listener, connections, answer)))
    }

    async fn ask(stream: &mut TcpStream, more: &str) -> String {
        let request = format!("GET /some/path HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = tokio::time::timeout(LIMIT, stream.read(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer[..length].to_vec()).unwrap()
    }

    /// Whether the server closed it; a reset counts.
    async fn closed(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut byte)).await.unwrap();
        read.map_or(true, |length| length == 0)
    }

    #[tokio::test]
    async fn connections_stay_open_between_requests() {
        let (address, server) = start(4, LIMIT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            let answer = ask(&mut stream, "").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\nContent-Length: 24\r\n"), "{answer}");
            assert!(answer.ends_with("\r\n\r\nyou asked for /some/path"), "{answer}");
        }
        // With the server, its connections end.
        server.abort();
        assert!(closed(&mut stream).await);
    }

    #[tokio::test]
    async fn whoever_stalls_makes_room_for_others() {
        let (address, server) = start(4, LIMIT * 10).await;
        let mut stalled = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            stalled.push(stream);
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut stream, "").await.starts_with("HTTP/1.1 200"));
        for stream in &mut stalled[..17] {
            assert!(closed(stream).await);
        }
        server.abort();
    }

    #[tokio::test]
    async fn silence_and_endless_requests_end() {
        let (address, server) = start(4, Duration::from_millis(50)).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert!(closed(&mut silent).await);
        let mut idle = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut idle, "").await.starts_with("HTTP/1.1 200"));
        assert!(closed(&mut idle).await);
        let mut endless = TcpStream::connect(address).await.unwrap();
        let answer = ask(&mut endless, &format!("X: {}\r\n", "x".repeat(REQUEST))).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        server.abort();
    }
}
