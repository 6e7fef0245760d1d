//! What the supervisor of this process is told, if it asked for that as systemd does
//! with `Type=notify`: sd_notify(3). Whoever did not ask is told nothing.

use sd_notify::NotifyState;

/// The agent is at work.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// The loop still goes round.
pub(super) fn alive() {
    tell(NotifyState::Watchdog);
}

/// The agent ends because it was told to.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("the supervisor can't be told: {error}");
    }
}
