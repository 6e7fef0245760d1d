//! What the agent tells of objects to those who look at them: events, where the
//! source takes any. Telling never waits: what is too much is dropped.

use tokio::sync::mpsc;

use crate::model::{Kind, ObjectName};

/// Events that may wait to be published.
const MOST: usize = 256;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is about; none for the node of this agent.
    pub about: Option<(Kind, ObjectName)>,
    /// Whether something is wrong.
    pub warning: bool,
    /// Why, in a word for programs.
    pub reason: &'static str,
    /// What the agent was doing, in a word.
    pub action: &'static str,
    /// All of it, for people.
    pub note: String,
}

/// Where events go.
#[derive(Clone, Debug, Default)]
pub struct Events(Option<mpsc::Sender<Event>>);

impl Events {
    /// Events, and who takes them.
    pub(super) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(MOST);
        (Self(Some(sender)), receiver)
    }

    /// Tells of one.
    pub fn tell(&self, event: Event) {
        let Some(sender) = &self.0 else { return };
        if let Err(error) = sender.try_send(event) {
            tracing::debug!("an event is dropped: {error}");
        }
    }
}
