//! Large files piece by piece: a piece whose text is as it was is not parsed
//! again, nor even looked at line by line.
//!
//! Pieces are the items of a list as kubectl prints it, in YAML or JSON, or the
//! documents of a YAML stream. Only what certainly has the same meaning in
//! pieces is cut. All else is parsed as a whole, and so is a file with a piece
//! that is not good by itself, which also gives errors their right place.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _};

use serde_json::Value;

use super::document;
use super::form::{Form, Layout};
use super::object::{self, DecodedFile};

/// Files with fewer pieces are parsed fast enough as a whole.
const MIN_PIECES: usize = 32;
/// How many pieces that are gone are passed over without looking for the others.
const WINDOW: usize = 3;

/// A text in pieces.
#[derive(Debug)]
pub(super) struct Cut<'a> {
    pub(super) layout: Layout,
    /// What is before and behind the pieces.
    pub(super) frame: [&'a str; 2],
    /// How many pieces of the file are not among these, but before them.
    pub(super) skipped: usize,
    /// The pieces, in order.
    pub(super) pieces: Vec<Part<'a>>,
}

/// One piece.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    /// Its text.
    pub(super) text: &'a str,
    /// What it has in common with its equals.
    pub(super) print: Print,
    /// Which of the known pieces it is.
    pub(super) known: Option<usize>,
}

/// What tells texts from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Print {
    len: usize,
    hash: u64,
}

impl Print {
    /// That of a text that is to be read in a form. Who writes manifests could
    /// make two alike on purpose, and would only keep the own change from being
    /// seen.
    pub(super) fn of(text: &[u8], form: Form) -> Self {
        let mut hasher = foldhash::quality::FixedState::with_seed(form as u64).build_hasher();
        hasher.write(text);
        Self { len: text.len(), hash: hasher.finish() }
    }

    /// Length of the text.
    pub(super) const fn len(self) -> usize {
        self.len
    }
}

impl<'a> Cut<'a> {
    /// Cuts a text, if that is certain not to change its meaning. Pieces of it
    /// that are `known` are recognised; each of those is used once.
    pub(super) fn of(text: &'a str, json_only: bool, known: &[Print]) -> Option<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (layout, first) = Layout::of(text, json_only)?;
        Self::by(&layout, text, first, known).filter(|cut| cut.pieces.len() >= MIN_PIECES)
    }

    /// Cuts a text of a layout whose first piece is known to begin at `first`.
    pub(super) fn by(
        layout: &Layout,
        text: &'a str,
        first: usize,
        known: &[Print],
    ) -> Option<Self> {
        let mut pieces = Vec::with_capacity(known.len());
        let mut known = Known { prints: known, next: 0, index: None };
        let mut start = first;
        loop {
            let part = if let Some(part) = known.at(text, start, layout) {
                part
            } else {
                let text = &text[start..layout.end(text, start)?];
                let print = Print::of(text.as_bytes(), layout.form);
                Part { text, print, known: known.find(print) }
            };
            let end = start + part.text.len();
            pieces.push(part);
            let Some(next) = layout.next(text, end) else {
                let (layout, frame) = (layout.clone(), [&text[..first], &text[end..]]);
                return layout.is_whole(frame).then_some(Self {
                    layout,
                    frame,
                    skipped: 0,
                    pieces,
                });
            };
            start = next;
        }
    }

    /// Parses one piece; none if it is not good by itself.
    pub(super) fn decode(&self, index: usize) -> Option<DecodedFile> {
        let text = self.pieces.get(index)?.text;
        let mut values = match self.layout.form {
            Form::YamlItem => match document::parse_part(text).ok()?.as_mut_slice() {
                [Value::Array(items)] => std::mem::take(items),
                _ => return None,
            },
            Form::JsonItem => document::parse(text, true).ok()?,
            Form::Document => document::parse_part(text).ok()?,
            Form::File => return None,
        };
        let value = values.pop();
        if !values.is_empty() {
            return None;
        }
        let Some(value) = value else {
            return (self.layout.form == Form::Document).then(DecodedFile::default);
        };
        let decoded = object::decode_part(value, format!("items[{}]", self.skipped + index));
        // Documents without content do not count, so that this one's number is
        // not known here.
        (self.layout.form != Form::Document || !decoded.is_placed()).then_some(decoded)
    }
}

/// The pieces of the last text, in the order in which they are expected.
struct Known<'a> {
    prints: &'a [Print],
    next: usize,
    /// Places by print, once it was needed; later ones of equals come first.
    index: Option<HashMap<Print, Vec<usize>>>,
}

impl Known<'_> {
    /// The piece that begins at `start`, if it is one of the next. A text that
    /// was a piece before has a beginning and no end within; what is left to
    /// check is that it ends here too.
    fn at<'a>(&mut self, text: &'a str, start: usize, layout: &Layout) -> Option<Part<'a>> {
        let candidates = (self.next..self.prints.len()).take(WINDOW);
        let is = |index: usize| {
            let print = self.prints[index];
            let piece = text.get(start..start.checked_add(print.len)?)?;
            let same = layout.is_end(text, start + print.len)
                && Print::of(piece.as_bytes(), layout.form) == print;
            same.then_some(Part { text: piece, print, known: Some(index) })
        };
        let part = candidates.into_iter().find_map(is)?;
        let index = part.known?;
        // What was passed over may be elsewhere.
        self.next = index + 1;
        self.take(index).then_some(part)
    }

    /// Looks for a piece anywhere.
    fn find(&mut self, print: Print) -> Option<usize> {
        let (prints, next) = (self.prints, self.next);
        let index = self.index.get_or_insert_with(|| {
            let mut index: HashMap<Print, Vec<usize>> = HashMap::new();
            // Those before were taken, or passed over.
            for (place, print) in prints.iter().enumerate().skip(next).rev() {
                index.entry(*print).or_default().push(place);
            }
            index
        });
        let found = index.get_mut(&print)?.pop()?;
        self.next = found + 1;
        Some(found)
    }

    /// Whether a piece was still to be had.
    fn take(&mut self, place: usize) -> bool {
        let Some(index) = &mut self.index else { return true };
        let places = index.get_mut(&self.prints[place]);
        places.is_some_and(|places| {
            let found = places.iter().position(|known| *known == place);
            found.map(|found| places.remove(found)).is_some()
        })
    }
}
