//! What strangers may send to the agent, for the fuzz targets.

use super::server;
use super::socket;
use super::status::SharedStatus;
use super::verify::Verifier;
use hyper::Response;
use std::future::ready;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::runtime;

/// Bytes on their way at a time: less than most answers, so that they are
/// written in parts.
const BUFFER: usize = 64;

/// What an HTTP client gets that sends these bytes and then no more; pages say
/// which path was asked for.
///
/// # Panics
///
/// Where the server does.
pub fn http(bytes: &[u8]) -> Vec<u8> {
    let answer = |path: String| ready(Response::new(path));
    talk(bytes, |stream| server::converse(stream, server::PATIENCE, answer, || {}))
}

/// What a client of the status socket gets that sends these bytes and then no
/// more.
///
/// # Panics
///
/// Where the agent does.
pub fn status_socket(bytes: &[u8]) -> Vec<u8> {
    let status = SharedStatus::default();
    // Nobody looks at the kernel, which is said at once.
    let (verifier, _) = Verifier::new();
    talk(bytes, async |stream| {
        // Whoever asks something else gets nothing.
        let _ = socket::answer(stream, &status, &verifier).await;
    })
}

fn talk<F: Future<Output = ()>>(bytes: &[u8], serve: impl FnOnce(DuplexStream) -> F) -> Vec<u8> {
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(async {
        let (client, server) = duplex(BUFFER);
        let (mut reads, mut writes) = tokio::io::split(client);
        let sent = async {
            // The server may have heard enough.
            let _ = writes.write_all(bytes).await;
            let _ = writes.shutdown().await;
        };
        let mut got = Vec::new();
        let received = reads.read_to_end(&mut got);
        let ((), (), received) = tokio::join!(serve(server), sent, received);
        received.expect("memory can be read");
        got
    })
}
