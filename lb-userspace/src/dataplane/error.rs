//! What can go wrong with the data plane as a whole. What goes wrong on one
//! interface is in the status and stops nothing else.

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use std::io;
use std::path::PathBuf;

/// Why the data plane can't be set up, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum DataplaneError {
    /// This process has too few rights.
    #[error(transparent)]
    Privilege(#[from] crate::privilege::PrivilegeError),
    /// Everybody could put other maps and programs there.
    #[error("the pin directory {} {exposure}", pin_dir.display())]
    Exposed {
        /// The pin directory.
        pin_dir: PathBuf,
        /// How.
        exposure: crate::privilege::Exposure,
    },
    /// Somebody else could.
    #[error(
        "the pin directory {} belongs to the user with id {owner}, who could replace the maps and programs in it: choose another --pin-dir",
        pin_dir.display()
    )]
    Owned {
        /// The pin directory.
        pin_dir: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The pin directory is not on a BPF file system, and none can be mounted.
    #[error("{} is not on a BPF file system: {reason}", pin_dir.display())]
    NotBpffs {
        /// The pin directory.
        pin_dir: PathBuf,
        /// What to do.
        reason: String,
    },
    /// BPF file systems reserve names with dots.
    #[error("the pin directory {} contains a dot, which a BPF file system refuses in names", pin_dir.display())]
    DottedPinDir {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// Another agent is at work.
    #[error("another agent uses the pin directory {}: stop it first, replace it with --takeover, or choose another --pin-dir", pin_dir.display())]
    InUse {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// Pins whose layout is another than this process needs.
    #[error(
        "the pins in {} have another layout ({difference}): `lb agent --replace-layout` puts new ones in their place while Services stay in force, and loses {lost}",
        pin_dir.display()
    )]
    Layout {
        /// The pin directory.
        pin_dir: PathBuf,
        /// What differs.
        difference: super::layout::Difference,
        /// What would be lost.
        lost: super::layout::Lost,
    },
    /// Flows can't be brought from one table to another.
    #[error("the flows in force can't be brought along: {0}")]
    Flows(#[source] Box<super::maps::MapsError>),
    /// Pins that serve another network namespace.
    #[error(
        "the pins in {0} serve another network namespace: choose another --pin-dir, or run `lb cleanup --pin-dir {0}` first",
        pin_dir.display()
    )]
    OtherNamespace {
        /// The pin directory.
        pin_dir: PathBuf,
    },
    /// A map could not be opened, read or written.
    #[error("map {map}: {}", root(source))]
    Map {
        /// The map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The object could not be loaded.
    #[error("the kernel refused the BPF object: {}", root(source))]
    Object {
        /// What the kernel said.
        source: EbpfError,
    },
    /// The object lacks a program.
    #[error("the BPF object has no program {program}")]
    MissingProgram {
        /// The program.
        program: &'static str,
    },
    /// The kernel refused a program.
    #[error("the kernel refused the program {program}: {}", refusal(source))]
    Program {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The kernel refused a program before; the same sentence again.
    #[error("{0}")]
    Refused(String),
    /// A file operation failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The network could not be read.
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
}

impl From<super::maps::MapsError> for DataplaneError {
    fn from(error: super::maps::MapsError) -> Self {
        Self::Flows(Box::new(error))
    }
}

/// An error with what caused it, on one line.
fn root(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    one_line(&text)
}

/// The verifier's complaint is at the end of its log; the rest is the program.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return describe(error);
    };
    let noise = ["processed ", "verification time", "stack depth"];
    let log = verifier_log.to_string();
    let complaint = log
        .lines()
        .map(str::trim)
        .rfind(|line| !line.is_empty() && !noise.iter().any(|noise| line.starts_with(noise)));
    match complaint {
        Some(complaint) => format!("{io_error}, since {complaint}"),
        None => io_error.to_string(),
    }
}

/// What the kernel said to an attempt to attach, on one line.
pub(super) fn describe(error: &ProgramError) -> String {
    root(error)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
