//! Where the Kubernetes objects come from. A source hands over whole sets of
//! checked objects, with what is wrong with the others; it never hands over an
//! empty set because it could not read.

pub mod manifests;

use crate::privilege::Exposure;
use std::io;
use std::path::PathBuf;

/// Why a source has no objects to hand over. Problems of single files and
/// objects are not errors: see [`crate::desired::Problem`].
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory is missing, not a directory, or may not be read.
    #[error("read the manifest directory {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Everybody may write to the directory, and so say what Services there are.
    #[error("the manifest directory {} {exposure}", path.display())]
    Exposed {
        /// The directory.
        path: PathBuf,
        /// How.
        exposure: Exposure,
    },
    /// The thread that watches the directory does not start.
    #[error("start the watcher of the manifest directory {}: {source}", path.display())]
    Watch {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
