//! Packets that two processors meet at the same moment.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Prog, Rig};
use crate::process;

impl Rig {
    /// Runs a program on two packets at once, each on a processor of its own; the
    /// action and the packet of each. Counters are left alone, as
    /// [`Rig::run_uncounted`] leaves them.
    pub fn at_once(&self, prog: Prog, ifindex: u32, frames: [&[u8]; 2]) -> [(u32, Vec<u8>); 2] {
        let arrived = AtomicUsize::new(0);
        let side = |side: usize| {
            self.enter();
            assert!(process::stay_on(side), "two processors are needed");
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
            self.run_uncounted(prog, ifindex, frames[side])
        };
        thread::scope(|scope| {
            [scope.spawn(|| side(0)), scope.spawn(|| side(1))]
                .map(|thread| thread.join().expect("both run"))
        })
    }
}
