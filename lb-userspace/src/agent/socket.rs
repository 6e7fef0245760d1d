//! The agent's socket: whoever asks in one line, `status` or `verify`, gets the
//! answer as JSON.

use super::server::Connections;
use super::status::{AgentStatus, SharedStatus};
use super::verify::Verifier;
use crate::drift::Verification;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::de::DeserializeOwned;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Conversations at the same time: far more than people who look.
const MOST: usize = 64;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it may take to look at everything.
const VERIFY_PATIENCE: Duration = Duration::from_secs(20);

/// What can go wrong with the socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error(
        "an agent already answers on {}: stop it, replace it with --takeover, or give this one its own --pin-dir or --socket",
        .path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{} exists and is not a socket: name another with --socket", .path.display())]
    NotASocket {
        /// The socket.
        path: PathBuf,
    },
    /// It can't be made.
    #[error("the status socket {} can't be made: {source}", .path.display())]
    Make {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no agent answers on {}", .path.display())]
    NoAgent {
        /// The socket.
        path: PathBuf,
    },
    /// The conversation broke off.
    #[error("asking the agent on {} failed: {source}", .path.display())]
    Ask {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer makes no sense.
    #[error("the agent on {} is of another version: its answer can't be read", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// The socket file; removed when dropped.
#[derive(Debug)]
pub(super) struct StatusSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl StatusSocket {
    /// Makes the socket, for root only. One that a dead agent left is replaced.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        let make = |source| SocketError::Make { path: path.to_path_buf(), source };
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(make)?;
        }
        match fs::symlink_metadata(path) {
            Ok(meta) if !meta.file_type().is_socket() => {
                return Err(SocketError::NotASocket { path: path.to_path_buf() });
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(SocketError::InUse { path: path.to_path_buf() });
            }
            Ok(_) => fs::remove_file(path).map_err(make)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(make(error)),
        }
        let listener = UnixListener::bind(path).map_err(make)?;
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(make)?;
        Ok(Self { path: path.to_path_buf(), listener })
    }

    /// Makes the socket under another name in the same directory, for
    /// [`StatusSocket::install`] when nobody answers on this one any more.
    pub(super) fn bind_beside(path: &Path) -> Result<Self, SocketError> {
        let mut beside = path.as_os_str().to_os_string();
        beside.push(format!(".{}", std::process::id()));
        Self::bind(Path::new(&beside))
    }

    /// Gives the socket its name, whatever has it.
    pub(super) fn install(mut self, path: &Path) -> Result<Self, SocketError> {
        let make = |source| SocketError::Make { path: path.to_path_buf(), source };
        fs::rename(&self.path, path).map_err(make)?;
        self.path = path.to_path_buf();
        Ok(self)
    }

    /// Answers for ever; conversations end with this future.
    pub(super) async fn serve(self, status: Arc<SharedStatus>, verifier: Verifier) {
        let connections = Connections::new(MOST);
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (status, verifier) = (Arc::clone(&status), verifier.clone());
                        connections.admit(&mut tasks, |place| async move {
                            let _place = place;
                            if answer(stream, &status, &verifier).await.is_err() {
                                tracing::debug!("a client of the status socket left early");
                            }
                        });
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: do not spin.
                        tracing::warn!("the status socket can't accept: {error}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// Longest line that means anything.
const REQUEST: u64 = 16;
const STATUS: &str = "status";
const VERIFY: &str = "verify";

/// One question and its answer. Nothing is a question about the status.
pub(super) async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    status: &SharedStatus,
    verifier: &Verifier,
) -> io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(&mut stream).take(REQUEST);
    timeout(PATIENCE, reader.read_line(&mut request)).await??;
    let answer = match request.trim() {
        "" | STATUS => serde_json::to_vec(&status.get()),
        VERIFY => serde_json::to_vec(&verifier.verify().await),
        _ => return Err(ErrorKind::InvalidInput.into()),
    };
    timeout(PATIENCE, stream.write_all(&answer.unwrap_or_default())).await?
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!("{} can't be removed: {error}", self.path.display());
        }
    }
}

