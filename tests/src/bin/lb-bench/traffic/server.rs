//! The server in each backend's pod. What a client of TCP sends first says what it
//! is there for, and on which processor it wants to be served; the second byte of
//! what comes back says which server answered.

use anyhow::{Context as _, Result};
use lb_tests::process;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

/// Where it listens.
pub(crate) const TCP: u16 = 8080;
pub(crate) const UDP: u16 = 5353;

/// The length of a request, of its answer, and of a datagram.
pub(crate) const LENGTH: usize = 64;

/// One request, after which the server closes.
pub(crate) const ONCE: u8 = b'1';
/// Any number of requests.
pub(crate) const OPEN: u8 = b'n';
/// A stream, whose length is told when the client has ended it.
pub(crate) const BULK: u8 = b'b';

/// As many as wait for a client at once.
const ACCEPTING: usize = 4;
/// What is read of a stream at once.
const CHUNK: usize = 256 << 10;

/// Serves until the process is ended.
#[expect(clippy::print_stdout, reason = "who started it waits for this line")]
pub(crate) fn serve(number: u8) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP)).context("listen")?;
    let listener = Arc::new(listener);
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UDP)).context("bind")?;
    for place in 0..ACCEPTING {
        let listener = Arc::clone(&listener);
        thread::spawn(move || {
            stay_on(place);
            loop {
                // A client that goes away ends its connection, nothing else.
                let _ = listener.accept().and_then(|(stream, _)| begin(number, stream));
            }
        });
    }
    stay_on(number.into());
    println!("ready");
    let mut buffer = [0; 2 * LENGTH];
    loop {
        // An ICMP error of an earlier answer ends up here; it ends nothing.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
        buffer[1] = number;
        let _ = socket.send_to(&buffer[..length], peer);
    }
}

fn begin(number: u8, mut stream: TcpStream) -> io::Result<()> {
    let mut request = [0; LENGTH];
    stream.read_exact(&mut request)?;
    request[1] = number;
    match request[0] {
        ONCE => stream.write_all(&request),
        OPEN => {
            thread::spawn(move || {
                stay_on(request[2].into());
                open(stream, request)
            });
            Ok(())
        }
        _ => {
            thread::spawn(move || {
                stay_on(request[2].into());
                bulk(stream)
            });
            Ok(())
        }
    }
}

fn open(mut stream: TcpStream, mut request: [u8; LENGTH]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        stream.write_all(&request)?;
        stream.read_exact(&mut request)?;
    }
}

fn bulk(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut total: u64 = 0;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        total += u64::try_from(length).map_err(io::Error::other)?;
    }
    stream.write_all(&total.to_be_bytes())?;
    stream.shutdown(Shutdown::Write)
}

/// Keeps the calling thread on one processor, the first again behind the last. Where
/// the scheduler happens to put a few threads on a few processors otherwise decides
/// more than what is between them. Should it fail, there is more noise.
pub(crate) fn stay_on(place: usize) {
    let count = thread::available_parallelism().map_or(1, NonZero::get);
    let _confined = process::stay_on(place % count);
}
