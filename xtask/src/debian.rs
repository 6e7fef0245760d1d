//! Where Debian's packages come from on this machine.

use crate::shell;
use anyhow::{Context as _, Result, bail};

/// The line of apt's sources for a suite, from the archive that this machine's
/// own packages come from.
pub(crate) fn source(suite: &str) -> Result<String> {
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Ok(format!("deb [signed-by={keys}] {} {suite} main", mirror()?))
}

fn mirror() -> Result<String> {
    let mut targets = shell::command("apt-get");
    targets.args(["indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)"]);
    let text = shell::output(targets.arg("Created-By: Packages"));
    let text = text.context("`apt-get indextargets` fails: Debian's packages need Debian's apt")?;
    match text.lines().find_map(|line| line.strip_prefix("Debian Debian ")) {
        Some(mirror) => Ok(mirror.to_owned()),
        None => bail!("apt knows no archive of Debian here; after `apt-get update` it might"),
    }
}
