//! The documents say what is so: every test that they name exists.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names of all functions in the sources below a directory.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let defined = text.lines().filter_map(|line| {
                line.trim_start().strip_prefix("fn ")?.split_once('(').map(|(name, _)| name)
            });
            names.extend(defined.map(str::to_owned));
        }
    }
}

#[test]
fn every_row_of_the_behaviour_table_names_a_test_or_a_reason() {
    let text = fs::read_to_string(root().join("docs/behaviour.md")).unwrap();
    let mut names = BTreeSet::new();
    for sources in ["lb-common/src", "lb-userspace/src", "tests/src", "tests/tests"] {
        functions(&root().join(sources), &mut names);
    }
    let mut rows = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, shown_by, _] = cells[..] else { continue };
        let Ok(number) = number.parse::<u32>() else { continue };
        rows.push(number);
        let quoted: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        let tests: Vec<&&str> = quoted.iter().filter(|name| name.contains('_')).collect();
        for test in &tests {
            assert!(names.contains(**test), "row {number}: there is no test {test}");
        }
        // A reason is a sentence.
        assert!(!tests.is_empty() || shown_by.len() > 40, "row {number} says nothing: {shown_by}");
    }
    assert_eq!(rows, (1..=83).collect::<Vec<_>>());
}
