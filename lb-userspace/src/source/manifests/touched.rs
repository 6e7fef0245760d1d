//! What the watcher saw and nobody has looked at yet.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

/// What may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Touched {
    /// These files and nothing else.
    Files(BTreeSet<OsString>),
    /// Anything.
    Anything,
}

impl Default for Touched {
    fn default() -> Self {
        Self::Files(BTreeSet::new())
    }
}

impl Touched {
    /// Both.
    pub(super) fn add(&mut self, other: Self) {
        match (self, other) {
            (Self::Files(names), Self::Files(more)) => names.extend(more),
            (this, _) => *this = Self::Anything,
        }
    }
}

/// Shared between the watcher, which adds, and the reader, which takes.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<Touched>);

impl Shared {
    /// Something may have changed.
    pub(super) fn add(&self, touched: Touched) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).add(touched);
    }

    /// Takes all of it, to look at it.
    pub(super) fn take(&self) -> Touched {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
