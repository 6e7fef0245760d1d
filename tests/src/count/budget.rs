//! What packets cost on the ways that matter, against what is on record.
//! `cargo xtask bench packets --record` writes the record.

use super::{Counter, Counts};
use crate::packet::parse;
use crate::prog::Rig;
use crate::prog::cost::Under;
use crate::prog::paths::{Path, Scene};
use anyhow::{Context as _, Result, ensure};
use lb_common::Hook;
use std::fmt::Write as _;

/// The record: a line for each way.
const RECORD: &str = include_str!("../../data/path-budget.txt");
/// Where it is in the repository.
pub const FILE: &str = "tests/data/path-budget.txt";

/// How many more instructions than on record a way may have, in percent: another
/// compiler does it another way. Look-ups and calls are what the source says.
const MARGIN: u64 = 5;

/// A way, by the names of scene and path, and what it costs.
pub type Line = (String, Counts);

/// Counts every way of every scene.
pub fn count(rig: &mut Rig) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for scene in Scene::all() {
        let fresh = scene.install(rig);
        scene.establish(rig);
        // What was sent so far is not to be told from what follows.
        for hook in [Hook::Ingress, Hook::Egress, Hook::Xdp] {
            rig.take_verdicts(hook);
        }
        let counter = Counter::new(rig)?;
        for path in scene.paths(fresh) {
            if path.under == Under::Test && !is_repeated(&path) {
                let name = format!("{} {}", scene.name(), path.name);
                let counts = of(rig, &counter, &path).with_context(|| name.clone())?;
                lines.push((name, counts));
            }
        }
        rig.clear_flows();
    }
    Ok(lines)
}

/// Whether a way is one that is there for one flow too.
fn is_repeated(path: &Path) -> bool {
    path.vary.is_some() && path.begins.is_none()
}

/// Counts a packet, and checks that the kernel's program does with it what was
/// counted.
fn of(rig: &mut Rig, programs: &Counter, path: &Path) -> Result<Counts> {
    if path.begins.is_none() {
        // A flow that is silent for a second is brought up to date by its next packet,
        // which costs more. On a busy machine that may be long ago.
        rig.run(path.prog, path.by.index, &path.frame);
    }
    let way = programs.count(path.prog, path.by.index, &path.frame)?;
    let outcome = rig.run(path.prog, path.by.index, &path.frame);
    let verdict = path.verdict.context("the way has no verdict")?;
    ensure!(outcome.verdict == verdict, "{:?} is not {verdict:?}", outcome.verdict);
    let (counted, real) = (way.action, outcome.action);
    ensure!(counted == real, "action {counted}, not {real}");
    // The port of a source translation is drawn; an answer is made of what came.
    let ends = |frame: &[u8]| parse(frame, true).map(|packet| (packet.src.ip(), packet.dst));
    let (counted, real) = (ends(&way.frame), ends(&outcome.frame));
    ensure!(verdict.is_refusal() || counted == real, "{counted:?}, not {real:?}");
    Ok(way.counts)
}

/// What is too much, in words.
pub fn excesses(lines: &[Line]) -> Vec<String> {
    let mut excesses = Vec::new();
    for (name, counts) in lines {
        match recorded(RECORD, name) {
            None => excesses.push(format!("{name} is not on record: {counts}")),
            Some(record) if is_more(counts, &record) => {
                excesses.push(format!("{name}: {counts}; on record: {record}"));
            }
            Some(_) => {}
        }
    }
    excesses
}

fn is_more(counts: &Counts, record: &Counts) -> bool {
    counts.instructions * 100 > record.instructions * (100 + MARGIN)
        || counts.lookups > record.lookups
        || counts.elements > record.elements
        || counts.changes > record.changes
        || counts.helpers > record.helpers
}

/// The text of a record.
pub fn text(lines: &[Line]) -> String {
    let mut text = String::from(
        "# What a packet costs on each way: instructions, look-ups by hash or prefix, elements\n\
         # of arrays, rows changed, calls of other helpers.\n\
         # `cargo xtask bench packets --record` writes this file.\n",
    );
    for (name, counts) in lines {
        let _ = writeln!(text, "{name:<24} {counts}");
    }
    text
}

fn recorded(text: &str, name: &str) -> Option<Counts> {
    let numbers = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    let mut numbers = numbers.split_whitespace().map_while(|word| word.parse().ok());
    let mut next = || numbers.next();
    Some(Counts {
        instructions: next()?,
        lookups: next()?,
        elements: next()?,
        changes: next()?,
        helpers: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_held_to_its_own_line() {
        let counts = Counts { instructions: 100, lookups: 2, elements: 3, changes: 0, helpers: 1 };
        let more = Counts { lookups: 3, ..counts };
        let record =
            text(&[("IPv4 TC reply".into(), more), ("IPv4 TC reply twice".into(), counts)]);
        assert_eq!(recorded(&record, "IPv4 TC reply"), Some(more));
        assert_eq!(recorded(&record, "IPv4 TC reply twice"), Some(counts));
        assert_eq!(recorded(&record, "IPv4 TC"), None);
        assert!(is_more(&more, &counts) && !is_more(&counts, &more));
        assert!(!is_more(&Counts { instructions: 105, ..counts }, &counts));
        assert!(is_more(&Counts { instructions: 106, ..counts }, &counts));
    }
}
