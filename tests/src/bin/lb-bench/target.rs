//! What is promised, and whether it is kept.

use serde_json::{Value, json};
use std::fmt;

/// On which side of a figure a measured one must be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A promise, with what was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Target {
    name: String,
    bound: Bound,
    measured: f64,
    /// Twice the standard error of that.
    error: f64,
}

impl Target {
    /// What was measured must not be less.
    pub(crate) const fn at_least(least: f64, name: String, measured: f64, error: f64) -> Self {
        Self { name, bound: Bound::AtLeast(least), measured, error }
    }

    /// What was measured must not be more.
    pub(crate) const fn at_most(most: f64, name: String, measured: f64, error: f64) -> Self {
        Self { name, bound: Bound::AtMost(most), measured, error }
    }

    /// By how much it is kept; below zero if it is not.
    fn margin(&self) -> f64 {
        match self.bound {
            Bound::AtLeast(least) => self.measured - least,
            Bound::AtMost(most) => most - self.measured,
        }
    }

    /// Whether it was measured, and is kept.
    pub(crate) fn is_met(&self) -> bool {
        self.margin() >= 0.0
    }

    fn verdict(&self) -> &'static str {
        let certain = self.margin().abs() >= self.error;
        match (self.measured.is_nan(), self.is_met(), certain) {
            (true, _, _) => "not measured",
            (_, true, true) => "met",
            (_, true, false) => "met, by less than the error",
            (_, false, true) => "missed",
            (_, false, false) => "missed, by less than the error",
        }
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Self { name, bound, measured, error } = self;
        let (bound, limit) = match bound {
            Bound::AtLeast(least) => ("least", least),
            Bound::AtMost(most) => ("most", most),
        };
        json!({ "name": name, bound: limit, "measured": measured, "error": error,
                "verdict": self.verdict() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, bound, measured, error } = self;
        let bound = match bound {
            Bound::AtLeast(least) => format!("at least {least}"),
            Bound::AtMost(most) => format!("at most {most}"),
        };
        let error = if *error > 0.0 { format!(" (\u{b1}{error:.3})") } else { String::new() };
        let measured = format!("{measured:.3}{error}");
        f.pad(&format!("{name:<68} {measured:>15}, {bound}: {}", self.verdict()))
    }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn a_target_is_missed_on_the_wrong_side_and_without_a_figure() {
        let least = |measured| Target::at_least(4.0, String::new(), measured, 0.5);
        let most = |measured| Target::at_most(4.0, String::new(), measured, 0.5);
        for (target, verdict) in [
            (least(5.0), "met"),
            (least(4.1), "met, by less than the error"),
            (least(3.9), "missed, by less than the error"),
            (least(3.0), "missed"),
            (most(3.0), "met"),
            (most(5.0), "missed"),
            (most(f64::NAN), "not measured"),
        ] {
            assert_eq!(target.verdict(), verdict, "{target}");
            assert_eq!(target.is_met(), verdict.starts_with("met"), "{target}");
        }
    }
}
