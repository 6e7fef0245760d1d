//! Tells when the directory may have changed: by inotify within a millisecond,
//! and by looking now and then at what inotify does not see (a link's target
//! elsewhere, a directory in place of the old one, a queue that ran over).
//!
//! The first change after a quiet time is told at once if it is complete: a file
//! that was closed, renamed or removed. What follows on its heels is a burst and
//! told together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self as std_mpsc, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::news::News;
use super::scan::{self, Stamp};
use super::touched::{Shared, Touched};

/// Quiet time after which a burst of events counts as over.
const QUIET: Duration = Duration::from_millis(10);
/// A burst is reported after this time even if it goes on.
const PATIENCE: Duration = Duration::from_millis(60);
/// How often to look while inotify works.
const RESCAN: Duration = Duration::from_secs(1);
/// How often to look where inotify does not work, or there is no directory.
const RESCAN_ALONE: Duration = Duration::from_millis(100);

/// Starts the thread that watches. It ends within [`RESCAN`] after the receiver.
pub(super) fn start(
    path: PathBuf,
    busy: Arc<AtomicBool>,
    touched: Arc<Shared>,
) -> io::Result<mpsc::Receiver<()>> {
    let (changes, receiver) = mpsc::channel(1);
    // Before the caller's first load, so that nothing between it and the first
    // event is missed.
    let watch = Watch::new(std::path::absolute(path)?);
    thread::Builder::new()
        .name("lb-manifests".to_owned())
        .spawn(move || watch.run(&changes, &busy, &touched))?;
    Ok(receiver)
}

/// States of files by name; none if the directory can't be read.
type Stamps = Option<BTreeMap<OsString, Option<Stamp>>>;

struct Watch {
    path: PathBuf,
    /// The directory that inotify watches, and the means to stop it.
    inotify: Option<(Stamp, RecommendedWatcher)>,
    /// Whether it was said that inotify does not work.
    complained: bool,
    signals: std_mpsc::Receiver<()>,
    signal: std_mpsc::SyncSender<()>,
    /// What events told and nobody has told on.
    news: Arc<Mutex<News>>,
    /// The state of all files when last looked at.
    seen: Stamps,
}

impl Watch {
    fn new(path: PathBuf) -> Self {
        // One signal stands for any number of events, so one place is enough.
        let (signal, signals) = std_mpsc::sync_channel(1);
        let (inotify, complained, news) = Default::default();
        let mut watch = Self { path, inotify, complained, signals, signal, news, seen: None };
        watch.follow();
        watch.seen = stamps(&watch.path);
        watch
    }

    fn run(mut self, changes: &mpsc::Sender<()>, busy: &AtomicBool, touched: &Shared) {
        let mut quiet_since = Instant::now();
        while !changes.is_closed() {
            let pause = if self.inotify.is_some() { RESCAN } else { RESCAN_ALONE };
            let news = match self.signals.recv_timeout(pause) {
                Ok(()) => {
                    self.let_burst_pass(quiet_since.elapsed() >= QUIET);
                    quiet_since = Instant::now();
                    self.take_news()
                }
                Err(RecvTimeoutError::Timeout) => {
                    let news = News { beside: true, ..News::default() };
                    if busy.load(Ordering::Relaxed) {
                        News { touched: Touched::Anything, ..news }
                    } else {
                        news
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let found = self.look(news);
            if found != Touched::default() {
                touched.add(found);
                // Full means that a message is on its way already.
                let _ = changes.try_send(());
            }
        }
    }

    /// Waits for the end of a burst, so that a file is read after its last write
    /// and a set of files as a whole. The first change does not wait for more.
    fn let_burst_pass(&self, first: bool) {
        let end = Instant::now() + PATIENCE;
        let complete = || self.news.lock().unwrap_or_else(PoisonError::into_inner).complete;
        while !(first && complete())
            && self.signals.recv_timeout(QUIET).is_ok()
            && Instant::now() < end
        {}
    }

    fn take_news(&self) -> News {
        std::mem::take(&mut self.news.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What may have changed, by what events tell and by looking, where they
    /// don't tell enough.
    fn look(&mut self, news: News) -> Touched {
        let News { mut touched, beside, complete: _ } = news;
        if let Touched::Files(names) = &touched
            && !beside
            && let Some(seen) = &mut self.seen
        {
            for name in names {
                seen.insert(name.clone(), scan::stamp(&self.path.join(name)).ok().flatten());
            }
            return touched;
        }
        self.follow();
        let now = stamps(&self.path);
        touched.add(match (&self.seen, &now) {
            (Some(before), Some(now)) => {
                let names = before.keys().chain(now.keys());
                let stamp = |stamps: &BTreeMap<OsString, Option<Stamp>>, name: &OsString| {
                    stamps.get(name).copied().flatten()
                };
                let differs = names.filter(|name| stamp(before, name) != stamp(now, name));
                Touched::Files(differs.cloned().collect())
            }
            (None, None) => Touched::default(),
            _ => Touched::Anything,
        });
        self.seen = now;
        touched
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
        let news = Arc::clone(&self.news);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let mut news = news.lock().unwrap_or_else(PoisonError::into_inner);
            if news.take(event.as_ref().ok(), &path) {
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

/// The states of all files; none if the directory can't be read.
fn stamps(dir: &Path) -> Stamps {
    let names = scan::list(dir).ok()?.into_iter();
    Some(names.map(|name| (name.clone(), scan::stamp(&dir.join(&name)).ok().flatten())).collect())
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
        while wait(receiver, Duration::from_millis(300)).is_some() {}
    }

    fn watched() -> (tempfile::TempDir, PathBuf, mpsc::Receiver<()>) {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        fs::create_dir(&dir).unwrap();
        let mut receiver = start(dir.clone(), Arc::default(), Arc::default()).unwrap();
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
        assert!(wait(&mut receiver, Duration::from_secs(5)).is_some());
        settle(&mut receiver);
        fs::read(&file).unwrap();
        assert_eq!(wait(&mut receiver, Duration::from_millis(300)), None);
    }

    #[test]
    fn the_first_change_is_told_without_waiting_for_more() {
        let (_parent, dir, mut receiver) = watched();
        let mut fastest = Duration::MAX;
        for round in 0..20 {
            fs::write(dir.join(".new"), round.to_string()).unwrap();
            fs::rename(dir.join(".new"), dir.join("a.yaml")).unwrap();
            fastest = fastest.min(wait(&mut receiver, Duration::from_secs(5)).unwrap());
            settle(&mut receiver);
        }
        assert!(fastest < QUIET, "{fastest:?}");
    }

    #[test]
    fn what_careful_writers_begin_with_is_no_change() {
        let (_parent, dir, mut receiver) = watched();
        fs::write(dir.join(".a.yaml.new"), "a").unwrap();
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
