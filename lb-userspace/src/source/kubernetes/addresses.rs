//! Where the API servers are, as they themselves said last. The address that the
//! agent was told may be the cluster address of the Service `kubernetes`, which
//! this very agent has to serve: who starts with empty maps reaches nobody there,
//! and needs the ones behind it. A file keeps them over a restart of the machine.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::desired::Protocol;
use crate::model::{EndpointSlice, Objects};
use crate::privilege::exposure;

/// The Service that stands for the API servers.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
/// Its port.
const PORT: &str = "https";
/// More API servers than any cluster has.
const MOST: usize = 64;

/// The addresses that are known.
#[derive(Debug)]
pub(super) struct ApiAddresses {
    file: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeSet<SocketAddr>,
    /// Whether it was said that they can't be kept.
    complained: bool,
}

impl ApiAddresses {
    /// Those that an earlier agent left in a file; that there is none is normal.
    pub(super) fn read(file: &Path) -> Self {
        let known = match read(file) {
            Ok(known) => known,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => {
                tracing::warn!("no API servers are known from {}: {error}", file.display());
                BTreeSet::new()
            }
        };
        let state = State { known, complained: false };
        Self { file: file.to_path_buf(), state: Mutex::new(state) }
    }

    /// All of them.
    pub(super) fn known(&self) -> Vec<SocketAddr> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.iter().copied().collect()
    }

    /// Takes them from the endpoints of the Service. None at all is not believed:
    /// somebody has just told so.
    pub(super) fn learn(&self, objects: &Objects) {
        let slices = objects.endpoint_slices.values().map(|slice| &*slice.object);
        let known: BTreeSet<SocketAddr> =
            slices.filter(|slice| is_api(slice)).flat_map(of).collect();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_empty() || known == state.known {
            return;
        }
        state.known = known;
        if let Err(error) = write(&self.file, &state.known) {
            if !state.complained {
                tracing::warn!(
                    "the addresses of the API servers can't be kept in {}: {error}",
                    self.file.display()
                );
            }
            state.complained = true;
        }
    }
}

/// Whether a slice belongs to the Service of the API servers.
pub(super) fn is_api(slice: &EndpointSlice) -> bool {
    slice.name.namespace == NAMESPACE && slice.service.as_deref() == Some(SERVICE)
}

fn of(slice: &EndpointSlice) -> impl Iterator<Item = SocketAddr> + use<'_> {
    let is_https = |port: &&_| {
        let port: &crate::model::SlicePort = port;
        port.name == PORT && port.protocol == Protocol::Tcp
    };
    let port = slice.ports.iter().find(is_https).map(|port| port.port);
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.conditions.ready);
    ready.filter_map(move |endpoint| Some(SocketAddr::new(endpoint.addr, port?)))
}

/// Lines that are no addresses are left out: half a file is better than none.
fn read(file: &Path) -> io::Result<BTreeSet<SocketAddr>> {
    let text = fs::read_to_string(file)?;
    if let Some(exposure) = file.parent().map(exposure).transpose()?.flatten() {
        let directory = file.parent().unwrap_or(file).display();
        return Err(io::Error::other(format!("the directory {directory} {exposure}")));
    }
    Ok(text.lines().take(MOST).filter_map(|line| line.trim().parse().ok()).collect())
}

/// As a whole, so that nobody ever reads half of it.
fn write(file: &Path, known: &BTreeSet<SocketAddr>) -> io::Result<()> {
    let lines: Vec<String> = known.iter().take(MOST).map(ToString::to_string).collect();
    let text = lines.join("\n") + "\n";
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut fresh = file.to_path_buf();
    fresh.set_extension("new");
    fs::write(&fresh, text)?;
    fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::source::manifests::read_text;

    fn objects(addresses: &[&str]) -> Arc<Objects> {
        let endpoints: Vec<String> =
            addresses.iter().map(|addr| format!("{{addresses: [{addr}]}}")).collect();
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: kubernetes, namespace: default, \
             labels: {{kubernetes.io/service-name: kubernetes}}}}\n\
             addressType: IPv4\nports: [{{name: https, port: 6443}}]\nendpoints: [{}]\n",
            endpoints.join(", ")
        );
        read_text("a.yaml", &text).objects
    }

    #[test]
    fn what_was_learned_is_there_after_a_restart() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("state/lb.api-servers");
        let addresses = ApiAddresses::read(&file);
        assert_eq!(addresses.known(), []);
        addresses.learn(&objects(&["192.0.2.1", "192.0.2.2"]));
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:6443".parse().unwrap(), "192.0.2.2:6443".parse().unwrap()];
        assert_eq!(ApiAddresses::read(&file).known(), expected);
        // The Service without any endpoint is no reason to forget.
        addresses.learn(&objects(&[]));
        assert_eq!(addresses.known(), expected);
        addresses.learn(&objects(&["192.0.2.3"]));
        assert_eq!(ApiAddresses::read(&file).known(), ["192.0.2.3:6443".parse().unwrap()]);
    }

    #[test]
    fn a_spoilt_file_and_one_that_anybody_writes_name_no_servers() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("lb.api-servers");
        fs::write(&file, "192.0.2.1:6443\nrubbish\n\0\n").unwrap();
        assert_eq!(ApiAddresses::read(&file).known(), ["192.0.2.1:6443".parse().unwrap()]);
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(ApiAddresses::read(&file).known(), []);
    }
}
