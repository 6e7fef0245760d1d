//! kube-proxy's own configuration: its file is read, and the agent tells what it
//! does in the same words. What of it means something here becomes flags of the
//! agent; what does not is named with the reason. docs/kube-proxy.md has all of it.

mod duration;
mod file;
mod flags;
mod no_effect;
mod types;

pub use file::{ConfigFileError, Loaded, read};
pub use flags::Flag;
pub use no_effect::NO_EFFECT;
pub use types::{API_VERSION, GROUP, KIND};
pub(crate) use types::{
    ClientConnection, DetectLocalConfiguration, IpTablesConfiguration, KubeProxyConfiguration,
};

pub(crate) use duration::GoDuration;

/// What the agent answers where kube-proxy names its mode. None of kube-proxy's
/// own would be true: whoever reads one looks for that mode's rules, and finds none.
pub const MODE: &str = "ebpf";

/// The paths of all fields that a file may have, as in `conntrack.min`.
pub fn fields() -> Vec<String> {
    let value = serde_json::to_value(KubeProxyConfiguration::default()).unwrap_or_default();
    let mut paths = Vec::new();
    leaves(&value, "", &mut paths);
    paths
}

fn leaves(value: &serde_json::Value, path: &str, paths: &mut Vec<String>) {
    match value.as_object() {
        Some(fields) => {
            for (name, value) in fields {
                let separator = if path.is_empty() { "" } else { "." };
                leaves(value, &format!("{path}{separator}{name}"), paths);
            }
        }
        None => paths.push(path.to_owned()),
    }
}
