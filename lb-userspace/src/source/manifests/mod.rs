//! A directory of manifests as a source of objects: every `.yaml`, `.yml` and
//! `.json` file in it, several documents a file, single objects or lists as
//! kubectl prints them. Files that did not change are not read again, and bad
//! ones keep what they had in force. Nothing is written and nothing blocks.

mod document;
mod dump;
mod file;
mod lost;
mod merge;
mod object;
mod scan;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use self::file::FileState;
pub use self::lost::Lost;
use super::SourceError;
use crate::desired::Problem;
use crate::model::Objects;

/// A file that is gone gets this long to come back before its objects go: a
/// listing that races with a rename can miss both names.
const GONE_FOR_GOOD: Duration = Duration::from_millis(20);

/// A directory of manifests.
#[derive(Debug)]
pub struct ManifestDir {
    path: PathBuf,
    files: BTreeMap<OsString, FileState>,
    /// Shared with the watcher: whether a file was being written at the last load.
    busy: Arc<AtomicBool>,
    /// Whether a load has succeeded.
    loaded: bool,
}

/// All that the directory says, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Objects in force.
    pub objects: Objects,
    /// What is wrong with files and objects, in the order of the files.
    pub problems: Vec<Problem>,
    /// Number of files.
    pub files: usize,
    /// Number of objects of kinds that are not read.
    pub ignored: usize,
    /// What can't be read and has no last good state either.
    pub lost: Lost,
    /// Whether anything differs from the last successful load.
    pub changed: bool,
}

/// What a single text holds, as if it were the only file of a directory.
pub fn read_text(file: &str, text: &str) -> Snapshot {
    let mut state = FileState::new(file.as_ref());
    state.take(text);
    let (objects, problems) = merge::merge(std::iter::once(&state));
    let FileState { ignored, lost, .. } = state;
    Snapshot { objects, problems, files: 1, ignored, lost, changed: true }
}

impl ManifestDir {
    /// A directory; it need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), files: BTreeMap::new(), busy: Arc::default(), loaded: false }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what has changed and returns everything. Blocks for as long as the
    /// disk needs, and some milliseconds more if a file is gone. An error means
    /// that the directory can't be read; what was in force should stay.
    pub fn load(&mut self) -> Result<Snapshot, SourceError> {
        let mut names = self.list()?;
        if self.files.keys().any(|known| names.binary_search(known).is_err()) {
            std::thread::sleep(GONE_FOR_GOOD);
            names = self.list()?;
        }
        let before = self.files.len();
        self.files.retain(|known, _| names.binary_search(known).is_ok());
        let mut changed = !self.loaded || self.files.len() != before;
        let mut busy = false;
        let now = SystemTime::now();
        for name in names {
            let path = self.path.join(&name);
            let new = !self.files.contains_key(&name);
            let state = self.files.entry(name).or_insert_with_key(|name| FileState::new(name));
            let refreshed = state.refresh(&path, now);
            changed |= new || refreshed.changed;
            busy |= refreshed.busy;
        }
        self.busy.store(busy, Ordering::Relaxed);
        self.loaded = true;
        let (objects, problems) = merge::merge(self.files.values());
        let mut lost = Lost::default();
        self.files.values().for_each(|file| lost.extend(&file.lost));
        Ok(Snapshot {
            objects,
            problems,
            files: self.files.len(),
            ignored: self.files.values().map(|file| file.ignored).sum(),
            lost,
            changed,
        })
    }

    /// Starts to watch, and returns the channel that gets a message soon after
    /// something changed, also if the directory is removed, made again, or does
    /// not exist yet. Messages that nobody has taken yet are merged into one. The
    /// watch ends when the receiver is dropped.
    pub fn watch(&self) -> Result<mpsc::Receiver<()>, SourceError> {
        watch::start(self.path.clone(), Arc::clone(&self.busy))
            .map_err(|source| SourceError::Watch { path: self.path.clone(), source })
    }

    fn list(&self) -> Result<Vec<OsString>, SourceError> {
        scan::list(&self.path)
            .map_err(|source| SourceError::Directory { path: self.path.clone(), source })
    }
}
