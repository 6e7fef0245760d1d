//! An API server that does on purpose what real ones do now and then: it goes
//! away, cuts watches, forgets what is long ago, fails in the middle of a list,
//! tells things twice or out of order. Selectors, pages, bookmarks and versions are
//! those of a real one.

mod objects;
mod serve;
mod tls;

use crate::netns::Namespace;
use anyhow::{Context as _, Result};
use nix::sys::socket::{Shutdown, shutdown};
use objects::State;
use serde_json::Value;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tempfile::TempDir;
use tls::Identity;

/// What clients have to show.
const TOKEN: &str = "the-token-of-the-test";

/// The server. Its connections end with this value.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    home: TempDir,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    identity: Identity,
}

/// How the next list of a kind fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFault {
    /// Its second page has expired.
    Expired,
    /// Its second page ends in the middle.
    Cut,
    /// The server has trouble.
    Internal,
}

impl ApiServer {
    /// One that has no objects yet.
    pub fn new() -> Result<Self> {
        let home = tempfile::tempdir().context("make a directory for a kubeconfig")?;
        let identity = Identity::new()?;
        let shared = Shared { state: Mutex::new(State::new()), changed: Condvar::new(), identity };
        std::fs::write(home.path().join("ca.pem"), shared.identity.pem())?;
        std::fs::write(home.path().join("token"), TOKEN)?;
        Ok(Self { shared: Arc::new(shared), home })
    }

    /// Listens in a namespace, over TLS.
    pub fn listen(&self, netns: &Namespace, address: SocketAddr) -> Result<()> {
        let listener = netns.run(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        let kept = listener.try_clone().context("keep a listener")?;
        self.state().listeners.push(kept);
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || serve::accept(&listener, &shared));
        Ok(())
    }

    /// Arguments that tell an agent to follow the server at an address.
    pub fn source(&self, address: SocketAddr) -> Result<Vec<OsString>> {
        let path = self.kubeconfig(address)?;
        let state = self.home.path().join("state");
        Ok(vec!["--kubeconfig".into(), path.into(), "--state-dir".into(), state.into()])
    }

    /// Where agents keep what they know of API servers.
    pub fn state_dir(&self) -> PathBuf {
        self.home.path().join("state")
    }

    /// Where the token is that clients have to show.
    pub fn token_file(&self) -> PathBuf {
        self.home.path().join("token")
    }

    /// Writes a kubeconfig for the server at an address.
    fn kubeconfig(&self, address: SocketAddr) -> Result<PathBuf> {
        let path = self.home.path().join(format!("{address}.conf"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n\
             clusters: [{{name: test, cluster: {{server: 'https://{address}', \
             certificate-authority: ca.pem}}}}]\n\
             users: [{{name: test, user: {{tokenFile: token}}}}]\n"
        );
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Makes these the objects of all kinds: others go, what is the same stays.
    pub fn publish(&self, items: Vec<Value>) {
        self.change(|state| state.publish(items));
    }

    /// Takes a list as a real server told it, versions included.
    pub fn load(&self, list: &Path) -> Result<()> {
        let text = std::fs::read_to_string(list).with_context(|| list.display().to_string())?;
        let list: Value = serde_json::from_str(&text).context("read a list")?;
        self.change(|state| state.load(&list))
    }

    /// Does what an event of a real server's watch tells; the object that it is
    /// about.
    pub fn replay(&self, event: &Value) -> Result<()> {
        self.change(|state| state.replay(event))
    }

    /// Creates or changes an object.
    pub fn put(&self, object: Value) {
        self.change(|state| state.put(object));
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, name: &str) {
        self.change(|state| state.delete(kind, name));
    }

    /// Sends an event to all who watch a kind, whether it is true or not.
    pub fn tell(&self, kind: &str, event: Value) {
        self.change(|state| state.tell(kind, event));
    }

    /// The last event of a kind, as watchers were told it.
    pub fn last_event(&self, kind: &str) -> Option<Value> {
        self.state().last_event(kind)
    }

    /// Tells all who watch at which version they are.
    pub fn bookmark(&self) {
        self.change(State::bookmark);
    }

    /// Forgets all events: who watches has to list again.
    pub fn compact(&self) {
        self.change(State::compact);
    }

    /// Ends all connections, in the middle of whatever is told.
    pub fn cut(&self) {
        self.change(State::cut);
    }

    /// Goes away: connections end, and new ones with them.
    pub fn stop(&self) {
        self.change(|state| {
            state.away = true;
            state.cut();
        });
    }

    /// Comes back.
    pub fn start(&self) {
        self.change(|state| state.away = false);
    }

    /// Has no such kind from now on, or has it again.
    pub fn set_absent(&self, kind: &str, absent: bool) {
        self.change(|state| state.set_absent(kind, absent));
    }

    /// Answers to lists of a kind only from when this is taken back.
    pub fn hold(&self, kind: &str, hold: bool) {
        self.change(|state| state.set_held(kind, hold));
    }

    /// Lets the next list of a kind fail.
    pub fn fail_list(&self, kind: &str, fault: ListFault) {
        self.change(|state| state.set_fault(kind, fault));
    }

    /// At most so many objects in an answer, whatever is asked for.
    pub fn set_page(&self, most: usize) {
        self.change(|state| state.most = most);
    }

    /// Paths and queries of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// What clients have told of objects: the events that they wrote.
    pub fn events(&self) -> Vec<Value> {
        self.state().objects("events")
    }

    /// How many watches of a kind are served.
    pub fn watches(&self, kind: &str) -> usize {
        self.state().watches(kind)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.shared.changed.notify_all();
        result
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.change(|state| {
            state.over = true;
            state.cut();
            // Who waits for connections there is told that none will come.
            for listener in &state.listeners {
                let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
            }
        });
    }
}
