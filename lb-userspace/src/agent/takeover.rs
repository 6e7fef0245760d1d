//! `--takeover`: the agent that uses the pin directory is replaced. It is asked
//! to end only when everything that may keep this one from starting has been
//! tried, so that a bad flag or a refused program leaves it at work.

use super::health::Healthz;
use super::pidfd::PidFd;
use super::socket::{StatusSocket, listener_of};
use super::{AgentError, Config};
use crate::cli::ListenAddress;
use crate::dataplane::{DataplaneError, Holder, HookOptions, Hooks, PinDir, Rehearsal};
use crate::netlink::snapshot;
use nix::sys::signal::Signal;
use serde::Deserialize;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long the other agent may take to end. It has nothing to put in order
/// first; what takes longer hangs.
const ASKED: Duration = Duration::from_secs(10);
/// How long it may take once it is killed.
const KILLED: Duration = Duration::from_secs(5);

/// Why the other agent can't be replaced.
#[derive(Debug, Error)]
pub enum TakeoverError {
    /// Its process can't be seen.
    #[error(
        "the agent that uses the pin directory {} can't be seen from here (another PID namespace?): stop it there",
        pin_dir.display()
    )]
    Hidden {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// It may be something else, as `lb cleanup`.
    #[error(
        "process {pid} uses the pin directory {} but is not who answers on {}: name its --socket if it is an agent, or wait if it is not",
        pin_dir.display(), socket.display()
    )]
    NotAnAgent {
        /// The process.
        pid: u32,
        /// The pin directory.
        pin_dir: PathBuf,
        /// Where an agent would answer.
        socket: PathBuf,
    },
    /// It can't be told to end.
    #[error("the agent to replace, process {pid}, can't be {operation}: {source}")]
    Process {
        /// The process.
        pid: u32,
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// It goes on.
    #[error("the agent to replace, process {pid}, did not even end when it was killed")]
    Lasting {
        /// The process.
        pid: u32,
    },
}

/// The agent that is to be replaced.
#[derive(Debug)]
pub(super) struct Incumbent {
    pid: u32,
    process: PidFd,
    listens: Vec<SocketAddr>,
}

/// What of another version's status matters here.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    agent: Addresses,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Addresses {
    metrics: Option<String>,
    healthz: Option<String>,
}

impl Incumbent {
    /// Who uses the pin directory, if anybody: by the lock that the kernel
    /// keeps, and only a process that also answers as an agent.
    pub(super) fn find(pin_dir: &Path, socket: &Path) -> Result<Option<Self>, AgentError> {
        let pins = PinDir::new(pin_dir);
        let pid = match pins.holder()? {
            Holder::Nobody => return Ok(None),
            Holder::Process(pid) => pid,
            Holder::Hidden => {
                return Err(TakeoverError::Hidden { pin_dir: pin_dir.into() }.into());
            }
        };
        let fail = |source| TakeoverError::Process { pid, operation: "watched", source };
        let process = PidFd::open(pid).map_err(fail)?;
        // Whoever still has the lock is who was opened: the number was not
        // another's in between.
        if pins.holder()? != Holder::Process(pid) {
            return Err(DataplaneError::InUse { pin_dir: pin_dir.into() }.into());
        }
        let (owner, answer) = listener_of(socket);
        if owner != Some(pid) {
            let (pin_dir, socket) = (pin_dir.into(), socket.into());
            return Err(TakeoverError::NotAnAgent { pid, pin_dir, socket }.into());
        }
        let told: Told = serde_json::from_slice(&answer).unwrap_or_default();
        let listens = [told.agent.metrics, told.agent.healthz];
        let listens = listens.into_iter().flatten().filter_map(|text| text.parse().ok()).collect();
        Ok(Some(Self { pid, process, listens }))
    }

    /// Tries everything that may fail, then ends the other agent, and goes on in
    /// its place.
    pub(super) async fn replace(
        self,
        config: &Config,
        options: &HookOptions,
    ) -> Result<(Hooks, StatusSocket), AgentError> {
        let socket = StatusSocket::bind_beside(&config.socket)?;
        self.check_addresses(config)?;
        let rehearsal = Rehearsal::new(options, &snapshot(&config.network)?)?;
        let begin = Instant::now();
        tracing::info!(
            "everything is ready: asking the agent at work, process {}, to end",
            self.pid
        );
        self.end().await?;
        let hooks = Hooks::take_over(rehearsal)?;
        let socket = socket.install(&config.socket)?;
        tracing::info!("took over from process {} within {:.0?}", self.pid, begin.elapsed());
        Ok((hooks, socket))
    }

    /// Whether addresses that the user named will be free: in use they may be by
    /// the other agent alone.
    fn check_addresses(&self, config: &Config) -> Result<(), AgentError> {
        let its = |source: &io::Error, address: &SocketAddr| {
            source.kind() == ErrorKind::AddrInUse && self.listens.contains(address)
        };
        if let Some(ListenAddress::On(address)) = config.metrics
            && let Err(source) = TcpListener::bind(address)
            && !its(&source, &address)
        {
            return Err(AgentError::Metrics { address, source });
        }
        if let Some(ListenAddress::On(_)) = config.healthz {
            match Healthz::listen(config.healthz) {
                Err(AgentError::Healthz { address, source }) if its(&source, &address) => {}
                Err(error) => return Err(error),
                Ok(_closed_at_once) => {}
            }
        }
        Ok(())
    }

    /// Ends it: as an operator would, then, if it hangs, by force, which costs
    /// nothing that the kernel does not hold.
    async fn end(&self) -> Result<(), TakeoverError> {
        let pid = self.pid;
        let fail = |operation| move |source| TakeoverError::Process { pid, operation, source };
        for (signal, limit) in [(Signal::SIGTERM, ASKED), (Signal::SIGKILL, KILLED)] {
            self.process.signal(signal).map_err(fail("told to end"))?;
            if self.process.ended(limit).await.map_err(fail("waited for"))? {
                return Ok(());
            }
            tracing::warn!("process {pid} has not ended {limit:?} after {signal}");
        }
        Err(TakeoverError::Lasting { pid })
    }
}
