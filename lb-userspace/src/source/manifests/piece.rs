//! What one piece of a file became: objects in force, and what is wrong. It
//! stays so for as long as the piece's text does.

use std::collections::HashMap;

use super::cut::Print;
use super::object::{AnyObject, DecodedFile, Ignored, ObjectId};
use crate::desired::{Problem, Severity};
use crate::source::Lost;

/// A piece, or the whole of a file that is not in pieces.
#[derive(Debug)]
pub(super) struct Piece {
    print: Print,
    /// Which of the pieces it is, if what is said of it depends on that.
    place: Option<usize>,
    /// Objects in force.
    pub(super) objects: Box<[AnyObject]>,
    /// What few pieces have.
    notes: Option<Box<Notes>>,
}

/// What is to be said of a piece.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Notes {
    /// What is wrong with it.
    pub(super) problems: Vec<Problem>,
    /// Objects of other kinds.
    pub(super) ignored: Ignored,
    /// What can't be read and has no last good state.
    pub(super) lost: Lost,
    /// How many things are refused that have no name.
    pub(super) nameless: usize,
}

/// Objects that are no longer what their file says, by kind and name.
pub(super) type LastGood = HashMap<ObjectId, AnyObject>;

impl Piece {
    /// A piece of a file. An object that is refused takes its last good state
    /// out of `last_good`.
    pub(super) fn new(
        file: &str,
        (print, index): (Print, usize),
        decoded: DecodedFile,
        last_good: &mut LastGood,
    ) -> Self {
        let place = decoded.is_placed().then_some(index);
        let nameless = decoded.objects.iter().filter(|one| one.id.is_none()).count();
        let mut notes = Notes { ignored: decoded.ignored, nameless, ..Notes::default() };
        let mut objects = Vec::with_capacity(decoded.objects.len());
        for decoded in decoded.objects {
            let mut kept = "";
            if let Some(id) = decoded.id {
                let object = decoded.object.or_else(|| {
                    let object = last_good.remove(&id)?;
                    kept = "; its last good state stays in force";
                    Some(object)
                });
                match object {
                    Some(object) => objects.push(object),
                    None => notes.lost.object(id.0, id.1),
                }
            }
            for finding in decoded.findings {
                let suffix = if finding.severity == Severity::Error { kept } else { "" };
                notes.problems.push(Problem {
                    severity: finding.severity,
                    file: file.to_owned(),
                    object: decoded.label.clone(),
                    field: (!finding.field.is_empty()).then_some(finding.field),
                    message: finding.message + suffix,
                });
            }
        }
        let notes = (notes != Notes::default()).then(|| Box::new(notes));
        Self { print, place, objects: objects.into(), notes }
    }

    /// How many things in it are refused that have no name.
    pub(super) fn nameless(&self) -> usize {
        self.notes().map_or(0, |notes| notes.nameless)
    }

    /// What is to be said of it, if anything.
    pub(super) fn notes(&self) -> Option<&Notes> {
        self.notes.as_deref()
    }

    /// What its text has in common with its equals.
    pub(super) const fn print(&self) -> Print {
        self.print
    }

    /// Whether the same text at this place becomes the same piece.
    pub(super) fn may_be_at(&self, index: usize) -> bool {
        self.place.is_none_or(|place| place == index)
    }
}
