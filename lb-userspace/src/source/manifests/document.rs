//! Text to documents: YAML and JSON, several documents a file, typed as kubectl
//! types them. Documents are not interpreted here.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Why a file holds no documents.
#[derive(Debug, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub(crate) struct ParseError {
    line: u64,
    column: u64,
    message: String,
}

/// All documents of a file, without the empty ones. As in kubectl, text that
/// begins with a brace is JSON if it parses as such, whatever the file's name.
pub(crate) fn parse(text: &str, json_only: bool) -> Result<Vec<Value>, ParseError> {
    parse_within(text, json_only, MAX_VALUES)
}

fn parse_within(text: &str, json_only: bool, max: usize) -> Result<Vec<Value>, ParseError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let may_be_json = json_only || text.trim_start().starts_with('{');
    if may_be_json && json_values(text) > max {
        // As YAML it would hold as many, but for the quotes that only YAML has.
        return Err(ParseError { line: 1, column: 1, message: too_many(max) });
    }
    if json_only {
        return json(text);
    }
    if may_be_json && let Ok(documents) = json(text) {
        return Ok(documents);
    }
    yaml(text, max, MAX_REPEATED)
}

/// As [`parse`], for a part of a file: aliases, which may lead to other parts,
/// are errors.
pub(super) fn parse_part(text: &str) -> Result<Vec<Value>, ParseError> {
    yaml(text, MAX_VALUES, 0)
}

/// Values and names of values that a file may hold: each takes far more memory than
/// text. That of a quarter of a million endpoints holds six million.
const MAX_VALUES: usize = 8_000_000;
/// Values that aliases in a file may stand for.
const MAX_REPEATED: usize = 100_000;

fn yaml(text: &str, max_values: usize, max_repeated: usize) -> Result<Vec<Value>, ParseError> {
    // What aliases repeat is bounded apart, and deep nesting would cost stack.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: max_values,
            max_documents: usize::MAX,
            max_depth: 64,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: max_repeated },
        emit_comments: false,
        with_snippet: false,
        // kubectl reads YAML 1.1: `defaultMode: 0644` is 420, and `on` is true.
        legacy_octal_numbers: true,
        strict_booleans: false,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let location = error.location();
        let message = error.without_snippet().render_with_options(serde_saphyr::render_options! {
            snippets: serde_saphyr::SnippetMode::Off,
        });
        ParseError {
            line: location.map_or(0, |at| at.line()),
            column: location.map_or(0, |at| at.column()),
            message: in_plain_words(&message, max_values),
        }
    })
}

/// How many values and names JSON holds at most, without parsing it: each but the
/// first of a document follows one of these, outside of strings.
fn json_values(text: &str) -> usize {
    let (mut values, mut in_string, mut escaped) = (0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' | b'{' if !in_string => values += 1,
            _ => {}
        }
    }
    values
}

fn json(text: &str) -> Result<Vec<Value>, ParseError> {
    let mut documents = Vec::new();
    for document in serde_json::Deserializer::from_str(text).into_iter::<Unique>() {
        let Unique(value) = document.map_err(|error| ParseError {
            line: error.line() as u64,
            column: error.column() as u64,
            message: without_position(&error.to_string()).to_owned(),
        })?;
        if !value.is_null() {
            documents.push(value);
        }
    }
    Ok(documents)
}

fn too_many(max_values: usize) -> String {
    format!("the file holds more than {max_values} values")
}

/// Without what only callers of the parser can do something about.
fn in_plain_words(message: &str, max_values: usize) -> String {
    if message.starts_with("budget breached: Nodes") {
        return too_many(max_values);
    }
    if message.starts_with("alias replay limit exceeded") {
        return format!("aliases stand for more than {MAX_REPEATED} values");
    }
    without_position(message).split(", set DuplicateKeyPolicy").next().unwrap_or(message).to_owned()
}

/// Parsers append where it is, which stands at the beginning already.
fn without_position(message: &str) -> &str {
    message.rsplit_once(" at line ").map_or(message, |(text, _)| text)
}

/// A value whose objects have each key once. serde_json itself keeps the last of
/// several, so that a slip of the pen would go unnoticed.
struct Unique(Value);

