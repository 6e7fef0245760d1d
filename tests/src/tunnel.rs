//! Two namespaces joined by devices whose packets begin with the IP header, as
//! a VPN has: a program moves the packets between two tun devices.

use crate::netns::Namespace;
use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// The tunnel; its devices go away with it.
#[derive(Debug)]
pub struct Tunnel {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tunnel {
    /// Makes a device of this name in both namespaces.
    pub fn new(one: &Namespace, other: &Namespace, name: &str) -> Result<Self> {
        let ends = [one.run(|| device(name))??, other.run(|| device(name))??];
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || relay(&ends, &told));
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A relay that panicked has shown why already.
            let _ended = thread.join();
        }
    }
}

/// A tun device of the namespace of the calling thread.
fn device(name: &str) -> Result<File> {
    /// `TUNSETIFF` of linux/if_tun.h.
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    let file = File::options().read(true).write(true).open("/dev/net/tun");
    let file = file.context("open /dev/net/tun")?;
    // SAFETY: a C structure of integers, for which all zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).context("the flags")?;
    // SAFETY: the descriptor is open, and the request lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw const request) };
    if result != 0 {
        return Err(std::io::Error::last_os_error()).context("make a tun device");
    }
    Ok(file)
}

/// Moves packets both ways until told to stop.
fn relay(ends: &[File; 2], stop: &AtomicBool) {
    const LOOK: u16 = 20;
    let mut packet = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let flags = PollFlags::POLLIN;
        let mut fds = [PollFd::new(ends[0].as_fd(), flags), PollFd::new(ends[1].as_fd(), flags)];
        if poll(&mut fds, PollTimeout::from(LOOK)).is_err() {
            return;
        }
        let ready = fds.map(|fd| fd.any().unwrap_or(false));
        for (index, _) in ready.into_iter().enumerate().filter(|(_, ready)| *ready) {
            let (mut from, mut to) = (&ends[index], &ends[1 - index]);
            if let Ok(length) = from.read(&mut packet) {
                // A device that is down takes nothing.
                let _lost = to.write(&packet[..length]);
            }
        }
    }
}
