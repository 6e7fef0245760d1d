//! Whatever is read in pieces means the same as the whole.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::SystemTime;

use proptest::prelude::*;
use serde_json::Value;

use super::super::cut::{Cut, Print};
use super::super::file::{FileState, Update};
use super::super::object::{self, DecodedFile, Ignored};
use super::super::{document, scan};

/// An item with some of what annotations hold.
fn node(number: usize) -> String {
    let extra = match number % 5 {
        0 => "    annotations:\n      a: |\n        - x\n\n        # y\n",
        1 => "    annotations: {a: \"- x\", b: '---'}\n",
        2 => "    annotations:\n      a: >-\n        folded\n        - text\n",
        _ => "",
    };
    format!("apiVersion: v1\nkind: Node\nmetadata:\n{extra}    name: n{number}\n")
        .replace("\n    annotations", "\n  annotations")
        .replace("\n    name", "\n  name")
}

fn indented(text: &str, first: &str, margin: &str) -> String {
    let mut all = String::new();
    for (index, line) in text.lines().enumerate() {
        let margin = if index == 0 { first } else { margin };
        let margin = if line.is_empty() { "" } else { margin };
        let _ = writeln!(all, "{margin}{line}");
    }
    all
}

const TAIL: &str = "kind: List\nmetadata:\n  resourceVersion: \"\"\n";

fn list(numbers: impl IntoIterator<Item = usize>, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let item = |n| indented(&node(n), &format!("{margin}- "), &format!("{margin}  "));
    let items: String = numbers.into_iter().map(item).collect();
    format!("apiVersion: v1\nitems:\n{items}{TAIL}")
}

fn stream(numbers: impl IntoIterator<Item = usize>) -> String {
    let document = |n| format!("---\n# Source: {n}\n{}", node(n));
    numbers.into_iter().map(document).collect()
}

fn json(numbers: impl IntoIterator<Item = usize>, pretty: bool) -> String {
    let item = |n| document::parse(&node(n), false).unwrap().pop().unwrap();
    let items: Vec<Value> = numbers.into_iter().map(item).collect();
    let list = serde_json::json!({ "apiVersion": "v1", "items": items, "kind": "List" });
    if pretty { serde_json::to_string_pretty(&list).unwrap() } else { list.to_string() }
}

/// As other programs print JSON on one line.
fn spaced(json: &str) -> String {
    json.replace(",\"", ", \"").replace("},{", "}, {").replace("\":", "\": ")
}

/// Everything, piece by piece; none if it is not cut.
fn in_pieces(text: &str) -> Option<String> {
    let cut = Cut::of(text, false, &[])?;
    let prints: Vec<Print> = cut.pieces.iter().map(|part| part.print).collect();
    let again = Cut::of(text, false, &prints).unwrap();
    assert!(again.pieces.iter().enumerate().all(|(at, part)| part.known == Some(at)));
    let pieces: Option<Vec<DecodedFile>> =
        (0..cut.pieces.len()).map(|index| cut.decode(index)).collect();
    let objects: Vec<_> = pieces?.into_iter().map(|one| (one.objects, one.ignored)).collect();
    let mut ignored = Ignored::new();
    for (kind, count) in objects.iter().flat_map(|(_, ignored)| ignored) {
        *ignored.entry(kind.clone()).or_default() += count;
    }
    let objects: Vec<_> = objects.into_iter().flat_map(|(objects, _)| objects).collect();
    Some(format!("{objects:#?} {ignored:?}"))
}

fn as_a_whole(text: &str) -> Option<String> {
    let decoded = object::decode(document::parse(text, false).ok()?);
    Some(format!("{:#?} {:?}", decoded.objects, decoded.ignored))
}

#[test]
fn every_form_that_programs_print_is_cut_and_means_the_same() {
    let text = list(0..40, 0);
    let head = "apiVersion: v1\nkind: List\nmetadata: {}\n";
    for (name, text) in [
        ("kubectl", text.clone()),
        (
            "by hand",
            text.replace(TAIL, "").replace("apiVersion: v1\nitems", &format!("{head}items")),
        ),
        ("separated", format!("---\n# All of it.\n{text}")),
        ("indented", list(0..40, 2)),
        ("documents", stream(0..40)),
        ("documents, the first without a mark", stream(0..40).replacen("---\n", "", 1)),
        ("empty documents", stream(0..40).replace("---\n", "---\n---\n")),
        ("documents without an end", stream(0..40) + "---"),
        ("json", json(0..40, true)),
        ("json on one line", json(0..40, false)),
        ("json with spaces", spaced(&json(0..40, false))),
    ] {
        let pieces = in_pieces(&text);
        assert!(pieces.is_some(), "{name} is not cut: {text}");
        assert!(pieces == as_a_whole(&text), "{name}");
    }
}

#[test]
fn items_without_a_name_are_known_by_their_place() {
    for text in [list(0..40, 0), json(0..40, true), json(0..40, false)] {
        let text = text.replace("name: n7\n", "nome: n7\n").replace("\"name\": \"n7\"", "\"a\": 1");
        let text = text.replace("\"name\":\"n7\"", "\"a\":1");
        assert!(in_pieces(&text).is_some_and(|pieces| pieces.contains("items[7]")));
        assert!(in_pieces(&text) == as_a_whole(&text));
    }
}

