//! Reads of a large file only what differs from last time. The rest is looked at
//! and recognised where it is, in the system's memory, or in small portions, so
//! that no memory is needed for it: to get as much from the system as the file
//! has takes longer than to read it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::cut::{Cut, Print};
use super::form::Layout;
use super::mapped::Mapped;

/// How much is read at once. Stays in the processor's cache.
const PORTION: usize = 256 * 1024;
/// Shorter files are not worth a thread; those of tests are short.
const ALONE: u64 = if cfg!(test) { 8 * 1024 } else { 1024 * 1024 };

/// What a text in pieces has beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outline {
    pub(super) layout: Layout,
    /// What is before the first piece.
    head: String,
    /// What is behind the last one.
    tail: String,
}

/// What differs.
#[derive(Debug)]
pub(super) struct Skimmed {
    /// How many pieces at the beginning are as they were.
    pub(super) front: usize,
    /// How many at the end are.
    pub(super) back: usize,
    /// The list, or stream, of only those in between, if there are any.
    pub(super) middle: Option<String>,
}

impl Outline {
    /// That of a text that was cut; none if there is more to it.
    pub(super) fn of(text: &str, cut: &Cut<'_>) -> Option<Self> {
        let [head, tail] = cut.frame.map(str::to_owned);
        (!text.starts_with('\u{feff}')).then(|| Self { layout: cut.layout.clone(), head, tail })
    }

    /// The pieces of a text that [`Skimmed::middle`] is; none if there is anything
    /// but pieces: what would belong to the tail may have other pieces behind it.
    pub(super) fn cut<'a>(&self, middle: &'a str, known: &[Print]) -> Option<Cut<'a>> {
        self.layout
            .begins(middle, self.head.len())
            .then(|| Cut::by(&self.layout, middle, self.head.len(), known))?
            .filter(|cut| cut.frame[1] == self.tail)
    }

    /// Finds the difference, from both ends at once; none if the file has to be
    /// read as a whole.
    pub(super) fn skim(&self, file: &File, prints: &[Print]) -> io::Result<Option<Skimmed>> {
        let len = file.metadata()?.len();
        let mapped = Mapped::of(file, len);
        let portions = || Portions::new(file, mapped.as_ref(), len);
        let (head, tail) = (self.head.as_bytes(), self.tail.as_bytes());
        let Some(end_of_pieces) = len.checked_sub(tail.len() as u64) else { return Ok(None) };
        let mut ahead = portions();
        if ahead.get(0, head.len(), Toward::End)? != Some(head)
            || portions().get(end_of_pieces, tail.len(), Toward::End)? != Some(tail)
        {
            return Ok(None);
        }
        let seen = Seen::default();
        let from_end = || self.known_at_end(portions(), end_of_pieces, prints, &seen);
        let (front, back) = if len < ALONE {
            (self.known_at_beginning(ahead, prints, &seen), from_end())
        } else {
            thread::scope(|scope| {
                let other = thread::Builder::new().spawn_scoped(scope, from_end);
                let front = self.known_at_beginning(ahead, prints, &seen);
                let back = match other {
                    Ok(other) => other.join().map_err(|_died| io::Error::other("a thread died"))?,
                    Err(_no_thread) => from_end(),
                };
                Ok::<_, io::Error>((front, back))
            })?
        };
        let ((begin, front), (mut end, mut back)) = (front?, back?);
        if begin > end_of_pieces {
            return Ok(None);
        }
        // Each knew the other's place only roughly.
        while front + back > prints.len() || end < begin {
            end += (self.layout.gap().len() + prints[prints.len() - back].len()) as u64;
            back -= 1;
        }
        self.middle(file, [begin, end], [front, back])
    }

    /// How far pieces at the beginning are as they were: where they end, and how
    /// many they are.
    fn known_at_beginning(
        &self,
        mut file: Portions<'_>,
        prints: &[Print],
        seen: &Seen,
    ) -> io::Result<(u64, usize)> {
        let mut begin = self.head.len() as u64;
        let mut front = 0;
        for print in prints {
            let gap = if front == 0 { &[] } else { self.layout.gap() };
            let len = gap.len() + print.len();
            if front + seen.back.load(Ordering::Relaxed) >= prints.len() {
                break;
            }
            let found = file.get(begin, len, Toward::End)?;
            if !found.is_some_and(|bytes| self.is_piece(bytes, gap, *print)) {
                break;
            }
            (begin, front) = (begin + len as u64, front + 1);
            seen.front.store(front, Ordering::Relaxed);
        }
        Ok((begin, front))
    }

    /// How far pieces at the end are as they were: where they begin, and how
    /// many they are.
    fn known_at_end(
        &self,
        mut file: Portions<'_>,
        end_of_pieces: u64,
        prints: &[Print],
        seen: &Seen,
    ) -> io::Result<(u64, usize)> {
        let gap = self.layout.gap();
        let mut end = end_of_pieces;
        let mut back = 0;
        for print in prints.iter().rev() {
            let len = gap.len() + print.len();
            let first = self.head.len() as u64;
            let Some(at) = end.checked_sub(len as u64).filter(|at| *at >= first) else { break };
            if back + seen.front.load(Ordering::Relaxed) >= prints.len() {
                break;
            }
            let found = file.get(at, len, Toward::Beginning)?;
            if !found.is_some_and(|bytes| self.is_piece(bytes, gap, *print)) {
                break;
            }
            (end, back) = (at, back + 1);
            seen.back.store(back, Ordering::Relaxed);
        }
        Ok((end, back))
    }

    fn is_piece(&self, bytes: &[u8], gap: &[u8], print: Print) -> bool {
        let piece = bytes.strip_prefix(gap);
        piece.is_some_and(|piece| Print::of(piece, self.layout.form) == print)
    }

    /// What is between the pieces that are known.
    fn middle(
        &self,
        file: &File,
        [begin, end]: [u64; 2],
        [front, back]: [usize; 2],
    ) -> io::Result<Option<Skimmed>> {
        // With the byte before, which may have to be the end of a line.
        let from = if front == 0 { begin } else { begin - 1 };
        let mut bytes = vec![0; usize::try_from(end - from).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, from)?;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(None) };
        let mut middle = text.as_str();
        if front > 0 {
            let Some((last, rest)) = text.split_at_checked(1) else { return Ok(None) };
            if !self.layout.may_end(last) {
                return Ok(None);
            }
            middle = rest;
        }
        if middle.is_empty() {
            return Ok(Some(Skimmed { front, back, middle: None }));
        }
        if front > 0 {
            match middle.as_bytes().strip_prefix(self.layout.gap()) {
                Some(rest) => middle = &middle[middle.len() - rest.len()..],
                None => return Ok(None),
            }
        }
        if back > 0 && !self.layout.may_end(middle) {
            return Ok(None);
        }
        let middle = Some([&self.head, middle, &self.tail].concat());
        Ok(Some(Skimmed { front, back, middle }))
    }
}

