//! The documents say what is so: every test that they name exists, and every flag
//! and field of the page about kube-proxy.

#![expect(clippy::unwrap_used, reason = "a test that can't go on should say where")]

use clap::CommandFactory as _;
use lb_userspace::cli::Cli;
use lb_userspace::kube_proxy::{NO_EFFECT, fields};
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
    assert_eq!(rows, (1..=89).chain([95]).collect::<Vec<_>>());
}

/// Rows of a section of the page about kube-proxy: what, how it is here, and more.
fn rows(section: &str) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root().join("docs/kube-proxy.md")).unwrap();
    let section = text.split("\n## ").find(|part| part.starts_with(section)).unwrap();
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, what, how, more, _] = cells[..] else { return None };
        let row = ["same", "different", "none"].contains(&how);
        row.then(|| (what.to_owned(), how.to_owned(), more.to_owned()))
    });
    rows.collect()
}

fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn every_field_of_kube_proxys_file_is_documented_as_it_is_taken() {
    let rows = rows("Fields of KubeProxyConfiguration");
    let documented: Vec<&str> = rows.iter().flat_map(|(field, ..)| quoted(field)).collect();
    let mut fields = fields();
    fields.sort_by_key(|field| documented.iter().position(|one| one == field));
    assert_eq!(documented, fields);
    for (field, how, _) in &rows {
        let field = quoted(field).next().unwrap();
        let without = NO_EFFECT.iter().any(|(one, _)| *one == field);
        assert_eq!(how == "none", without, "{field} is {how}");
    }
}

#[test]
fn flags_that_stand_for_kube_proxys_exist() {
    let mut cli = Cli::command();
    cli.build();
    let agent = cli.find_subcommand("agent").unwrap();
    let flags: BTreeSet<String> = agent
        .get_arguments()
        .flat_map(|flag| flag.get_long_and_visible_aliases().into_iter().flatten())
        .map(|name| format!("--{name}"))
        .collect();
    let aliases: BTreeSet<String> = agent
        .get_arguments()
        .flat_map(|flag| flag.get_all_aliases().into_iter().flatten())
        .map(|name| format!("--{name}"))
        .collect();
    let rows = rows("Flags");
    assert!(rows.len() > 30, "{rows:?}");
    for (what, how, here) in rows {
        let own = quoted(&here).filter_map(|text| text.strip_prefix("lb ").or(Some(text)));
        for text in own.flat_map(|text| text.split(' ')).filter(|word| word.starts_with("--")) {
            let known = flags.contains(text) || ["--version", "--help"].contains(&text);
            assert!(known, "{what}: there is no {text}");
        }
        if here.contains("kube-proxy's name") || here.contains("by these names") {
            for name in quoted(&what) {
                assert!(aliases.contains(name), "{name} is not understood");
            }
        }
        assert!(how != "same" || quoted(&here).next().is_some(), "{what} is the same as what?");
    }
}
