//! Objects as text, as kubectl prints them.

use serde_json::{Map, Value};
use std::fmt::Write as _;

/// A form in which many objects are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// One file with a list, in YAML.
    Yaml,
    /// One file with a list, in JSON.
    Json,
    /// The same on one line.
    Compact,
    /// One file with a document for each object.
    Documents,
    /// A file for each Service.
    Files,
    /// One file with a list, in YAML, and another for what changes.
    Beside,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Yaml, Self::Json, Self::Compact, Self::Documents, Self::Files, Self::Beside];

    /// The name of the file that changes.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Json | Self::Compact => "cluster.json",
            Self::Yaml | Self::Documents | Self::Files | Self::Beside => "cluster.yaml",
        }
    }

    /// These objects, as they stand within the file.
    pub fn text(self, objects: &[Value]) -> String {
        let mut text = String::new();
        for object in objects {
            match self {
                Self::Yaml | Self::Beside => {
                    text.push_str("- ");
                    yaml(&mut text, object, 2);
                }
                Self::Json => {
                    text.push_str("        ");
                    json(&mut text, object, 8);
                    text.push_str(",\n");
                }
                Self::Compact => {
                    // Writing to a string can't fail.
                    let _ = write!(text, "{object},");
                }
                Self::Documents | Self::Files => {
                    text.push_str("---\n");
                    yaml(&mut text, object, 0);
                }
            }
        }
        text
    }

    /// The whole file, with objects between those around them.
    pub fn file(self, around: &[String; 2], objects: &[Value]) -> String {
        let [before, behind] = around;
        let between = self.text(objects);
        let (head, tail) = match self {
            Self::Yaml | Self::Beside => {
                ("apiVersion: v1\nitems:\n", "kind: List\nmetadata:\n  resourceVersion: \"\"\n")
            }
            Self::Json => (
                "{\n    \"apiVersion\": \"v1\",\n    \"items\": [\n",
                "\n    ],\n    \"kind\": \"List\",\n    \"metadata\": {\n        \"resourceVersion\": \
                 \"\"\n    }\n}\n",
            ),
            Self::Compact => (
                "{\"apiVersion\":\"v1\",\"items\":[",
                "],\"kind\":\"List\",\"metadata\":{\"resourceVersion\":\"\"}}\n",
            ),
            Self::Documents | Self::Files => ("", ""),
        };
        let mut text = [head, before, &between, behind].concat();
        // The last item has no comma.
        text.truncate(match self {
            Self::Json => text.len() - ",\n".len(),
            Self::Compact => text.len() - ",".len(),
            Self::Yaml | Self::Documents | Self::Files | Self::Beside => text.len(),
        });
        text + tail
    }
}

/// Block style with lists at the margin of their keys.
fn yaml(text: &mut String, value: &Value, indent: usize) {
    let margin = " ".repeat(indent);
    // Writing to a string can't fail.
    if let Value::Object(map) = value {
        for (index, (key, value)) in map.iter().enumerate() {
            let margin = if index == 0 && text.ends_with("- ") { "" } else { &margin };
            let _ = write!(text, "{margin}{key}:");
            let empty = value.as_object().is_none_or(Map::is_empty)
                && value.as_array().is_none_or(Vec::is_empty);
            text.push(if empty { ' ' } else { '\n' });
            yaml(text, value, if value.is_object() { indent + 2 } else { indent });
        }
        if map.is_empty() {
            text.push_str("{}\n");
        }
    } else if let Some(list) = value.as_array().filter(|list| !list.is_empty()) {
        for value in list {
            let _ = write!(text, "{margin}- ");
            yaml(text, value, indent + 2);
        }
    } else {
        let _ = writeln!(text, "{value}");
    }
}

/// With four spaces for each level.
fn json(text: &mut String, value: &Value, indent: usize) {
    let margin = " ".repeat(indent);
    let (ends, entries): (_, Vec<(String, &Value)>) = if let Value::Object(map) = value {
        ("{}", map.iter().map(|(key, value)| (format!("\"{key}\": "), value)).collect())
    } else if let Value::Array(list) = value {
        ("[]", list.iter().map(|value| (String::new(), value)).collect())
    } else {
        // Writing to a string can't fail.
        let _ = write!(text, "{value}");
        return;
    };
    text.push_str(&ends[..1]);
    for (index, (key, value)) in entries.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\n{margin}    {key}");
        json(text, value, indent + 4);
    }
    if !entries.is_empty() {
        let _ = write!(text, "\n{margin}");
    }
    text.push_str(&ends[1..]);
}
