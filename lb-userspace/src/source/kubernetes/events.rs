//! Publishes events, one after the other: kube-runtime's recorder counts those that
//! come again instead of making new ones. Who may not publish, or reaches nobody,
//! loses events and nothing else.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event as ApiEvent, EventType, Recorder, Reporter};
use kube::{Client, Error as ClientError};
use tokio::sync::mpsc;

use super::store::Store;
use crate::model::{Kind, ObjectName};
use crate::source::events::Event;

/// Who reports.
const CONTROLLER: &str = "lb-agent";
/// The API server refuses longer ones (1024 bytes).
const NOTE: usize = 1000;
/// From one to the next, at least: of what goes wrong on many nodes at the same
/// time, the API server should not hear all at once.
const PAUSE: Duration = Duration::from_millis(100);
/// How often one is tried, and how long after the first failure.
const TRIES: u32 = 6;
const AGAIN: Duration = Duration::from_secs(1);

/// Publishes what comes, until nobody tells any more.
pub(super) async fn publish(
    client: Client,
    node: String,
    store: Arc<Mutex<Store>>,
    mut events: mpsc::Receiver<Event>,
) {
    let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.clone()) };
    let recorder = Recorder::new(client, reporter);
    let mut complained = false;
    while let Some(event) = events.recv().await {
        let about = reference(event.about.as_ref(), &node, &store);
        let event = ApiEvent {
            type_: if event.warning { EventType::Warning } else { EventType::Normal },
            reason: event.reason.to_owned(),
            action: event.action.to_owned(),
            note: Some(shortened(event.note)),
            secondary: None,
        };
        match one(&recorder, &event, &about).await {
            Ok(()) => complained = false,
            Err(error) if complained => tracing::debug!("an event is lost: {error}"),
            Err(error) => {
                tracing::warn!("events can't be published: {error}");
                complained = true;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Publishes one; an API server that does not answer may do so soon.
async fn one(
    recorder: &Recorder,
    event: &ApiEvent,
    about: &ObjectReference,
) -> Result<(), ClientError> {
    let mut pause = AGAIN;
    for _ in 1..TRIES {
        match recorder.publish(event, about).await {
            Err(error) if !matches!(error, ClientError::Api(_)) => {
                tracing::debug!("an event waits: {error}");
            }
            published => return published,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    recorder.publish(event, about).await
}

fn reference(
    about: Option<&(Kind, ObjectName)>,
    node: &str,
    store: &Mutex<Store>,
) -> ObjectReference {
    let Some((kind, name)) = about else {
        // Events of a node have its name for its uid: so `kubectl describe` finds
        // them, and kubelet and kube-proxy do it.
        return ObjectReference {
            kind: Some(Kind::Node.name().to_owned()),
            name: Some(node.to_owned()),
            uid: Some(node.to_owned()),
            ..ObjectReference::default()
        };
    };
    let uid = store.lock().unwrap_or_else(PoisonError::into_inner).uid(*kind, name);
    ObjectReference {
        api_version: Some(kind.api_version().to_owned()),
        kind: Some(kind.name().to_owned()),
        namespace: Some(name.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        name: Some(name.name.clone()),
        uid,
        ..ObjectReference::default()
    }
}

fn shortened(mut note: String) -> String {
    if note.len() > NOTE {
        let end = (0..=NOTE).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push('\u{2026}');
    }
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_as_long_as_the_api_server_takes_them() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = shortened("\u{e4}".repeat(600));
        assert!(long.len() <= 1024 && long.ends_with('\u{2026}'), "{}", long.len());
    }
}
