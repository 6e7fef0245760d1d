//! All pieces of a file, and what becomes of them when its text changes: those
//! that are as they were stay what they are.

use std::fs::File;
use std::io;
use std::num::NonZero;
use std::thread;

use super::cut::{Cut, Print};
use super::object::{AnyObject, DecodedFile, ObjectId};
use super::piece::{LastGood, Piece};
use super::skim::{Outline, Skimmed};

/// Fewer pieces than this are not worth a thread.
const MIN_SHARE: usize = 32;

/// The pieces of a file.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    list: Vec<Piece>,
    /// What is beside them, if that is known.
    outline: Option<Outline>,
    /// What the file had and has no more, while something in it has no name: it
    /// may be any of these.
    kept: Vec<AnyObject>,
    /// How many things without a name are none of those.
    strange: usize,
}

/// What a text is made of.
#[derive(Debug)]
pub(super) struct Reading {
    sources: Vec<Source>,
    outline: Option<Outline>,
}

/// Where a piece comes from.
#[derive(Debug)]
enum Source {
    /// It was there before, as this one.
    Known(usize),
    /// It was parsed.
    Parsed(Print, DecodedFile),
}

impl Reading {
    /// A text that was read as a whole.
    pub(super) fn whole(print: Print, decoded: DecodedFile) -> Self {
        Self { sources: vec![Source::Parsed(print, decoded)], outline: None }
    }
}

