//! A directory of manifests as a source of objects: every `.yaml`, `.yml` and
//! `.json` file in it, several documents a file, single objects or lists as
//! kubectl prints them. What did not change is not read again, files nor items
//! of large ones, and bad ones keep what they had in force. Nothing is written
//! and nothing blocks.

mod cut;
mod document;
mod file;
mod form;
mod mapped;
mod merge;
mod news;
mod object;
mod piece;
mod pieces;
mod scan;
mod skim;
#[cfg(test)]
mod tests;
mod touched;
mod watch;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

pub(crate) use self::document::parse;
use self::file::FileState;
use self::merge::FileUpdate;
pub use self::object::Ignored;
pub(crate) use self::object::field_path;
use self::touched::{Shared, Touched};
use super::{Lost, Snapshot, SourceError};
use crate::desired::Problem;
use crate::model::{Changes, Objects};
use crate::privilege::exposure;

/// A file that is gone gets this long to come back before its objects go: a
/// listing that races with a rename can miss both names.
const GONE_FOR_GOOD: Duration = Duration::from_millis(20);

/// A directory of manifests.
#[derive(Debug)]
pub struct ManifestDir {
    path: PathBuf,
    files: BTreeMap<OsString, FileState>,
    /// What all files hold, each object once.
    objects: Arc<Objects>,
    /// Objects that are there more than once.
    duplicates: Vec<Problem>,
    /// Shared with the watcher: whether a file was being written at the last load.
    busy: Arc<AtomicBool>,
    /// Shared with the watcher: what it saw since the last load.
    touched: Arc<Shared>,
    /// Whether a load has succeeded.
    loaded: bool,
    /// Whether the last one failed, so that anything may have changed since.
    failed: bool,
}

/// What a single text holds, as if it were the only file of a directory.
pub fn read_text(file: &str, text: &str) -> Snapshot {
    let mut dir = ManifestDir::new("");
    let mut state = FileState::new(file.as_ref());
    let update = state.take(text);
    let updates = [(Arc::clone(&state.name), update)];
    dir.files.insert(file.into(), state);
    dir.merge(&updates, true)
}

impl ManifestDir {
    /// A directory; it need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            files: BTreeMap::new(),
            objects: Arc::default(),
            duplicates: Vec::new(),
            busy: Arc::default(),
            touched: Arc::default(),
            loaded: false,
            failed: false,
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many files were there at the last load.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Objects of kinds that are not read.
    pub fn ignored(&self) -> Ignored {
        let mut ignored = Ignored::new();
        self.files.values().for_each(|file| file.add_ignored(&mut ignored));
        ignored
    }

    /// Reads what has changed and returns everything. Blocks for as long as the
    /// disk needs, and some milliseconds more if a file is gone. An error means
    /// that the directory can't be read; what was in force should stay.
    pub fn load(&mut self) -> Result<Snapshot, SourceError> {
        // Before looking: what happens from here on is looked at again.
        self.touched.take();
        self.load_all()
    }

    /// As [`ManifestDir::load`], but that only what the watcher saw is looked at.
    pub fn load_touched(&mut self) -> Result<Snapshot, SourceError> {
        match self.touched.take() {
            Touched::Files(names) if self.loaded && !self.failed => {
                let is_gone = |name| matches!(scan::stamp(&self.path.join(name)), Ok(None));
                if names.iter().any(is_gone) {
                    return self.load_all();
                }
                let (updates, changed) = self.refresh(&names);
                Ok(self.merge(&updates, changed))
            }
            Touched::Files(_) | Touched::Anything => self.load_all(),
        }
    }

    fn load_all(&mut self) -> Result<Snapshot, SourceError> {
        self.failed = true;
        let mut names = self.list()?;
        if self.files.keys().any(|known| names.binary_search(known).is_err()) {
            std::thread::sleep(GONE_FOR_GOOD);
            names = self.list()?;
        }
        let gone = self.files.extract_if(.., |known, _| names.binary_search(known).is_err());
        let mut all: Vec<FileUpdate> = gone.map(|(_, file)| file.into_update()).collect();
        let (updates, changed) = self.refresh(&names);
        let changed = changed || !self.loaded || !all.is_empty();
        all.extend(updates);
        (self.loaded, self.failed) = (true, false);
        Ok(self.merge(&all, changed))
    }

    /// Reads these files where they have changed; whether any has.
    fn refresh<'a>(
        &mut self,
        names: impl IntoIterator<Item = &'a OsString>,
    ) -> (Vec<FileUpdate>, bool) {
        let mut updates = Vec::new();
        let mut changed = false;
        let now = SystemTime::now();
        for name in names {
            let path = self.path.join(name);
            if !self.files.contains_key(name) {
                self.files.insert(name.clone(), FileState::new(name));
                changed = true;
            }
            let Some(state) = self.files.get_mut(name) else { continue };
            let update = state.refresh(&path, now);
            if update.changed {
                changed = true;
                updates.push((Arc::clone(&state.name), update));
            }
        }
        let busy = self.files.values().any(|file| file.busy);
        self.busy.store(busy, Ordering::Relaxed);
        (updates, changed)
    }

    /// Brings the objects of all files together again.
    fn merge(&mut self, updates: &[FileUpdate], differs: bool) -> Snapshot {
        let simple = self.duplicates.is_empty() && merge::is_simple(&self.objects, updates);
        let changes = if simple {
            merge::update(Arc::make_mut(&mut self.objects), updates)
        } else {
            let (objects, duplicates) = merge::merge(self.files.values());
            let changes = Changes::between(&self.objects, &objects);
            (self.objects, self.duplicates) = (Arc::new(objects), duplicates);
            changes
        };
        let mut lost = Lost::default();
        self.files.values().for_each(|file| file.add_lost(&mut lost));
        Snapshot {
            objects: Arc::clone(&self.objects),
            changes,
            problems: self.problems(),
            lost,
            changed: differs,
            ..Snapshot::default()
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let mut duplicates = self.duplicates.iter().peekable();
        let mut problems = Vec::new();
        for file in self.files.values() {
            problems.extend(file.problems());
            while let Some(problem) = duplicates.next_if(|problem| *problem.file == *file.name) {
                problems.push(problem.clone());
            }
        }
        problems
    }

    /// Starts to watch, and returns the channel that gets a message soon after
    /// something changed, also if the directory is removed, made again, or does
    /// not exist yet. Messages that nobody has taken yet are merged into one. The
    /// watch ends when the receiver is dropped.
    pub fn watch(&self) -> Result<mpsc::Receiver<()>, SourceError> {
        watch::start(self.path.clone(), Arc::clone(&self.busy), Arc::clone(&self.touched))
            .map_err(|source| SourceError::Watch { path: self.path.clone(), source })
    }

    fn list(&self) -> Result<Vec<OsString>, SourceError> {
        let fail = |source| SourceError::Directory { path: self.path.clone(), source };
        if let Some(exposure) = exposure(&self.path).map_err(fail)? {
            return Err(SourceError::Exposed { path: self.path.clone(), exposure });
        }
        scan::list(&self.path).map_err(fail)
    }
}
