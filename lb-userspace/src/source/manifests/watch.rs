//! Tells when the directory may have changed: by inotify within milliseconds,
//! and by looking now and then at what inotify does not see (a link's target
//! elsewhere, a directory in place of the old one, a queue that ran over).

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::scan::{self, Stamp};

/// Quiet time after which a burst of events counts as over.
const QUIET: Duration = Duration::from_millis(10);
/// A burst is reported after this time even if it goes on.
const PATIENCE: Duration = Duration::from_millis(60);
/// How often to look while inotify works.
const RESCAN: Duration = Duration::from_secs(1);
/// How often to look where inotify does not work, or there is no directory.
const RESCAN_ALONE: Duration = Duration::from_millis(100);

/// Starts the thread that watches. It ends within [`RESCAN`] after the receiver.
pub(super) fn start(path: PathBuf, busy: Arc<AtomicBool>) -> io::Result<mpsc::Receiver<()>> {
    let (changes, receiver) = mpsc::channel(1);
    // Before the caller's first load, so that nothing between it and the first
    // event is missed.
    let watch = Watch::new(std::path::absolute(path)?);
    thread::Builder::new()
        .name("lb-manifests".to_owned())
        .spawn(move || watch.run(&changes, &busy))?;
    Ok(receiver)
}

struct Watch {
    path: PathBuf,
    /// The directory that inotify watches, and the means to stop it.
    inotify: Option<(Stamp, RecommendedWatcher)>,
    /// Whether it was said that inotify does not work.
    complained: bool,
    signals: std_mpsc::Receiver<()>,
    signal: std_mpsc::SyncSender<()>,
    /// The state of all files when last looked at.
    seen: Option<u64>,
}

impl Watch {
    fn new(path: PathBuf) -> Self {
        // One signal stands for any number of events, so one place is enough.
        let (signal, signals) = std_mpsc::sync_channel(1);
        let mut watch =
            Self { path, inotify: None, complained: false, signals, signal, seen: None };
        watch.follow();
        watch.seen = fingerprint(&watch.path);
        watch
    }

    fn run(mut self, changes: &mpsc::Sender<()>, busy: &AtomicBool) {
        while !changes.is_closed() {
            let pause = if self.inotify.is_some() { RESCAN } else { RESCAN_ALONE };
            let told = match self.signals.recv_timeout(pause) {
                Ok(()) => {
                    self.let_burst_pass();
                    true
                }
                Err(RecvTimeoutError::Timeout) => busy.load(Ordering::Relaxed),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            self.follow();
            let now = fingerprint(&self.path);
            let differs = now != self.seen;
            self.seen = now;
            if told || differs {
                // Full means that a message is on its way already.
                let _ = changes.try_send(());
            }
        }
    }

    /// Waits for the end of a burst, so that a file is read after its last write
    /// and a set of files as a whole.
    fn let_burst_pass(&self) {
        let end = Instant::now() + PATIENCE;
        while self.signals.recv_timeout(QUIET).is_ok() && Instant::now() < end {}
    }

    /// Makes sure that inotify watches the directory that the path leads to now.
    fn follow(&mut self) {
        let now = fs::metadata(&self.path).ok().filter(fs::Metadata::is_dir);
        let Some(now) = now.map(|metadata| Stamp::of(&metadata)) else {
            self.inotify = None;
            return;
        };
        if self.inotify.as_ref().is_some_and(|(watched, _)| watched.same_file(now)) {
            return;
        }
        match self.watcher() {
            Ok(watcher) => self.inotify = Some((now, watcher)),
            Err(error) => {
                self.inotify = None;
                if !self.complained {
                    tracing::warn!(
                        "no notification of changes in {}, so it is looked at every {} ms: {error}",
                        self.path.display(),
                        RESCAN_ALONE.as_millis(),
                    );
                }
                self.complained = true;
            }
        }
    }

    fn watcher(&self) -> notify::Result<RecommendedWatcher> {
        let signal = self.signal.clone();
        let path = self.path.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| concerns(event, &path)) {
                // Full means that a signal is waiting already.
                let _ = signal.try_send(());
            }
        })?;
        watcher.watch(&self.path, RecursiveMode::NonRecursive)?;
        // Tells at once when the directory itself is replaced.
        if let Some(parent) = self.path.parent() {
            watcher.watch(parent, RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }
}

