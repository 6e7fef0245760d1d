//! Makes the kernel refuse writes to BPF maps, as it does when a map is full or
//! memory is short: a seccomp filter on one thread hands its system calls to
//! another, which answers in the kernel's place.
//!
//! Only calls are met. Stores to memory-mapped maps can't fail.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "test support: what goes wrong here must end the test"
)]

use std::mem::offset_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::mpsc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// `BPF_MAP_UPDATE_ELEM` and `BPF_MAP_DELETE_ELEM` of linux/bpf.h.
const WRITES: [u32; 2] = [2, 3];

/// What the kernel says to the next writes.
#[derive(Debug, Default)]
pub struct Faults {
    /// How many writes go well before one fails.
    before: AtomicUsize,
    /// The error of that one; 0 if none fails.
    error: AtomicI32,
}

impl Faults {
    /// Runs a function on a thread of its own, whose writes fail when it asks
    /// for it.
    pub fn run<T: Send>(function: impl FnOnce(&Self) -> T + Send) -> T {
        let faults = Self::default();
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sender.send(listen()).expect("the other thread waits");
                function(&faults)
            });
            let listener = receiver.recv().expect("the thread sends");
            faults.answer(&listener);
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Lets one write fail, after some that go well.
    pub fn fail_after(&self, before: usize, error: i32) {
        self.before.store(before, Ordering::SeqCst);
        self.error.store(error, Ordering::SeqCst);
    }

    /// Lets no write fail; whether the one that should have was met.
    pub fn heal(&self) -> bool {
        self.error.swap(0, Ordering::SeqCst) == 0
    }

    /// The error of this write, or 0.
    fn next(&self) -> i32 {
        if self.error.load(Ordering::SeqCst) == 0 {
            return 0;
        }
        let goes_well = |before: usize| before.checked_sub(1);
        match self.before.fetch_update(Ordering::SeqCst, Ordering::SeqCst, goes_well) {
            Ok(_) => 0,
            Err(_) => self.error.swap(0, Ordering::SeqCst),
        }
    }

    /// Answers until the thread is gone.
    fn answer(&self, listener: &OwnedFd) {
        loop {
            let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(listener), PollFlags::POLLIN)];
            poll(&mut ready, PollTimeout::NONE).expect("wait for a system call");
            let events = ready[0].revents().unwrap_or(PollFlags::empty());
            if !events.contains(PollFlags::POLLIN) {
                return;
            }
            // SAFETY: all zeros is a valid value of this plain structure, and what
            // the kernel wants to find.
            let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
            let fd = listener.as_raw_fd();
            // SAFETY: the kernel fills the structure, which it knows the size of.
            let got = unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
            if got != 0 {
                continue;
            }
            let error = self.next();
            let flags = if error == 0 { libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE } else { 0 };
            let flags = u32::try_from(flags).expect("a small flag");
            let answer = libc::seccomp_notif_resp { id: call.id, val: 0, error: -error, flags };
            // SAFETY: the kernel reads the structure.
            unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw const answer) };
        }
    }
}

/// Puts the calling thread under the filter; who answers reads from the result.
fn listen() -> OwnedFd {
    let load = |offset: usize| stmt(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let is = |value: u32, otherwise: u8| {
        let code = u16::try_from(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K).expect("a code");
        libc::sock_filter { code, jt: 0, jf: otherwise, k: value }
    };
    let answer = |action: u32| {
        let action = usize::try_from(action).expect("32 bits");
        stmt(libc::BPF_RET | libc::BPF_K, action)
    };
    let call = u32::try_from(libc::SYS_bpf).expect("a number of a system call");
    // The low half of the first argument: on a little-endian machine, the first.
    let command = offset_of!(libc::seccomp_data, args);
    let mut program = [
        load(offset_of!(libc::seccomp_data, nr)),
        is(call, 5),
        load(command),
        is(WRITES[0], 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        is(WRITES[1], 1),
        answer(libc::SECCOMP_RET_USER_NOTIF),
        answer(libc::SECCOMP_RET_ALLOW),
    ];
    let len = u16::try_from(program.len()).expect("a short program");
    let program = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives until then.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.expect("the kernel lets a thread of root be filtered");
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn stmt(code: u32, k: usize) -> libc::sock_filter {
    let code = u16::try_from(code).expect("a code");
    libc::sock_filter { code, jt: 0, jf: 0, k: u32::try_from(k).expect("32 bits") }
}
