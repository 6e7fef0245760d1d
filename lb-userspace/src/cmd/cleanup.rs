//! `lb cleanup`: removes everything that was loaded, attached or pinned.

use crate::dataplane::{DEFAULT_PIN_DIR, cleanup};
use anyhow::Result;
use std::io::{ErrorKind, Write as _, stdout};
use std::path::PathBuf;

/// Remove everything that was loaded, attached or pinned. Services stop
/// working; run it in the network namespace that the agent ran in
#[derive(Debug, clap::Args)]
pub struct CleanupArgs {
    /// Directory on a BPF file system that the agent was started with
    #[arg(long, value_name = "DIR", default_value = DEFAULT_PIN_DIR)]
    pub pin_dir: PathBuf,
}

/// Runs the command. Nothing to remove is fine.
pub fn run(args: &CleanupArgs) -> Result<()> {
    let report = cleanup(&args.pin_dir)?;
    match writeln!(stdout().lock(), "{report}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        Ok(()) | Err(_) => Ok(()),
    }
}