/// Whether an event can mean a change in the directory: what is read does not,
/// and what happens beside it does not either.
fn concerns(event: &Event, dir: &Path) -> bool {
    let reading = matches!(event.kind, EventKind::Access(access)
        if access != AccessKind::Close(AccessMode::Write));
    let beside = !event.paths.is_empty() && event.paths.iter().all(|path| !path.starts_with(dir));
    !reading && !beside
}

/// A value that differs if a file came, went or changed; none if the directory
/// can't be read.
fn fingerprint(dir: &Path) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    for name in scan::list(dir).ok()? {
        scan::stamp(&dir.join(&name)).ok().flatten().hash(&mut hasher);
        name.hash(&mut hasher);
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    type Step<'a> = (&'a str, &'a dyn Fn() -> io::Result<()>);

    /// Waits for a message; how long it took.
    fn wait(receiver: &mut mpsc::Receiver<()>, limit: Duration) -> Option<Duration> {
        let start = Instant::now();
        while start.elapsed() < limit {
            match receiver.try_recv() {
                Ok(()) => return Some(start.elapsed()),
                Err(mpsc::error::TryRecvError::Empty) => thread::sleep(Duration::from_millis(1)),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
            }
        }
        None
    }

    /// Lets everything that was caused so far come in.
    fn settle(receiver: &mut mpsc::Receiver<()>) {
        while wait(receiver, Duration::from_millis(150)).is_some() {}
    }

    fn watched() -> (tempfile::TempDir, PathBuf, mpsc::Receiver<()>) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        fs::create_dir(&dir).unwrap();
        let mut receiver = start(dir.clone(), Arc::default()).unwrap();
        settle(&mut receiver);
        (parent, dir, receiver)
    }

    #[test]
    fn every_way_to_change_a_file_is_told_and_reading_is_not() {
        let (_parent, dir, mut receiver) = watched();
        let file = dir.join("a.yaml");
        let steps: [Step<'_>; 5] = [
            ("create", &|| fs::write(&file, "a")),
            ("write", &|| fs::write(&file, "b")),
            ("replace", &|| {
                fs::write(dir.join(".new"), "c")?;
                fs::rename(dir.join(".new"), &file)
            }),
            ("rename", &|| fs::rename(&file, dir.join("b.yaml"))),
            ("remove", &|| fs::remove_file(dir.join("b.yaml"))),
        ];
        for (name, step) in steps {
            step().unwrap();
            assert!(wait(&mut receiver, Duration::from_secs(5)).is_some(), "{name}");
            settle(&mut receiver);
        }
        fs::write(&file, "a").unwrap();
        settle(&mut receiver);
        fs::read(&file).unwrap();
        assert_eq!(wait(&mut receiver, Duration::from_millis(300)), None);
    }

    #[test]
    fn a_directory_that_is_removed_and_made_again_is_watched_again() {
        let (_parent, dir, mut receiver) = watched();
        fs::remove_dir(&dir).unwrap();
        assert!(wait(&mut receiver, Duration::from_secs(5)).is_some());
        settle(&mut receiver);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a.yaml"), "a").unwrap();
        assert!(wait(&mut receiver, Duration::from_secs(5)).is_some());
        settle(&mut receiver);
        fs::write(dir.join("a.yaml"), "b").unwrap();
        assert!(wait(&mut receiver, Duration::from_secs(5)).is_some());
    }

    #[test]
    fn links_that_are_switched_elsewhere_are_noticed() {
        let (parent, dir, mut receiver) = watched();
        let target = parent.path().join("target");
        fs::write(&target, "a").unwrap();
        symlink(&target, dir.join("a.yaml")).unwrap();
        settle(&mut receiver);
        fs::write(&target, "other").unwrap();
        assert!(wait(&mut receiver, Duration::from_secs(5)).is_some());
    }

    #[test]
    fn what_happens_beside_the_directory_is_no_change() {
        let (parent, _dir, mut receiver) = watched();
        fs::write(parent.path().join("manifests2"), "").unwrap();
        assert_eq!(wait(&mut receiver, Duration::from_millis(300)), None);
    }
}
