//! What this process may do: the capabilities that it needs and gives up, the
//! system calls that it keeps, and whom it may trust with its directories.
//!
//! All of it belongs to a thread, and threads inherit it: it is settled before
//! the first one is started.

mod capabilities;
mod exposure;
mod seccomp;

pub use capabilities::{Capability, KEPT, NEEDED, check, shed};
pub use exposure::{Exposure, exposure, is_exposed};
pub use seccomp::confine;

use std::io;

/// Why the process can't have the rights that it should have.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// It has too few.
    #[error(
        "loading and attaching BPF programs needs {missing}, which this process lacks: run it as root, or give it the capabilities of packaging/lb.service"
    )]
    Missing {
        /// Names of capabilities.
        missing: String,
    },
    /// The kernel does not tell or change them.
    #[error("the kernel refused to {operation}: {source}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}
