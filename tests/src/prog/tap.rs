//! What programs send besides the packet that they run on: copies of it that
//! enter or leave anew.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::net::Port;

/// Far beyond what a frame takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sees every frame that enters or leaves by an interface of the rig.
#[derive(Debug)]
pub struct Tap(Socket);

impl Tap {
    /// Begins to look. The calling thread is in the rig's namespace.
    pub fn open(on: Port) -> Self {
        let all = libc::ETH_P_ALL.cast_unsigned();
        let all = u16::try_from(all).expect("16 bits").to_be();
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(all))))
            .expect("open a packet socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set a limit");
        let index = i32::try_from(on.index).expect("a small number");
        bind(&socket, all, index).expect("bind to an interface");
        Self(socket)
    }

    /// The next frame between these link-layer addresses, or with these first
    /// 12 bytes: the interface has traffic of its own, too.
    pub fn next(&self, first: &[u8]) -> Vec<u8> {
        use std::io::Read as _;
        let mut buffer = vec![0; 16_384];
        loop {
            let length = (&self.0).read(&mut buffer).expect("a frame within the limit");
            if buffer[..length].starts_with(first) {
                return buffer[..length].to_vec();
            }
        }
    }
}

fn bind(socket: &Socket, protocol: u16, index: i32) -> io::Result<()> {
    let family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let address = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: protocol,
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    let length = length.map_err(io::Error::other)?;
    // SAFETY: the address lives through the call and is as long as it says.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
