//! What programs send besides the packet that they run on: copies of it that
//! enter or leave anew.

use std::time::Duration;

use socket2::Socket;

use super::net::Port;
use crate::link;

/// Far beyond what a frame takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sees every frame that enters or leaves by an interface of the rig.
#[derive(Debug)]
pub struct Tap(Socket);

impl Tap {
    /// Begins to look. The calling thread is in the rig's namespace.
    pub fn open(on: Port) -> Self {
        let socket = link::open(on.index).expect("open a packet socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("set a limit");
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
