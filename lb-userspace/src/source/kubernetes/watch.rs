//! Follows one kind of objects: lists, watches, and begins anew after whatever
//! happens, for ever.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::{Backoff, ResetTimerBackoff};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Error as ClientError};

use super::contact::Contact;
use super::pace::Pace;
use super::slim::{Kept, Slim};
use super::store::{News, Store};
use crate::source::Tally;

/// How soon something that failed is tried again, at first and at last. An API
/// server that comes back should not wait for its nodes, nor drown in them.
const SOON: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(10);
/// Whoever had no failure for so long begins anew with the first.
const GOOD: Duration = Duration::from_mins(1);

/// How soon a kind is listed anew whose last version is too old to go on from.
const EXPIRED: Duration = Duration::from_secs(1);

/// How soon a kind is asked for again that the API does not have.
const ABSENT: Duration = Duration::from_mins(2);

/// Objects that one answer may have: the JSON text of a page is in memory as a
/// whole, and a slice may be a hundred kilobytes of it.
const PAGE: u32 = 200;

/// What those who follow share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) contact: Arc<Contact>,
    pub(super) pace: Arc<Pace>,
    pub(super) tally: Arc<Tally>,
}

/// Which objects of a kind are wanted; the API server leaves out all others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Selection<'a> {
    pub(super) labels: &'a str,
    pub(super) fields: &'a str,
    /// Whether the API may do without the kind.
    pub(super) optional: bool,
}

/// Follows a kind for ever.
pub(super) async fn follow<M: Kept>(client: Client, selection: Selection<'_>, shared: Shared) {
    let api: Api<Slim<M>> = Api::all(client);
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let config = watcher::Config {
        label_selector: given(selection.labels),
        field_selector: given(selection.fields),
        ..watcher::Config::default().page_size(PAGE)
    };
    loop {
        let backoff = ResetTimerBackoff::new(Doubling::default(), GOOD);
        let events = watcher(api.clone(), config.clone()).backoff(backoff);
        let mut events = std::pin::pin!(events);
        let pause = loop {
            match events.next().await {
                Some(Ok(event)) => shared.take(event),
                Some(Err(error)) => match shared.fail::<M>(&error, selection.optional) {
                    Then::GoOn => {}
                    Then::BeginAnew(pause) => break pause,
                },
                None => break LATE,
            }
        };
        tokio::time::sleep(some_of(pause)).await;
    }
}

/// What comes after a failure.
enum Then {
    /// The watcher tries again by itself.
    GoOn,
    /// Another one lists everything, after a while.
    BeginAnew(Duration),
}

impl Shared {
    fn take<M: Kept>(&self, event: Event<Slim<M>>) {
        let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = M::store(&mut store);
        let news = match event {
            Event::Init => {
                kind.begin();
                News::None
            }
            Event::InitApply(object) => {
                kind.list(object);
                News::None
            }
            Event::InitDone => kind.end(),
            Event::Apply(object) => kind.apply(object),
            Event::Delete(object) => kind.remove(&object),
        };
        drop(store);
        if news != News::None {
            self.tally.queued();
        }
        self.pace.tell(news);
    }

    fn fail<M: Kept>(&self, error: &watcher::Error, optional: bool) -> Then {
        let source = match error {
            watcher::Error::InitialListFailed(source)
            | watcher::Error::WatchStartFailed(source)
            | watcher::Error::WatchFailed(source) => Some(source),
            watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => None,
        };
        let status = match (source, error) {
            (Some(ClientError::Api(status)), _) | (_, watcher::Error::WatchError(status)) => {
                Some(status)
            }
            _ => None,
        };
        let code = status.map_or(0, |status| status.code);
        if optional && matches!(code, 403 | 404) {
            let mut store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let news = M::store(&mut store).set_absent();
            if news == News::Complete {
                let what = M::PLURAL;
                tracing::info!("the Kubernetes API has no {what} for the agent: going on without");
            }
            self.contact.heard(M::PLURAL);
            self.pace.tell(news);
            return Then::BeginAnew(ABSENT);
        }
        // A watch that ends or is too old is how watches are: what was asked for
        // then tells more.
        let ended = matches!(
            error,
            watcher::Error::WatchFailed(ClientError::ReadEvents(_) | ClientError::HyperError(_))
        );
        if code == 410 && matches!(error, watcher::Error::WatchStartFailed(_)) {
            // The watcher would ask for the same version for ever.
            tracing::debug!("{} are listed anew: {error}", M::PLURAL);
            return Then::BeginAnew(EXPIRED);
        }
        if ended || code == 410 {
            tracing::debug!("{} are asked for anew: {error}", M::PLURAL);
            return Then::GoOn;
        }
        let answered =
            status.is_some() || matches!(source, Some(ClientError::SerdeError(_)) | None);
        let reason = match (status, source) {
            (Some(status), _) => format!("{} {}", status.code, status.message),
            (None, Some(source)) => chain(source),
            (None, None) => error.to_string(),
        };
        if self.contact.failed(M::PLURAL, answered, reason) {
            self.pace.tell(News::Complete);
        }
        // What could not be read may have been news of an object.
        let missed = matches!(error, watcher::Error::WatchFailed(_));
        if missed { Then::BeginAnew(LATE) } else { Then::GoOn }
    }
}

/// The last cause says what happened; those above it only that something did.
fn chain(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// From half of a time to all of it, so that not everybody comes at the same time.
fn some_of(time: Duration) -> Duration {
    // Each hasher of the standard library begins with other numbers.
    let chance = u32::try_from(RandomState::new().build_hasher().finish() % 100).unwrap_or(0);
    time / 2 + time * chance / 200
}

/// Twice as long each time.
#[derive(Debug, Default)]
struct Doubling {
    times: u32,
}

impl Iterator for Doubling {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = SOON.saturating_mul(1 << self.times.min(16)).min(LATE);
        self.times = self.times.saturating_add(1);
        Some(some_of(wait))
    }
}

impl Backoff for Doubling {
    // Every list begins well, also one that fails then, so only time counts: see
    // `ResetTimerBackoff`.
    fn reset(&mut self) {
        self.times = 0;
    }
}
