//! What this kernel makes of the programs: each is loaded as the agent loads
//! it, attached to nothing, pinned nowhere, and gone when the answer is there.

use super::load::Programs;
use super::{DataplaneError, HookOptions};
use lb_common::names;

/// The kernel's answer about one program.
#[derive(Debug)]
pub struct Probe {
    /// Its name.
    pub program: &'static str,
    /// How many instructions the verifier went through, where it tells (since
    /// Linux 5.16); or why it refuses the program.
    pub verified: Result<Option<u32>, DataplaneError>,
}

/// Loads the programs of the object that are wanted, by name, over maps of its own.
/// Fails if the maps can't be made.
pub fn probe(
    options: &HookOptions,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Probe>, DataplaneError> {
    let mut programs = Programs::open(options, None)?;
    let classifiers =
        [names::PROG_INGRESS, names::PROG_EGRESS, names::PROG_INGRESS_L3, names::PROG_EGRESS_L3];
    let sockets = names::PROGS_SOCKET.map(|(name, _)| name);
    let every = classifiers.into_iter().chain([names::PROG_XDP]).chain(sockets);
    Ok(every
        .filter(|program| wanted(program))
        .map(|program| {
            let info = if program == names::PROG_XDP {
                programs.xdp().map(|loaded| loaded.info())
            } else if sockets.contains(&program) {
                programs.socket(program).map(|loaded| loaded.info())
            } else {
                programs.classifier(program).map(|loaded| loaded.info())
            };
            let verified = info.and_then(|info| {
                info.map(|info| info.verified_instruction_count())
                    .map_err(|source| DataplaneError::Program { program, source })
            });
            Probe { program, verified }
        })
        .collect())
}
