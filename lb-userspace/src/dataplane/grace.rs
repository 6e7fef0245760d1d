//! Waiting until no program runs any more that may have read what was in the maps
//! before.

use nix::unistd::{SysconfVar, sysconf};
use rustix::thread::{MembarrierCommand, membarrier};

/// Waits for every packet that is under way in a program; takes some ten
/// milliseconds. `false` if that can't be had here.
///
/// Programs run in RCU read-side critical sections, and the kernel function
/// `membarrier_global` (`MEMBARRIER_CMD_GLOBAL`) is one call of `synchronize_rcu`:
/// except with a single processor, where it has nothing to do for its own purpose,
/// and with `nohz_full`, where it fails.
pub(crate) fn wait_for_packets() -> bool {
    let processors = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    processors.is_some_and(|number| number > 1) && membarrier(MembarrierCommand::Global).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn it_ends_soon() {
        let begin = Instant::now();
        let waited = wait_for_packets();
        assert!(begin.elapsed() < Duration::from_secs(2), "{waited} {:?}", begin.elapsed());
    }
}
