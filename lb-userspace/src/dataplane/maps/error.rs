//! What can go wrong with the pinned maps.

use aya::maps::MapError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A pinned map could not be opened, read or written.
#[derive(Debug, Error)]
pub enum MapsError {
    /// Nothing is pinned there.
    #[error(
        "no load balancer is loaded at {}: start `lb agent`, or name its directory with --pin-dir",
        .pin_dir.display()
    )]
    NotLoaded {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// The maps are another release's.
    #[error(
        "the maps in {} have layout version {found}, and this program reads {expected}: use the `lb` of the agent that made them",
        .pin_dir.display()
    )]
    Version {
        /// The pin directory.
        pin_dir: PathBuf,
        /// The version of the maps.
        found: u64,
        /// The version of this program.
        expected: u64,
    },
    /// The pin directory or the map may not be read.
    #[error("{} can't be read without root rights", .pin_dir.display())]
    Permission {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// One map can't be opened.
    #[error("map {map}: opening {} failed: {}", .path.display(), describe(.source))]
    Open {
        /// Name of the map.
        map: &'static str,
        /// Where it should be pinned.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// The kernel does not tell about the map.
    #[error("map {map}: asking the kernel about it failed: {}", describe(.source))]
    Info {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// The map is another version's.
    #[error("map {map}: its kind or its sizes are not those of this version of lb")]
    Layout {
        /// Name of the map.
        map: &'static str,
    },
    /// The map can't be mapped into memory.
    #[error("map {map}: mapping it into memory failed: {source}")]
    MapMemory {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: io::Error,
    },
    /// An index that the map does not have.
    #[error("map {map}: index {index} is out of its range of {len}")]
    Index {
        /// Name of the map.
        map: &'static str,
        /// The index.
        index: u32,
        /// Elements of the map.
        len: u32,
    },
    /// Reading a row failed.
    #[error("map {map}: reading failed: {}", describe(.source))]
    Read {
        /// Name of the map.
        map: &'static str,
        /// Why.
        source: MapError,
    },
    /// Writing a row failed.
    #[error("map {map}: writing {row} failed: {}", describe(.source))]
    Write {
        /// Name of the map.
        map: &'static str,
        /// Which row, as people would call it.
        row: String,
        /// Why.
        source: MapError,
    },
    /// The number of CPUs, which per-CPU rows need, can't be read.
    #[error("the number of possible CPUs can't be read: {source}")]
    Cpus {
        /// Why.
        source: io::Error,
    },
}

/// The whole chain in one line; aya's own message leaves out the kernel's.
fn describe(error: &MapError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}
