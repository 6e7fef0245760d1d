//! The servers of the pods: HTTP and UDP echo, on both families. Every answer
//! names the backend that gave it and the client's address as it saw it.

use crate::http::Message;
use std::io::{self, BufReader, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

/// A socket on the unspecified IPv6 address takes IPv4 too, as mapped addresses.
pub fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Answers HTTP requests on an address for ever.
pub fn http(name: &str, address: SocketAddr) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    let name: Arc<str> = name.into();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = Arc::clone(&name);
            // A client that goes away ends its thread, nothing else.
            thread::spawn(move || serve(&name, stream));
        }
    });
    Ok(())
}

fn serve(name: &str, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let peer = plain(stream.peer_addr()?);
    let local = plain(stream.local_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = Message::read(&mut reader)? {
        let path = request.start.split(' ').nth(1).unwrap_or("/");
        let body = match path.strip_prefix("/bytes/").map(str::parse::<usize>) {
            Some(Ok(length)) => pattern(length),
            Some(Err(_)) | None => format!("{name} sees you as {peer}\n").into_bytes(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
             X-Backend: {name}\r\nX-Peer: {peer}\r\nX-Local: {local}\r\nX-Sum: {}\r\n\r\n",
            body.len(),
            sum(&request.body),
        );
        let mut answer = head.into_bytes();
        answer.extend_from_slice(&body);
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// Echoes datagrams on an address for ever, behind its name and the peer's address.
pub fn udp(name: &str, address: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let name = name.to_owned();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            // An ICMP error of an earlier answer ends up here; it ends nothing.
            let Ok((length, peer)) = socket.recv_from(&mut buffer) else { continue };
            let mut answer = format!("{name} {} ", plain(peer)).into_bytes();
            answer.extend_from_slice(&buffer[..length]);
            let _ = socket.send_to(&answer, peer);
        }
    });
    Ok(())
}

/// Bytes that differ enough for a misplaced one to be seen.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|index| (index % 251).to_le_bytes()[0]).collect()
}

/// A checksum in which order counts, unlike the protocols' own (FNV-1a).
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
