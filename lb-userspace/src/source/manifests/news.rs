//! What the events of inotify mean for the manifests.

use std::ffi::OsStr;
use std::path::Path;

use notify::Event;
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};

use super::scan;
use super::touched::Touched;

/// What events tell.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What may have changed.
    pub(super) touched: Touched,
    /// Whether something happened beside manifests, which may be what a link
    /// leads to.
    pub(super) beside: bool,
    /// Whether a change is complete.
    pub(super) complete: bool,
}

impl News {
    /// Takes an event; whether it can mean a change. What is read does not, what
    /// happens outside does not, and neither do files with a dot, under which
    /// careful writers begin.
    pub(super) fn take(&mut self, event: Option<&Event>, dir: &Path) -> bool {
        let Some(event) = event.filter(|event| !event.need_rescan() && !event.paths.is_empty())
        else {
            return self.anything();
        };
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        // Both halves of a rename were told before the whole.
        let told = event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::Both));
        if told || (event.kind.is_access() && !closed) {
            return false;
        }
        let mut concerns = false;
        for path in event.paths.iter().filter(|path| path.starts_with(dir)) {
            concerns |= match path.file_name().filter(|_| path.parent() == Some(dir)) {
                // The directory itself, or the link that all of a mounted
                // ConfigMap leads through.
                None => self.anything(),
                Some(name) if name.as_encoded_bytes().starts_with(b"..") => self.anything(),
                Some(name) if scan::is_manifest(name) => self.file(name),
                Some(name) if name.as_encoded_bytes().starts_with(b".") => continue,
                Some(_) => {
                    self.beside = true;
                    true
                }
            };
        }
        let renamed = matches!(event.kind, EventKind::Modify(ModifyKind::Name(_)));
        self.complete |= concerns && (closed || renamed || event.kind.is_remove());
        concerns
    }

    fn anything(&mut self) -> bool {
        self.touched = Touched::Anything;
        true
    }

    fn file(&mut self, name: &OsStr) -> bool {
        self.touched.add(Touched::Files([name.to_owned()].into()));
        true
    }
}