/// How many pieces were found as they were, from the beginning and from the end.
#[derive(Debug, Default)]
struct Seen {
    front: AtomicUsize,
    back: AtomicUsize,
}

/// A file, as much of it as is looked at.
struct Portions<'a> {
    file: &'a File,
    /// All of it, where that is possible.
    mapped: Option<&'a Mapped<'a>>,
    len: u64,
    bytes: Vec<u8>,
    /// Where `bytes` begin.
    start: u64,
}

/// Where the next look will be.
#[derive(Clone, Copy)]
enum Toward {
    End,
    Beginning,
}

impl<'a> Portions<'a> {
    const fn new(file: &'a File, mapped: Option<&'a Mapped<'a>>, len: u64) -> Self {
        Self { file, mapped, len, bytes: Vec::new(), start: 0 }
    }

    /// Some bytes; none if the file is too short.
    fn get(&mut self, at: u64, len: usize, toward: Toward) -> io::Result<Option<&[u8]>> {
        let end = at + len as u64;
        if end > self.len {
            return Ok(None);
        }
        if let Some(mapped) = self.mapped {
            let offset = usize::try_from(at).map_err(io::Error::other)?;
            return Ok(mapped.get(offset..offset + len));
        }
        if at < self.start || end > self.start + self.bytes.len() as u64 {
            let portion = len.max(PORTION) as u64;
            let (start, stop) = match toward {
                Toward::End => (at, self.len.min(at + portion)),
                Toward::Beginning => (end.saturating_sub(portion), end),
            };
            self.bytes.resize(usize::try_from(stop - start).map_err(io::Error::other)?, 0);
            self.start = start;
            self.file.read_exact_at(&mut self.bytes, start)?;
        }
        let offset = usize::try_from(at - self.start).map_err(io::Error::other)?;
        Ok(self.bytes.get(offset..offset + len))
    }
}
