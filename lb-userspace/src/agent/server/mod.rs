//! Small answers over HTTP, within bounds: a connection that says nothing or
//! takes no answer is closed, and there are only so many at a time (`bounds`).

mod bounds;

pub(super) use bounds::Connections;

use http_body_util::Full;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// How long a connection may take to ask, or to ask again: longer than the usual
/// intervals of those who keep one.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);

/// How long it may take nothing of what it was sent.
const STUCK: Duration = Duration::from_mins(1);

/// The most that is read of a request before it is whole.
const REQUEST: usize = 16 * 1024;

/// After a failure to accept, which most likely lasts.
const PAUSE: Duration = Duration::from_millis(200);

/// Answers for ever; connections end with this future. `answer` is asked with the
/// path, whatever the method.
pub(super) async fn serve<A, F, B>(
    listener: TcpListener,
    connections: Arc<Connections>,
    patience: Duration,
    answer: A,
) where
    A: Fn(String) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Into<Bytes> + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    // The kernel ends a connection that takes nothing for so long.
                    if let Err(error) = SockRef::from(&stream).set_tcp_user_timeout(Some(STUCK)) {
                        tracing::debug!("an HTTP connection has no bound for writes: {error}");
                    }
                    let answer = answer.clone();
                    connections.admit(&mut tasks, move |place| async move {
                        converse(stream, patience, answer, || place.asks()).await;
                    });
                }
                Err(error) => {
                    tracing::debug!("an HTTP connection can't be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = tasks.join_next() => {}
        }
    }
}

/// Answers on one connection until it ends; `asks` hears of each question.
pub(super) async fn converse<A, F, B>(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    patience: Duration,
    answer: A,
    asks: impl Fn(),
) where
    A: Fn(String) -> F,
    F: Future<Output = Response<B>>,
    B: Into<Bytes>,
{
    let service = service_fn(async |request: Request<Incoming>| {
        asks();
        let has_body = !request.body().is_end_stream();
        let mut page = answer(request.uri().path().to_owned()).await;
        if has_body {
            // Nobody reads it, and what is behind it may be no question.
            page.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(page.map(|body| Full::new(body.into())))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience)
        .max_buf_size(REQUEST)
        // As Go writes them, for clients that compare bytes.
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!("an HTTP connection ended early: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;
    use tokio::task::JoinHandle;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn start(most: usize, patience: Duration) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Connections::new(most);
        let answer = async |path: String| Response::new(format!("you asked for {path}"));
        (address, tokio::spawn(serve(listener, connections, patience, answer)))
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
    async fn who_has_asked_stays_while_others_stall() {
        let (address, server) = start(4, LIMIT * 10).await;
        let mut steady = TcpStream::connect(address).await.unwrap();
        assert!(ask(&mut steady, "").await.starts_with("HTTP/1.1 200"));
        let mut stalled = Vec::new();
        for _ in 0..20 {
            stalled.push(TcpStream::connect(address).await.unwrap());
        }
        for stream in &mut stalled[..16] {
            assert!(closed(stream).await);
        }
        assert!(ask(&mut steady, "").await.starts_with("HTTP/1.1 200"));
        // Nor do those who have asked before keep a newcomer out.
        let mut others = Vec::new();
        for _ in 0..20 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(ask(&mut stream, "").await.starts_with("HTTP/1.1 200"));
            others.push(stream);
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
