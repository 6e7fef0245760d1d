//! What a host learns of a path: whether the other end answers a ping, and how
//! large a packet may be.
//!
//! Like clients, these use the network namespace of the calling thread.

use crate::client::PATIENCE;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _};

/// Pings an address once; how long the answer was. The namespace must allow
/// ICMP sockets (`net.ipv4.ping_group_range`).
pub fn ping(to: IpAddr, payload: usize) -> io::Result<usize> {
    let (domain, protocol, kind) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut socket = Socket::new(domain, Type::DGRAM, Some(protocol))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(&SocketAddr::new(to, 0).into())?;
    // The kernel writes the identifier and the checksum.
    let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    request.resize(8 + payload, 0x5a);
    socket.send(&request)?;
    let mut answer = vec![0; request.len() + 1];
    let length = socket.read(&mut answer)?;
    Ok(length - 8)
}

/// A connected UDP socket whose datagrams are never cut into fragments.
#[derive(Debug)]
pub struct Whole {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Whole {
    /// Connects.
    pub fn open(to: SocketAddr) -> io::Result<Self> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        let (level, option, always) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
        };
        set(&socket, level, option, always)?;
        Ok(Self { socket, to })
    }

    /// Sends a datagram that makes an IP packet of this length. What became of
    /// earlier ones is forgotten.
    pub fn send(&self, length: usize) -> io::Result<()> {
        self.socket.take_error()?;
        let headers = if self.to.is_ipv4() { 28 } else { 48 };
        self.socket.send(&vec![0x5a; length - headers]).map(drop)
    }

    /// The longest packet that the kernel believes the path to take.
    pub fn mtu(&self) -> io::Result<usize> {
        mtu(&self.socket, self.to)
    }
}

/// The longest packet that a connected socket's path takes, as far as is known.
pub fn mtu(socket: &impl AsFd, to: SocketAddr) -> io::Result<usize> {
    let (level, option) = if to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let mut value = MaybeUninit::<libc::c_int>::uninit();
    let mut len = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and `value` has room for `len` bytes.
    let result =
        unsafe { libc::getsockopt(fd, level, option, value.as_mut_ptr().cast(), &raw mut len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has written the integer.
    let value = unsafe { value.assume_init() };
    usize::try_from(value).map_err(io::Error::other)
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    let from = std::ptr::from_ref(&value).cast();
    // SAFETY: the descriptor is open, and `value` is `len` bytes long.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, from, len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
