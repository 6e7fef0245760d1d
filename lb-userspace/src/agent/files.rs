//! How many files the agent may have open: each port that it listens on is one
//! or two, and the usual limit is made for programs that use `select`.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes as many as the system allows. With fewer, what does not fit says so.
pub(super) fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::debug!("the limit of open files stays as it is: {error}");
    }
}
