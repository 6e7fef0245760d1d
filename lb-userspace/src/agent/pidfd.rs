//! A process that can't be mistaken for another one: by a descriptor, since its
//! number may be another's a moment later.

use nix::sys::signal::Signal;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that runs, or has ended by now.
#[derive(Debug)]
pub(super) struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    /// The process that has this number now. Needs a tokio runtime.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: the call takes two numbers and touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = i32::try_from(result).ok().filter(|fd| *fd >= 0);
        let fd = fd.ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel made this descriptor for us just now; nobody else
        // owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: the descriptor is owned, and kept until it is dropped.
        let process = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(process.map_err(io::Error::from)?))
    }

    /// Sends it a signal; one that has ended needs none.
    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        let (fd, signal) = (self.0.as_raw_fd(), signal as libc::c_int);
        let no_info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the descriptor is open as long as this value lives, and the
        // kernel fills in for the information that is not given.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) };
        if result == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            error => Err(error),
        }
    }

    /// Waits for its end, by which everything that it had open is closed; false
    /// if it goes on for so long.
    pub(super) async fn ended(&self, limit: Duration) -> io::Result<bool> {
        match tokio::time::timeout(limit, self.0.readable()).await {
            Ok(ready) => ready.map(|_still_readable| true),
            Err(_elapsed) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::{Command, Stdio};

    #[tokio::test]
    async fn a_process_is_told_to_end_and_its_end_is_noticed() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        assert!(!process.ended(Duration::from_millis(20)).await.unwrap());
        process.signal(Signal::SIGTERM).unwrap();
        assert!(process.ended(Duration::from_secs(10)).await.unwrap());
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        process.signal(Signal::SIGTERM).unwrap();
    }
}