#[test]
fn what_may_have_another_meaning_in_pieces_is_not_cut() {
    let good = list(0..40, 0);
    let documents = stream(0..40);
    let cases = [
        list(0..10, 0),
        stream(0..10),
        json(0..40, false).replace("},{", "}, {").replacen("}, {", "},{", 1),
        json(0..40, false).replace("\"n8\"", "\"n8"),
        json(0..40, false).replace("\"n8\"}", "\"n8\"}}"),
        json(0..40, false).replace("\"kind\":\"List\"", "\"items\":[],\"kind\":\"List\""),
        good.replace("kind: List", "kind: ServiceList"),
        good.replace("kind: List", "items: []\nkind: List"),
        good.replace("kind: List", "# note\n- apiVersion: v1\nkind: List"),
        good.replace("apiVersion: v1\nitems", "apiVersion: apps/v1\nitems"),
        format!("{good}---\na: 1\n"),
        format!("%YAML 1.1\n---\n{good}"),
        good.replace('\n', "\r\n"),
        good.replace("name: n7", "name: \u{2028}n7"),
        good.replace("name: n7", "name: [n7"),
        good.replace("name: n8", "name: &a n8").replace("name: n9", "name: *a"),
        good.replace("name: n8", "name: &a n8\n    namespace: *a"),
        good.replace("name: n8", "name: n8\n    name: n8"),
        good.replace("name: n8", "name: \"n8\n- x\""),
        documents.replace("name: n8", "name: n8\n..."),
        documents.replace("# Source: 8\n", "%TAG ! tag:a,2000:\n---\n"),
        documents.replace("---\n# Source: 8", "--- # Source: 8"),
        documents.replace("name: n8", "nome: n8"),
        json(0..40, true).replace("\"n8\"", "\"n8\", \"name\": \"n8\""),
        json(0..40, true).replace("\"kind\": \"List\"", "\"kind\": \"NodeList\""),
        String::new(),
        "items:\n".to_owned(),
    ];
    for case in cases {
        assert!(in_pieces(&case).is_none(), "{case}");
    }
}

/// Lines that mean much, at many indentations.
fn nasty() -> impl Strategy<Value = String> {
    let lines = [
        "---",
        "...",
        "- x",
        "-",
        "- ",
        "- - y",
        "-  a: 1",
        "# c",
        "",
        "\t",
        "items:",
        "items: []",
        "key: |",
        "key: |2",
        "key: >-",
        "key: |+",
        "key: \"open",
        "end\"",
        "'",
        "key: 'open",
        "&a x",
        "*a",
        "k: &a 1",
        "k: *a",
        "<<: *a",
        "!!str",
        "%YAML 1.2",
        "? x",
        ": y",
        "]",
        "k: [",
        "k: {",
        "}",
        "k: !t 1",
        "|",
        "- |",
        "- \"x",
        "text",
        "text: more: most",
        "kind: List",
        "}, {",
        "},",
        "{",
        "--- x",
        "a: 1 # b",
        "\u{feff}",
        "\u{85}",
        "- &a",
        "k: >1",
    ];
    (proptest::sample::select(lines.to_vec()), 0_usize..9)
        .prop_map(|(line, indent)| " ".repeat(indent) + line)
}

fn base() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        list(0..34, 0),
        list(0..34, 2),
        stream(0..34),
        json(0..34, true),
        json(0..34, false),
        spaced(&json(0..34, false)),
        format!("{}{}", stream(0..33), "---\n") + &list(0..3, 0),
    ])
}

/// What an update comes to: one that was read in larger pieces has more objects
/// that are as they were.
fn difference(update: &Update) -> [Vec<String>; 2] {
    let [mut old, mut new] = [&update.old, &update.new].map(|objects| {
        let mut texts: Vec<String> = objects.iter().map(|one| format!("{one:?}")).collect();
        texts.sort();
        texts
    });
    old.retain(|one| match new.binary_search(one) {
        Ok(at) => {
            new.remove(at);
            false
        }
        Err(_) => true,
    });
    [old, new]
}

