//! Takes the data plane down: links, filters, maps, pins, directory. Works on
//! what is there, so also after half of it is gone.

use super::clsact::Clsact;
use super::pins::list;
use super::sys::{self, LinkKind};
use super::{DataplaneError, PinDir, abi, attach, bpffs};
use crate::netlink;
use crate::privilege;
use aya::maps::MapInfo;
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

/// How often, and how long in all (two seconds), to look whether the kernel
/// has freed what was removed. It does so some time after the last user left.
const FREED_POLL: Duration = Duration::from_millis(10);
const FREED_POLLS: u32 = 200;

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CleanupReport {
    /// One line for each thing.
    pub removed: Vec<String>,
}

impl fmt::Display for CleanupReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.removed.is_empty() {
            return f.write_str("nothing to remove");
        }
        write!(f, "removed:")?;
        self.removed.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// Removes everything that was loaded, attached or pinned with this pin
/// directory, and waits until the kernel has freed it. Refuses while an agent
/// runs. Filters are removed in the network namespace of the caller.
pub fn cleanup(pin_dir: &Path) -> Result<CleanupReport, DataplaneError> {
    privilege::check()?;
    let pins = PinDir::new(pin_dir);
    let mut report = CleanupReport::default();
    let mut freed = Objects::default();
    let exists = pin_dir.exists();
    if exists && !bpffs::is_on(pin_dir) {
        return Err(DataplaneError::NotBpffs {
            pin_dir: pin_dir.into(),
            reason: "nothing of this program can be there".into(),
        });
    }
    let lock = if exists { Some(pins.lock()?) } else { None };
    remove_filters(&pins, &mut report)?;
    remove_links(&pins, &mut report, &mut freed)?;
    remove_maps(&pins, &mut report, &mut freed)?;
    if exists && remove_directories(&pins) {
        report.removed.push(format!("directory {}", pin_dir.display()));
    }
    drop(lock);
    freed.wait();
    Ok(report)
}

fn remove_filters(pins: &PinDir, report: &mut CleanupReport) -> Result<(), DataplaneError> {
    let mut clsact = Clsact::open(pins)?;
    let elsewhere =
        abi::read(pins)?.is_some_and(|made| made.namespace != abi::Abi::current().namespace);
    if elsewhere && !clsact.interfaces().is_empty() {
        report.removed.push(
            "not the clsact filters in the agent's network namespace, which is another: run this \
             in it too, unless it is gone (`nsenter --net=/run/netns/NAME`)"
                .to_owned(),
        );
    }
    for (index, name) in netlink::interfaces()? {
        match clsact.detach(index) {
            Ok(0) => {}
            Ok(filters) => report.removed.push(format!("{filters} clsact filters of {name}")),
            Err(error) => report.removed.push(format!("not the clsact filters of {name}: {error}")),
        }
    }
    Ok(())
}

fn remove_links(
    pins: &PinDir,
    report: &mut CleanupReport,
    freed: &mut Objects,
) -> Result<(), DataplaneError> {
    let names = netlink::interfaces()?;
    for path in list(&pins.links())? {
        let info = attach::info(&path);
        freed.programs.extend(info.map(|info| info.program));
        let detached = attach::detach(&path);
        let detached = detached.map_err(|source| remove_failed(&path, source))?;
        let pin = file_name(&path);
        let on = info.filter(|info| info.kind != LinkKind::Cgroup).map(|info| info.index);
        let name = on.and_then(|on| names.iter().find(|(index, _)| *index == on));
        report.removed.push(match name {
            Some((_, name)) if detached => format!("link {pin} ({name})"),
            Some(_) | None => format!("link {pin}"),
        });
    }
    Ok(())
}

fn remove_maps(
    pins: &PinDir,
    report: &mut CleanupReport,
    freed: &mut Objects,
) -> Result<(), DataplaneError> {
    for path in list(&pins.maps())?.into_iter().chain(list(&pins.staged().maps())?) {
        freed.maps.extend(MapInfo::from_pin(&path).map(|info| info.id()));
        fs::remove_file(&path).map_err(|source| remove_failed(&path, source))?;
        report.removed.push(format!("map {}", file_name(&path)));
    }
    Ok(())
}

/// Removes the directories with the map pins that are in them; false if
/// something else keeps the pin directory.
pub(super) fn remove_directories(pins: &PinDir) -> bool {
    remove_staged(pins);
    for path in list(&pins.maps()).unwrap_or_default() {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(%error, "cannot remove {}", path.display());
        }
    }
    for path in [pins.maps(), pins.links(), pins.path().to_path_buf()] {
        match fs::remove_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::debug!(%error, "keeps {}", path.display());
                return false;
            }
        }
    }
    true
}

/// Removes maps that are staged, or that others took the place of.
pub(super) fn remove_staged(pins: &PinDir) {
    let staged = pins.staged();
    if staged.path().exists() {
        remove_directories(&staged);
    }
}

/// Ids of kernel objects that should go away.
#[derive(Default)]
struct Objects {
    programs: Vec<u32>,
    maps: Vec<u32>,
}

impl Objects {
    fn wait(&self) {
        for _ in 0..FREED_POLLS {
            let there = self.programs.iter().any(|id| sys::program_exists(*id))
                || self.maps.iter().any(|id| sys::map_exists(*id));
            if !there {
                return;
            }
            sleep(FREED_POLL);
        }
        tracing::warn!("another process still uses some of the programs or maps");
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn remove_failed(path: &Path, source: io::Error) -> DataplaneError {
    DataplaneError::Io { operation: "remove", path: path.into(), source }
}
