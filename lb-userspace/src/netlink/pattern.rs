//! Patterns of interface names, as `--interface` and `--uplink` take them.

use std::fmt;
use std::str::FromStr;

/// A pattern of interface names: `*` stands for any characters, `?` for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

/// Why a pattern can match no interface.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PatternError {
    /// The pattern is empty.
    #[error("an interface pattern can't be empty")]
    Empty,
    /// Interface names can't contain this.
    #[error("interface pattern \"{pattern}\" contains {character:?}, which no interface name has")]
    Character {
        /// The pattern.
        pattern: String,
        /// The character.
        character: char,
    },
}

impl Pattern {
    /// Whether the whole name matches.
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let name: Vec<char> = name.chars().collect();
        // Greedy match that falls back to the last `*`: linear in practice.
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some('*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(c) if *c == '?' || *c == name[n] => {
                    p += 1;
                    n += 1;
                }
                Some(_) | None => match star {
                    Some((at, from)) => {
                        star = Some((at, from + 1));
                        p = at + 1;
                        n = from + 1;
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|c| *c == '*')
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        if pattern.is_empty() {
            return Err(PatternError::Empty);
        }
        match pattern.chars().find(|c| c.is_whitespace() || *c == '/') {
            Some(character) => Err(PatternError::Character { pattern: pattern.into(), character }),
            None => Ok(Self(pattern.into())),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth", true),
            ("eth*", "eth12", true),
            ("eth?", "eth1", true),
            ("eth?", "eth12", false),
            ("*", "anything", true),
            ("*cali*9", "mycali1929", true),
            ("*cali*9", "mycali192", false),
            ("en*s?", "enp0s3", true),
            ("v*", "eth0", false),
        ] {
            let parsed: Pattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_pattern_that_can_match_nothing_is_refused() {
        assert_eq!("".parse::<Pattern>(), Err(PatternError::Empty));
        let error = "eth 0".parse::<Pattern>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "interface pattern \"eth 0\" contains ' ', which no interface name has"
        );
    }
}
