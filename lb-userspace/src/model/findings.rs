//! What the checks of one object found.

use std::fmt;

use crate::desired::Severity;

/// One thing that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it refuses the object.
    pub severity: Severity,
    /// Path of the field.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Collects all that is wrong with an object, so that a person who repairs it
/// needs one round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Refuses the object.
    pub fn error(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.push(Severity::Error, &field, &message);
    }

    /// Tells about a part that has no effect.
    pub fn warning(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.push(Severity::Warning, &field, &message);
    }

    fn push(&mut self, severity: Severity, field: &dyn fmt::Display, message: &dyn fmt::Display) {
        self.0.push(Finding { severity, field: field.to_string(), message: message.to_string() });
    }

    /// The good value, or none after noting why it is not good.
    pub(super) fn check<T, E: fmt::Display>(
        &mut self,
        field: impl fmt::Display,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.error(field, error)).ok()
    }

    /// Whether the object is refused.
    pub fn refused(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// All findings in the order in which they were made.
    pub fn into_vec(self) -> Vec<Finding> {
        self.0
    }
}
