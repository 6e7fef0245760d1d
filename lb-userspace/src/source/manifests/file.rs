//! What is known of one file: the objects that it has in force, and what is
//! wrong with it. A file that goes bad keeps what it had; so does an object.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::document::{self, ParseError};
use super::dump::Dump;
use super::lost::Lost;
use super::object::{self, AnyObject, Decoded, DecodedFile};
use super::scan::{self, ReadError, Stamp};
use crate::desired::{Problem, Severity};
use crate::model::{Kind, ObjectName};

/// How long a file must have been left alone before its time stamps are proof
/// that it has not changed: two writes in one tick of the clock look alike.
const SETTLED: Duration = Duration::from_secs(2);

/// A writer that has not written for so long only keeps the file open.
const WRITER_GONE: Duration = Duration::from_secs(1);

/// An object that a file has in force.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) name: ObjectName,
    pub(super) object: AnyObject,
}

/// The state of a file.
#[derive(Debug)]
pub(super) struct FileState {
    /// The name, as messages show it.
    pub(super) name: Arc<str>,
    pub(super) entries: Vec<Entry>,
    pub(super) problems: Vec<Problem>,
    /// Objects of other kinds.
    pub(super) ignored: usize,
    /// What in it can't be read and has no last good state.
    pub(super) lost: Lost,
    /// The state that `entries` stand for, once it can be trusted.
    stamp: Option<Stamp>,
    /// Hash of the text that `entries` stand for.
    text: Option<u64>,
    /// Items of the file if it is a large dump.
    dump: Dump,
}

/// What [`FileState::refresh`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refreshed {
    /// Whether anything is different now.
    pub(super) changed: bool,
    /// Whether somebody is writing, so that it should be looked at again soon.
    pub(super) busy: bool,
}

impl FileState {
    pub(super) fn new(name: &OsStr) -> Self {
        Self {
            name: name.to_string_lossy().into(),
            entries: Vec::new(),
            problems: Vec::new(),
            ignored: 0,
            lost: Lost::default(),
            stamp: None,
            text: None,
            dump: Dump::default(),
        }
    }

    /// Reads the file again if it may have changed.
    pub(super) fn refresh(&mut self, path: &Path, now: SystemTime) -> Refreshed {
        if self.stamp.is_some() && scan::stamp(path).is_ok_and(|stamp| stamp == self.stamp) {
            return Refreshed::default();
        }
        self.stamp = None;
        let mut busy = false;
        let read = match scan::read(path, true) {
            Err(ReadError::Busy) => {
                busy = true;
                // What a file does not hold can't be lost, so its first state may
                // be half written: it will be read again when the writer is done.
                if !self.entries.is_empty() && !writer_gone(path, now) {
                    return Refreshed { changed: false, busy };
                }
                scan::read(path, false)
            }
            other => other,
        };
        let changed = match read {
            Ok((stamp, text)) => {
                if !busy && stamp.age(now).is_some_and(|age| age > SETTLED) {
                    self.stamp = Some(stamp);
                }
                self.take(&text)
            }
            Err(error) => {
                self.text = None;
                self.keep_all(&error.to_string())
            }
        };
        Refreshed { changed, busy }
    }

    /// Takes over a new text; whether anything is different.
    pub(super) fn take(&mut self, text: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if self.text == Some(hash) {
            return false;
        }
        self.text = Some(hash);
        let decoded = match self.decode(text) {
            Ok(decoded) => decoded,
            Err(error) => return self.keep_all(&error.to_string()),
        };
        let mut old: HashMap<_, _> = std::mem::take(&mut self.entries)
            .into_iter()
            .map(|entry| ((entry.kind, entry.name), entry.object))
            .collect();
        self.problems.clear();
        self.ignored = decoded.ignored;
        self.lost = Lost::default();
        for decoded in decoded.objects {
            self.add(decoded, &mut old);
        }
        true
    }

    fn decode(&mut self, text: &str) -> Result<DecodedFile, ParseError> {
        let json_only = self.name.ends_with(".json");
        if !json_only && let Some(decoded) = self.dump.decode(text) {
            return Ok(decoded);
        }
        document::parse(text, json_only).map(object::decode)
    }

    fn add(&mut self, decoded: Decoded, old: &mut HashMap<(Kind, ObjectName), AnyObject>) {
        let mut kept = "";
        if let Some(id) = decoded.id {
            let object = decoded.object.or_else(|| {
                let last_good = old.remove(&id)?;
                kept = "; its last good state stays in force";
                Some(last_good)
            });
            match object {
                Some(object) => self.entries.push(Entry { kind: id.0, name: id.1, object }),
                None => self.lost.object(id.0, id.1),
            }
        }
        for finding in decoded.findings {
            let suffix = if finding.severity == Severity::Error { kept } else { "" };
            self.problems.push(Problem {
                severity: finding.severity,
                file: self.name.to_string(),
                object: decoded.label.clone(),
                field: (!finding.field.is_empty()).then_some(finding.field),
                message: finding.message + suffix,
            });
        }
    }

    /// The file as a whole is bad; whether that is news.
    fn keep_all(&mut self, reason: &str) -> bool {
        if self.entries.is_empty() {
            self.lost.file();
        }
        let kept = match self.entries.len() {
            0 => String::new(),
            1 => "; the object that it held stays in force".to_owned(),
            count => format!("; the {count} objects that it held stay in force"),
        };
        let problems = vec![Problem {
            severity: Severity::Error,
            file: self.name.to_string(),
            object: None,
            field: None,
            message: format!("{reason}{kept}"),
        }];
        let news = self.problems != problems;
        self.problems = problems;
        news
    }
}

/// An empty file is one whose writer is about to begin.
fn writer_gone(path: &Path, now: SystemTime) -> bool {
    match scan::stamp(path) {
        Ok(Some(stamp)) => !stamp.is_empty() && stamp.age(now).is_some_and(|age| age > WRITER_GONE),
        Ok(None) | Err(_) => false,
    }
}
