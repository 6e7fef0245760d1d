//! Where the Kubernetes objects come from. A source hands over whole sets of
//! checked objects, with what is wrong with the others; it never hands over an
//! empty set because it could not read.

mod events;
pub mod kubernetes;
mod lost;
pub mod manifests;
mod tally;

pub use self::events::{Event, Events};
pub use self::lost::Lost;
pub use self::tally::{Seen, Tally, Trigger};

use self::kubernetes::{Kubernetes, KubernetesError, RestMetrics};
use self::manifests::ManifestDir;
use crate::desired::Problem;
use crate::model::{Changes, Objects};
use crate::privilege::Exposure;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::mpsc;

/// All that a source says, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Objects in force.
    pub objects: Arc<Objects>,
    /// What is different from the last successful load.
    pub changes: Changes,
    /// What is wrong with files and objects.
    pub problems: Vec<Problem>,
    /// What can't be read and has no last good state either.
    pub lost: Lost,
    /// What was seen until then.
    pub seen: Seen,
    /// What triggered the changes, as far as that is noted.
    pub triggers: Vec<Trigger>,
    /// Whether anything differs from the last successful load.
    pub changed: bool,
}

/// Which source the agent is told.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A directory of manifests.
    Manifests(PathBuf),
    /// The Kubernetes API.
    Kubernetes(kubernetes::Options),
}

/// How a source is, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// Which kind of source.
    pub kind: &'static str,
    /// The directory, or the URL.
    pub place: String,
    /// Whether it has told once what there is.
    pub complete: bool,
    /// Since when it can't be reached, in seconds since 1970.
    pub no_contact_since: Option<f64>,
    /// Why it can't tell what is new.
    pub complaint: Option<String>,
}

/// A source that is followed.
#[derive(Debug)]
pub enum Source {
    /// A directory of manifests.
    Manifests {
        /// The directory.
        dir: ManifestDir,
        /// Tells when it may have changed.
        changes: mpsc::Receiver<()>,
        /// What was seen.
        tally: Arc<Tally>,
    },
    /// The Kubernetes API.
    Kubernetes(Box<Kubernetes>),
}

impl Source {
    /// Starts to follow it. What can be read at once, is: nothing else should be
    /// touched before that worked.
    pub async fn open(config: &SourceConfig) -> Result<(Self, Option<Snapshot>), SourceError> {
        match config {
            SourceConfig::Manifests(path) => {
                let mut dir = ManifestDir::new(path);
                // Watching begins before reading, so that no change falls in between.
                let changes = dir.watch()?;
                let tally = Arc::default();
                let snapshot = counted(dir.load()?, &tally);
                Ok((Self::Manifests { dir, changes, tally }, Some(snapshot)))
            }
            SourceConfig::Kubernetes(options) => {
                let kubernetes = Kubernetes::follow(options).await?;
                Ok((Self::Kubernetes(Box::new(kubernetes)), None))
            }
        }
    }

    /// Waits until it may have something new to tell; false if it never will.
    /// Cancelling it loses nothing.
    pub async fn changed(&mut self) -> bool {
        match self {
            Self::Manifests { changes, .. } => changes.recv().await.is_some(),
            Self::Kubernetes(kubernetes) => kubernetes.changed().await,
        }
    }

    /// Reads what has changed and returns everything. After an error what is in
    /// force should stay.
    pub fn load(&mut self) -> Result<Snapshot, SourceError> {
        match self {
            Self::Manifests { dir, tally, .. } => Ok(counted(dir.load()?, tally)),
            Self::Kubernetes(kubernetes) => Ok(kubernetes.load()?),
        }
    }

    /// As [`Source::load`], but that only what was told is looked at.
    pub fn load_touched(&mut self) -> Result<Snapshot, SourceError> {
        match self {
            Self::Manifests { dir, tally, .. } => Ok(counted(dir.load_touched()?, tally)),
            Self::Kubernetes(kubernetes) => Ok(kubernetes.load()?),
        }
    }

    /// Waits until it has told what there is.
    pub async fn complete(&mut self) {
        if let Self::Kubernetes(kubernetes) = self {
            kubernetes.complete().await;
        }
    }

    /// What it has seen so far.
    pub fn tally(&self) -> Arc<Tally> {
        match self {
            Self::Manifests { tally, .. } => Arc::clone(tally),
            Self::Kubernetes(kubernetes) => kubernetes.tally(),
        }
    }

    /// Where events about its objects go; nowhere, if they are files.
    pub fn events(&self) -> Events {
        match self {
            Self::Manifests { .. } => Events::default(),
            Self::Kubernetes(kubernetes) => kubernetes.events(),
        }
    }

    /// What its requests are counted in, if it makes any.
    pub fn requests(&self) -> Option<RestMetrics> {
        match self {
            Self::Manifests { .. } => None,
            Self::Kubernetes(kubernetes) => Some(kubernetes.requests()),
        }
    }

    /// How it is.
    pub fn condition(&self) -> Condition {
        match self {
            Self::Manifests { dir, .. } => Condition {
                kind: "manifests",
                place: std::path::absolute(dir.path())
                    .unwrap_or_else(|_| dir.path().to_path_buf())
                    .display()
                    .to_string(),
                complete: true,
                ..Condition::default()
            },
            Self::Kubernetes(kubernetes) => kubernetes.condition(),
        }
    }
}

/// Counts what a directory was found to have changed.
fn counted(mut snapshot: Snapshot, tally: &Tally) -> Snapshot {
    if snapshot.changed {
        tally.add(&snapshot.changes);
        tally.queued();
    }
    snapshot.seen = tally.seen();
    snapshot
}

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
    /// The Kubernetes API can't be asked, or has not told everything yet.
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
}
