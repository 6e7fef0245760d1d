//! What is wrong with a manifest, in words for the person who wrote it.

use std::fmt::{self, Write as _};

/// Whether the object is in force in spite of the problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The file, the object, or an address that it claims is refused.
    Error,
    /// The object is in force, without the part that the problem names.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Problem {
    /// Whether it refuses the object.
    pub severity: Severity,
    /// Name of the file in the manifest directory.
    pub file: String,
    /// The object, as in `Service default/web`; none if the file itself is bad.
    pub object: Option<String>,
    /// Path of the field in the object, as in `spec.ports[0].port`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", printable(&self.file))?;
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, ": {}", printable(part))?;
        }
        write!(f, ": {}", printable(&self.message))
    }
}

/// Shows text of unknown origin on one line and without what could confuse a
/// terminal: control characters, and the marks that reorder text.
pub fn printable(text: &str) -> impl fmt::Display + '_ {
    fmt::from_fn(move |f| {
        for c in text.chars() {
            let reorders = matches!(c,
                '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || reorders {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: Option<&str>, field: Option<&str>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: "a.yaml".into(),
            object: object.map(Into::into),
            field: field.map(Into::into),
            message: "must be 1 to 65535, not 0".into(),
        }
    }

    #[test]
    fn names_file_object_field_and_reason() {
        assert_eq!(
            problem(Some("Service default/web"), Some("spec.ports[0].port")).to_string(),
            "a.yaml: Service default/web: spec.ports[0].port: must be 1 to 65535, not 0"
        );
        assert_eq!(problem(None, None).to_string(), "a.yaml: must be 1 to 65535, not 0");
    }

    #[test]
    fn a_hostile_name_cannot_write_to_the_terminal() {
        let text = problem(Some("Service x/\u{1b}[2J\u{202e}\n"), None).to_string();
        assert_eq!(text, "a.yaml: Service x/\\u{1b}[2J\\u{202e}\\n: must be 1 to 65535, not 0");
    }
}
