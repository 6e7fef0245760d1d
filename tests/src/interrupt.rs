//! Ctrl-C and SIGTERM: noted, so that a program ends where it can and
//! cleans up, instead of dying with everything left standing.

use anyhow::{Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};

static SEEN: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    SEEN.store(true, Ordering::Relaxed);
}

/// Notes the signals from now on.
pub fn install() {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Should this fail, the signal ends the program as it always would.
        // SAFETY: the handler stores to an atomic, which is async-signal-safe.
        let _ = unsafe { sigaction(signal, &action) };
    }
}

/// Fails if one came.
pub fn check() -> Result<()> {
    if seen() {
        bail!("interrupted");
    }
    Ok(())
}

/// Whether one came.
pub fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}
