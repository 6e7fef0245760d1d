//! When those who follow are told: a change by itself at once, a burst of them
//! when it is over or has lasted long enough.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

use super::store::News;

/// Quiet time after which a burst counts as over.
const QUIET: Duration = Duration::from_millis(10);
/// A burst is told after this time even if it goes on.
const PATIENCE: Duration = Duration::from_millis(60);

/// What has happened and was not told yet.
#[derive(Debug, Default)]
pub(super) struct Pace {
    news: Notify,
    /// Whether all of it makes sense by itself.
    half: Mutex<bool>,
}

impl Pace {
    /// Something happened.
    pub(super) fn tell(&self, news: News) {
        match news {
            News::None => return,
            News::Half => *self.half.lock().unwrap_or_else(PoisonError::into_inner) = true,
            News::Complete => {}
        }
        self.news.notify_one();
    }

    /// Tells on what happens, until nobody listens. Who is busy is told once of all
    /// that happened meanwhile.
    pub(super) async fn run(&self, changes: mpsc::Sender<()>) {
        let mut last: Option<Instant> = None;
        loop {
            tokio::select! {
                () = self.news.notified() => {}
                () = changes.closed() => return,
            }
            let quiet = last.is_none_or(|last| last.elapsed() >= QUIET);
            let half = || *self.half.lock().unwrap_or_else(PoisonError::into_inner);
            if !quiet || half() {
                let end = Instant::now() + PATIENCE;
                while Instant::now() < end && timeout(QUIET, self.news.notified()).await.is_ok() {}
            }
            *self.half.lock().unwrap_or_else(PoisonError::into_inner) = false;
            if changes.send(()).await.is_err() {
                return;
            }
            last = Some(Instant::now());
        }
    }
}
