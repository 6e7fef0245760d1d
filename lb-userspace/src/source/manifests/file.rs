//! What is known of one file: the objects that it has in force, and what is
//! wrong with it. A file that goes bad keeps what it had; so does an object.

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::cut::Print;
use super::document;
use super::form::Form;
use super::object::{self, AnyObject, Ignored};
use super::piece::Piece;
use super::pieces::{Pieces, Reading};
use super::scan::{self, ReadError, Stamp};
use crate::desired::{Problem, Severity};
use crate::source::Lost;

/// How long a file must have been left alone before its time stamps are proof
/// that it has not changed: two writes in one tick of the clock look alike.
const SETTLED: Duration = Duration::from_secs(2);

/// A writer that has not written for so long only keeps the file open.
const WRITER_GONE: Duration = Duration::from_secs(1);

/// The state of a file.
#[derive(Debug)]
pub(super) struct FileState {
    /// The name, as messages show it.
    pub(super) name: Arc<str>,
    pieces: Pieces,
    /// Why the file as a whole can't be read.
    broken: Option<Problem>,
    /// Whether somebody was writing it when it was last looked at.
    pub(super) busy: bool,
    /// The state that `pieces` stand for, once it can be trusted.
    stamp: Option<Stamp>,
    /// The text that was last read as a whole.
    text: Option<Print>,
}

/// What is different in a file.
#[derive(Debug, Default)]
pub(super) struct Update {
    /// Whether anything is, if only what is said of it.
    pub(super) changed: bool,
    /// Objects that the file had, of the pieces that are gone.
    pub(super) old: Vec<AnyObject>,
    /// Objects that it has, of the pieces that are new.
    pub(super) new: Vec<AnyObject>,
}

impl FileState {
    pub(super) fn new(name: &OsStr) -> Self {
        Self {
            name: name.to_string_lossy().into(),
            pieces: Pieces::default(),
            broken: None,
            busy: false,
            stamp: None,
            text: None,
        }
    }

    /// Every object in force.
    pub(super) fn objects(&self) -> impl Iterator<Item = &AnyObject> {
        self.own().chain(self.kept())
    }

    /// Those that its text gives.
    pub(super) fn own(&self) -> impl Iterator<Item = &AnyObject> {
        self.pieces.own()
    }

    /// Those that it gave, while something in it has no name.
    pub(super) fn kept(&self) -> &[AnyObject] {
        self.pieces.kept()
    }

    /// Its pieces.
    #[cfg(test)]
    pub(super) const fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// What is wrong with it.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let pieces = self.broken.is_none().then_some(&self.pieces);
        let notes = pieces.into_iter().flat_map(Pieces::iter).filter_map(Piece::notes);
        let known = self.broken.iter().chain(notes.flat_map(|notes| &notes.problems)).cloned();
        let kept = pieces.into_iter().flat_map(Pieces::kept);
        known.chain(kept.map(|object| self.keeps(object)))
    }

    fn keeps(&self, object: &AnyObject) -> Problem {
        Problem {
            severity: Severity::Warning,
            file: self.name.to_string(),
            object: Some(format!("{} {}", object.kind().name(), object.name())),
            field: None,
            message: "is not in the file any more, but may be what has no name there; its last \
                      good state stays in force"
                .to_owned(),
        }
    }

    /// Adds the objects of kinds that are not read.
    pub(super) fn add_ignored(&self, ignored: &mut Ignored) {
        let notes = self.pieces.iter().filter_map(Piece::notes);
        for (kind, count) in notes.flat_map(|notes| &notes.ignored) {
            *ignored.entry(kind.clone()).or_default() += count;
        }
    }

    /// Adds what in it can't be read and has no last good state.
    pub(super) fn add_lost(&self, lost: &mut Lost) {
        self.pieces.iter().filter_map(Piece::notes).for_each(|notes| lost.extend(&notes.lost));
        let unknown = self.broken.is_some() && self.objects().next().is_none();
        if unknown || self.pieces.has_strange() {
            lost.file();
        }
    }

    /// What is different when the file is gone.
    pub(super) fn into_update(self) -> (Arc<str>, Update) {
        let old = self.objects().cloned().collect();
        (self.name, Update { changed: true, old, new: Vec::new() })
    }

    /// Reads the file again if it may have changed.
    pub(super) fn refresh(&mut self, path: &Path, now: SystemTime) -> Update {
        if self.stamp.is_some() && scan::stamp(path).is_ok_and(|stamp| stamp == self.stamp) {
            return Update::default();
        }
        self.stamp = None;
        self.busy = false;
        let opened = match scan::open(path, true) {
            Err(ReadError::Busy) => {
                self.busy = true;
                // What a file does not hold can't be lost, so its first state may
                // be half written: it will be read again when the writer is done.
                if self.objects().next().is_some() && !writer_gone(path, now) {
                    return Update::default();
                }
                scan::open(path, false)
            }
            other => other,
        };
        let settled = |stamp: &Stamp| stamp.age(now).is_some_and(|age| age > SETTLED);
        let update = opened.and_then(|(stamp, file)| {
            let update = self.read(&file)?;
            self.stamp = Some(stamp).filter(|stamp| !self.busy && settled(stamp));
            Ok(update)
        });
        update.unwrap_or_else(|error| {
            self.text = None;
            self.keep_all(&error.to_string())
        })
    }

    fn read(&mut self, file: &File) -> Result<Update, ReadError> {
        // Half of what somebody is writing looks like anything.
        if !self.busy
            && let Some(reading) = self.pieces.read_file(file)?
        {
            return Ok(self.replace(reading));
        }
        Ok(self.take(&scan::read(file)?))
    }

    /// Takes over a new text.
    pub(super) fn take(&mut self, text: &str) -> Update {
        let json_only = self.name.ends_with(".json");
        if let Some(reading) = self.pieces.read_text(text, json_only) {
            self.text = None;
            return self.replace(reading);
        }
        let print = Print::of(text.as_bytes(), Form::File);
        if self.text == Some(print) {
            return Update::default();
        }
        self.text = Some(print);
        match document::parse(text, json_only).map(object::decode) {
            Ok(decoded) => self.replace(Reading::whole(print, decoded)),
            Err(error) => self.keep_all(&error.to_string()),
        }
    }

    fn replace(&mut self, reading: Reading) -> Update {
        let was_broken = self.broken.take().is_some();
        match self.pieces.replace(&self.name, reading) {
            Some([old, new]) => Update { changed: true, old, new },
            None => Update { changed: was_broken, ..Update::default() },
        }
    }

    /// The file as a whole is bad; whether that is news.
    fn keep_all(&mut self, reason: &str) -> Update {
        let kept = match self.objects().count() {
            0 => String::new(),
            1 => "; the object that it held stays in force".to_owned(),
            count => format!("; the {count} objects that it held stay in force"),
        };
        let problem = Problem {
            severity: Severity::Error,
            file: self.name.to_string(),
            object: None,
            field: None,
            message: format!("{reason}{kept}"),
        };
        let changed = self.broken.as_ref() != Some(&problem);
        self.broken = Some(problem);
        Update { changed, ..Update::default() }
    }
}

/// An empty file is one whose writer is about to begin.
fn writer_gone(path: &Path, now: SystemTime) -> bool {
    match scan::stamp(path) {
        Ok(Some(stamp)) => !stamp.is_empty() && stamp.age(now).is_some_and(|age| age > WRITER_GONE),
        Ok(None) | Err(_) => false,
    }
}