impl Pieces {
    /// The pieces, in order.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Piece> {
        self.list.iter()
    }

    /// Every object that the text gives.
    pub(super) fn own(&self) -> impl Iterator<Item = &AnyObject> {
        self.list.iter().flat_map(|piece| &piece.objects)
    }

    /// What the file had and has no more, but keeps.
    pub(super) fn kept(&self) -> &[AnyObject] {
        &self.kept
    }

    /// How many things have no name.
    fn nameless(&self) -> usize {
        self.list.iter().map(Piece::nameless).sum()
    }

    /// Whether something has no name, and was not known under one.
    pub(super) const fn has_strange(&self) -> bool {
        self.strange > 0
    }

    /// Reads a text in pieces; none if it has to be read as a whole.
    pub(super) fn read_text(&self, text: &str, json_only: bool) -> Option<Reading> {
        let cut = Cut::of(text, json_only, &self.prints())?;
        let sources = self.sources(&cut, 0)?;
        Some(Reading { sources, outline: Outline::of(text, &cut) })
    }

    /// Reads only what is new in a file; none if more of it has to be read.
    pub(super) fn read_file(&self, file: &File) -> io::Result<Option<Reading>> {
        let Some(outline) = &self.outline else { return Ok(None) };
        let prints = self.prints();
        let skimmed = outline.skim(file, &prints)?;
        let reading = skimmed.and_then(|skimmed| {
            let sources = self.join(outline, &prints, &skimmed)?;
            Some(Reading { sources, outline: Some(outline.clone()) })
        });
        Ok(reading)
    }

    fn prints(&self) -> Vec<Print> {
        self.list.iter().map(Piece::print).collect()
    }

    fn join(&self, outline: &Outline, prints: &[Print], skimmed: &Skimmed) -> Option<Vec<Source>> {
        let Skimmed { front, back, middle } = skimmed;
        let rest = self.list.len() - back;
        let mut sources: Vec<Source> = (0..*front).map(Source::Known).collect();
        if let Some(middle) = middle {
            let mut cut = outline.cut(middle, &prints[*front..rest])?;
            cut.skipped = *front;
            sources.extend(self.sources(&cut, *front)?);
        }
        // Those at the end may have got other numbers.
        let moved = (rest..self.list.len()).zip(sources.len()..);
        for (index, at) in moved {
            self.list[index].may_be_at(at).then(|| sources.push(Source::Known(index)))?;
        }
        Some(sources)
    }

    /// The sources of what was cut, where those that it knows begin at `first`;
    /// none if a piece is not good by itself.
    fn sources(&self, cut: &Cut<'_>, first: usize) -> Option<Vec<Source>> {
        let known = cut.pieces.iter().zip(cut.skipped..).map(|(part, at)| {
            let index = first + part.known?;
            self.list[index].may_be_at(at).then_some(index)
        });
        let known: Vec<Option<usize>> = known.collect();
        let missing = known.iter().enumerate().filter(|(_, known)| known.is_none());
        let missing: Vec<usize> = missing.map(|(at, _)| at).collect();
        let mut parsed = parse(cut, &missing)?.into_iter();
        let sources = known.into_iter().zip(&cut.pieces).map(|(known, part)| match known {
            Some(index) => Some(Source::Known(index)),
            None => parsed.next().map(|decoded| Source::Parsed(part.print, decoded)),
        });
        sources.collect()
    }

    /// Becomes what was read; the objects of pieces that are gone, and those of
    /// new ones. None if nothing is different.
    pub(super) fn replace(&mut self, file: &str, reading: Reading) -> Option<[Vec<AnyObject>; 2]> {
        let Reading { sources, outline } = reading;
        self.outline = outline;
        let stays =
            |(source, at): (&Source, usize)| matches!(source, Source::Known(index) if *index == at);
        if sources.len() == self.list.len() && sources.iter().zip(0..).all(stays) {
            return None;
        }
        let nameless = self.nameless();
        let mut before: Vec<Option<Piece>> = self.list.drain(..).map(Some).collect();
        let mut after: Vec<Option<Piece>> = sources
            .iter()
            .map(|source| match source {
                Source::Known(index) => before[*index].take(),
                Source::Parsed(..) => None,
            })
            .collect();
        let gone = before.into_iter().flatten();
        let mut old: Vec<AnyObject> = gone.flat_map(|piece| piece.objects).collect();
        let kept: Vec<ObjectId> = self.kept.iter().map(AnyObject::id).collect();
        old.append(&mut self.kept);
        let mut last_good: LastGood = old.iter().map(|one| (one.id(), one.clone())).collect();
        let mut new = Vec::new();
        for (at, (source, piece)) in sources.into_iter().zip(&mut after).enumerate() {
            if let Source::Parsed(print, decoded) = source {
                let parsed = Piece::new(file, (print, at), decoded, &mut last_good);
                new.extend_from_slice(&parsed.objects);
                *piece = Some(parsed);
            }
        }
        self.list = after.into_iter().flatten().collect();
        self.keep(last_good, nameless, &kept);
        new.extend_from_slice(&self.kept);
        Some([old, new])
    }

    /// Keeps what may have lost its name: of what the file had and has no more,
    /// all if there is more without a name than before (`nameless`); else only
    /// what was kept.
    fn keep(&mut self, mut before: LastGood, nameless: usize, kept: &[ObjectId]) {
        let now = self.nameless();
        if now <= nameless {
            before.retain(|id, _| now > 0 && kept.contains(id));
        }
        // Mostly nothing is left, and a name costs an allocation.
        if !before.is_empty() {
            for object in self.list.iter().flat_map(|piece| &piece.objects) {
                before.remove(&object.id());
            }
        }
        self.strange = if now == 0 { 0 } else { self.strange.min(now) };
        if now > nameless && before.len() == kept.len() {
            // Nothing has gone for it: it never was anything that is known.
            self.strange += now - nameless;
        }
        let mut missing: Vec<_> = before.into_iter().collect();
        missing.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        self.kept = missing.into_iter().map(|(_, object)| object).collect();
    }
}

/// Parses the chosen pieces on all processors; none if one of them is not good
/// by itself.
fn parse(cut: &Cut<'_>, chosen: &[usize]) -> Option<Vec<DecodedFile>> {
    let work = |chosen: &[usize]| -> Option<Vec<DecodedFile>> {
        chosen.iter().map(|&index| cut.decode(index)).collect()
    };
    if chosen.len() <= MIN_SHARE {
        return work(chosen);
    }
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let share = chosen.len().div_ceil(processors).max(MIN_SHARE);
    thread::scope(|scope| {
        let workers: Vec<_> =
            chosen.chunks(share).map(|chosen| scope.spawn(move || work(chosen))).collect();
        let mut all = Vec::with_capacity(chosen.len());
        for worker in workers {
            all.extend(worker.join().ok()??);
        }
        Some(all)
    })
}