/// Removes a socket on which nobody answers.
pub(crate) fn remove_stale_socket(path: &Path) {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() && fs::remove_file(path).is_err() {
        tracing::debug!("{} can't be removed", path.display());
    }
}

/// The process that listens on a socket, as the kernel knows it, and what it
/// answers.
pub(super) fn listener_of(path: &Path) -> (Option<u32>, Vec<u8>) {
    let Ok(mut stream) = UnixStream::connect(path) else { return (None, Vec::new()) };
    let owner = getsockopt(&stream, PeerCredentials).ok();
    let mut answer = Vec::new();
    // Nothing is asked for, which means the status, of any release.
    let asked = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    if let Err(error) = asked.and_then(|()| stream.read_to_end(&mut answer)) {
        tracing::debug!("who listens on {} does not answer: {error}", path.display());
    }
    (owner.and_then(|owner| owner.pid().try_into().ok()), answer)
}

/// Asks the agent for its status.
pub fn ask(path: &Path) -> Result<AgentStatus, SocketError> {
    request(path, STATUS, PATIENCE)
}

/// Asks the agent whether the kernel holds what it should.
pub fn ask_to_verify(path: &Path) -> Result<Result<Verification, String>, SocketError> {
    request(path, VERIFY, VERIFY_PATIENCE)
}

fn request<T: DeserializeOwned>(
    path: &Path,
    what: &str,
    patience: Duration,
) -> Result<T, SocketError> {
    let absent = [ErrorKind::NotFound, ErrorKind::ConnectionRefused, ErrorKind::NotADirectory];
    let failed = |source: io::Error| {
        let path = path.to_path_buf();
        if absent.contains(&source.kind()) {
            SocketError::NoAgent { path }
        } else {
            SocketError::Ask { path, source }
        }
    };
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    writeln!(stream, "{what}").map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;
    serde_json::from_slice(&answer)
        .map_err(|source| SocketError::Answer { path: path.to_path_buf(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("run/lb.sock");
        assert!(matches!(ask(&path), Err(SocketError::NoAgent { .. })));
        // Dropping a plain listener leaves the file, as a killed agent does.
        fs::create_dir(home.path().join("run")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(ask(&path), Err(SocketError::NoAgent { .. })));

        remove_stale_socket(&path);
        assert!(!path.exists());
        let socket = StatusSocket::bind(&path).unwrap();
        remove_stale_socket(&path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(StatusSocket::bind(&path), Err(SocketError::InUse { .. })));
        let stale = home.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(StatusSocket::bind(&stale).is_ok());

        let status = Arc::new(SharedStatus::default());
        status.update(|status| status.warnings.push("careful".to_owned()));
        let server = tokio::spawn(socket.serve(Arc::clone(&status), Verifier::new().0));
        let asked = path.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&asked)).await.unwrap().unwrap();
        assert_eq!(answer, status.get());
        let asked = path.clone();
        let (owner, told) = tokio::task::spawn_blocking(move || listener_of(&asked)).await.unwrap();
        assert_eq!(owner, Some(std::process::id()));
        assert_eq!(serde_json::from_slice::<AgentStatus>(&told).unwrap(), status.get());
        server.abort();
        assert!(server.await.unwrap_err().is_cancelled());
        assert!(!path.exists());
        assert_eq!(listener_of(&path), (None, Vec::new()));
    }

    #[tokio::test]
    async fn a_socket_that_was_made_beside_takes_the_name() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("lb.sock");
        let old = StatusSocket::bind(&path).unwrap();
        let beside = StatusSocket::bind_beside(&path).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2);
        drop(old);
        let new = beside.install(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(new);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
        // One that is given up takes its file along.
        drop(StatusSocket::bind_beside(&path).unwrap());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(StatusSocket::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }
}