/// A text that is cut, and one that somebody made of it.
fn edited() -> impl Strategy<Value = (String, String)> {
    let edit = (nasty(), any::<prop::sample::Index>(), 0_u8..4);
    (base(), proptest::collection::vec(edit, 1..5)).prop_map(|(before, edits)| {
        // What is on one line is edited between its commas.
        let separator = if before.trim_end().contains('\n') { "\n" } else { "," };
        let mut lines: Vec<String> = before.split(separator).map(ToOwned::to_owned).collect();
        for (line, place, how) in edits {
            let place = place.index(lines.len());
            match how {
                0 => lines.insert(place, line),
                1 => lines[place] = line,
                2 => lines[place].push_str(line.trim_start()),
                _ => drop(lines.remove(place)),
            }
        }
        (before, lines.join(separator))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn whatever_is_cut_means_the_same_as_the_whole((before, text) in edited()) {
        if let Some(pieces) = in_pieces(&text) {
            let whole = as_a_whole(&text);
            prop_assert!(whole.as_ref() == Some(&pieces), "{}\n{:?}", text, whole);
            // Pieces that are known are found where they would be without.
            let cut = Cut::of(&before, false, &[]).unwrap();
            let prints: Vec<Print> = cut.pieces.iter().map(|part| part.print).collect();
            let [with, without] =
                [&prints[..], &[]].map(|known| Cut::of(&text, false, known).unwrap());
            let texts = |cut: &Cut<'_>| -> Vec<String> {
                cut.pieces.iter().map(|part| part.text.to_owned()).collect()
            };
            prop_assert_eq!(texts(&with), texts(&without));
            let known: Vec<usize> = with.pieces.iter().filter_map(|part| part.known).collect();
            let different: BTreeSet<usize> = known.iter().copied().collect();
            prop_assert_eq!(known.len(), different.len());
        }
    }

    #[test]
    fn reading_what_differs_leads_to_the_same_as_reading_all((before, text) in edited()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        let mut by_file = FileState::new("a.yaml".as_ref());
        let mut by_text = FileState::new("a.yaml".as_ref());
        for text in [&before, &text, &before] {
            std::fs::write(&path, text).unwrap();
            let update = by_file.refresh(&path, SystemTime::now());
            let expected = by_text.take(text);
            prop_assert_eq!(difference(&update), difference(&expected));
            let content = |file: &FileState| {
                let objects: Vec<_> = file.objects().collect();
                let problems: Vec<_> = file.problems().collect();
                let mut ignored = Ignored::new();
                file.add_ignored(&mut ignored);
                format!("{objects:?} {problems:?} {ignored:?}")
            };
            prop_assert_eq!(content(&by_file), content(&by_text));
        }
    }
}

/// It would be good behind the last item, but not between two.
#[test]
fn what_belongs_behind_the_list_is_an_error_within() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let good = list(0..40, 0);
    let (at, first) = good.match_indices("- apiVersion: v1\n").nth(20).unwrap();
    let (before, rest) = good.split_at(at + first.len());
    let bad = format!("{before}key: |\n{rest}");
    let mut file = FileState::new("a.yaml".as_ref());
    for (text, wrong) in [(&good, 0), (&bad, 1)] {
        std::fs::write(&path, text).unwrap();
        file.refresh(&path, SystemTime::now());
        assert_eq!(file.problems().count(), wrong);
    }
    assert_eq!(file.objects().count(), 40, "all are kept");
}

#[test]
fn what_is_glued_to_a_piece_that_is_known_is_not_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    // The last item has no line's end, so that it may go on.
    let text = list(0..40, 0).replace(TAIL, "").replace("items", "kind: List\nitems");
    let text = text.strip_suffix('\n').unwrap();
    let mut state = FileState::new("a.yaml".as_ref());
    assert_eq!(state.take(text).new.len(), 40);
    let glued = format!("{text}- apiVersion: v1\n  kind: Node\n  metadata:\n    name: n40\n");
    std::fs::write(&path, &glued).unwrap();
    let update = state.refresh(&path, SystemTime::now());
    assert!(update.new.is_empty() && state.problems().count() == 1);
    std::fs::write(&path, glued.replacen("n39- api", "n39\n- api", 1)).unwrap();
    assert_eq!(state.refresh(&path, SystemTime::now()).new.len(), 2);
    assert_eq!(state.problems().count(), 0);
}

#[test]
fn only_what_differs_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    let numbers = |left_out: usize, more: Option<usize>| {
        (0..60).filter(move |n| *n != left_out).chain(more).collect::<Vec<_>>()
    };
    let forms: [fn(Vec<usize>) -> String; 6] = [
        |n| list(n, 0),
        |n| list(n, 2),
        |n| stream(n),
        |n| json(n, true),
        |n| json(n, false),
        |n| spaced(&json(n, false)),
    ];
    for form in forms {
        let mut state = FileState::new("a.yaml".as_ref());
        for (left_out, more) in [(0, None), (1, None), (2, Some(90)), (59, Some(91)), (99, None)] {
            let text = form(numbers(left_out, more));
            let known = state.objects().count();
            std::fs::write(&path, &text).unwrap();
            // Without a lease it is not mapped, but read.
            let plain = std::fs::File::open(&path).unwrap();
            let [mapped, read] = [scan::open(&path, true).unwrap().1, plain]
                .map(|file| format!("{:?}", state.pieces().read_file(&file).unwrap()));
            assert_eq!(mapped, read);
            assert_eq!(read != "None", known > 0, "{text}");
            state.refresh(&path, SystemTime::now());
            let decoded = object::decode(document::parse(&text, false).unwrap());
            let names = decoded.objects.into_iter().filter_map(|one| Some(one.id?.1));
            let found = state.objects().map(|object| object.name().clone());
            assert!(found.eq(names), "{text}");
        }
    }
}
