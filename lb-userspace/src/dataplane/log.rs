//! Messages of the BPF programs, if the object was built with any.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Passes messages of the programs on to this process's log for as long as it
/// lives.
#[derive(Debug)]
pub(super) struct ProgramLog(JoinHandle<()>);

impl ProgramLog {
    /// None without a tokio runtime, and for an object that logs nothing.
    pub(super) fn start(ebpf: &mut Ebpf) -> Option<Self> {
        let runtime = Handle::try_current().ok()?;
        let logger = match EbpfLogger::init(ebpf) {
            Ok(logger) => logger,
            Err(error) => {
                tracing::debug!(%error, "the BPF programs log nothing");
                return None;
            }
        };
        // SAFETY: the logger owns the descriptor of its ring buffer and keeps
        // it until it is dropped.
        let registered = unsafe { AsyncFd::register(logger) };
        let mut logger = match registered {
            Ok(logger) => logger,
            Err(error) => {
                tracing::warn!(%error, "cannot follow the log of the BPF programs");
                return None;
            }
        };
        Some(Self(runtime.spawn(async move {
            while let Ok(mut ready) = logger.readable_mut().await {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        })))
    }
}

impl Drop for ProgramLog {
    fn drop(&mut self) {
        self.0.abort();
    }
}