impl<'de> de::Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(value)) = items.next_element()? {
            list.push(value);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("duplicate key {key:?}")));
            }
            let Unique(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(map.into())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_of_many_small_values_is_refused_before_it_takes_memory() {
        let many = "1, ".repeat(50);
        for text in [format!("[{many}1]"), format!("a: [{many}1]"), "- 1\n".repeat(60)] {
            let error = yaml(&text, 50, 0).unwrap_err().to_string();
            assert!(error.ends_with(": the file holds more than 50 values"), "{error}");
            assert!(yaml(&text, 100, 0).is_ok());
        }
        let items = format!("[{many}1]");
        // The second is looked at only once, though it would be YAML too.
        for (text, json_only) in [(items.clone(), true), (format!("{{\"a\": {items}}}"), false)] {
            let error = parse_within(&text, json_only, 50).unwrap_err().to_string();
            assert_eq!(error, "line 1, column 1: the file holds more than 50 values");
            assert!(parse_within(&text, json_only, 100).is_ok());
        }
    }

    #[test]
    fn what_strings_hold_are_no_values() {
        let noise = ",:[{".repeat(50);
        for string in [noise.clone(), format!(r#"\"{noise}\\"#), format!(r#"\\{noise}\""#)] {
            let text = format!(r#"{{"{string}": ["{string}", 1]}}"#);
            for json_only in [true, false] {
                assert_eq!(parse_within(&text, json_only, 4).unwrap().len(), 1, "{text}");
                assert!(parse_within(&text, json_only, 3).is_err(), "{text}");
            }
        }
    }

    #[test]
    fn documents_without_content_do_not_count() {
        let text = "a: 1\n---\n# nothing\n---\n\n---\nb: 2\n...\n";
        assert_eq!(parse(text, false).unwrap(), [json!({ "a": 1 }), json!({ "b": 2 })]);
        assert_eq!(parse("", false).unwrap(), [Value::Null; 0]);
        assert_eq!(parse("", true).unwrap(), [Value::Null; 0]);
    }

    #[test]
    fn scalars_have_the_types_that_kubectl_gives_them() {
        let text = "{a: on, b: 0644, c: '80', d: 10.96.0.1, e: ~, f: 2026-11-22T13:00:05Z, g: 1e3}";
        let expected = json!({
            "a": true, "b": 420, "c": "80", "d": "10.96.0.1", "e": null,
            "f": "2026-11-22T13:00:05Z", "g": 1000.0,
        });
        assert_eq!(parse(text, false).unwrap(), [expected]);
    }

    #[test]
    fn json_may_be_in_any_file_and_hold_several_documents() {
        let expected = [json!({ "a": [1, -2, 0.5, null, "x"] }), json!({ "b": true })];
        let text = "\u{feff}{\"a\": [1, -2, 0.5, null, \"x\"]}\n\t{\"b\": true}\n";
        for json_only in [true, false] {
            assert_eq!(parse(text, json_only).unwrap(), expected);
        }
    }

    #[test]
    fn errors_name_the_place() {
        for (text, json_only, expected) in [
            ("a: 1\nb: [1\n", false, "line 2, column 4: unclosed bracket"),
            ("a: 1\na: 2\n", false, "line 2, column 1: duplicate mapping key: a"),
            ("a: 1\n\tb: 2\n", false, "line 1, column 4: while scanning"),
            ("{\"a\": 1,\n \"a\": 2}", true, "line 2, column 4: duplicate key \"a\""),
            ("{\"a\": 1,\n", true, "line 2, column 0: EOF"),
        ] {
            let error = parse(text, json_only).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text:?} gives {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }

    #[test]
    fn bombs_and_abysses_are_errors() {
        let mut bomb = String::from("a0: &a0 [x]\n");
        for level in 1..=9 {
            let list = format!("*a{},", level - 1).repeat(9);
            writeln!(bomb, "a{level}: &a{level} [{list}]").unwrap();
        }
        let error = parse(&bomb, false).unwrap_err().to_string();
        assert!(error.ends_with(": aliases stand for more than 100000 values"), "{error}");
        for open in ["[", "{a: "] {
            assert!(parse(&open.repeat(100_000), false).is_err());
            assert!(parse(&open.repeat(100_000), true).is_err());
        }
        assert!(parse(&"- ".repeat(100_000), false).is_err());
    }
}
