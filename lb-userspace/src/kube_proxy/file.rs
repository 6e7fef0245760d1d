//! The file, read strictly: what is unknown or of another type is refused by its
//! path, so that nobody believes in force what is not.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::flags::{BadValue, Flag, Flags, flags};
use super::no_effect;
use super::types::{API_VERSION, KIND, KubeProxyConfiguration};
use crate::privilege::is_exposed;
use crate::source::manifests::{field_path, parse};

/// What a file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// As flags of the agent.
    pub flags: Vec<Flag>,
    /// What of it has no effect, in one sentence.
    pub warning: Option<String>,
}

/// Why a file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its contents are refused.
    #[error("{}: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The field and what is wrong with it.
        reason: String,
    },
}

/// Reads a file; the name of the machine stands for the node where it names none.
pub fn read(
    path: &Path,
    machine: impl FnOnce() -> Option<String>,
) -> Result<Loaded, ConfigFileError> {
    let failed = |source| ConfigFileError::Read { path: path.to_path_buf(), source };
    let refused = |reason| ConfigFileError::Refused { path: path.to_path_buf(), reason };
    let mode = fs::metadata(path).map_err(failed)?.mode();
    if is_exposed(path, mode).map_err(failed)? {
        let file = path.display();
        return Err(refused(format!("can be written to by everybody: `chmod o-w {file}`")));
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    load(&text, machine)
        .map(|(flags, ignored)| Loaded { flags, warning: warning(path, &ignored) })
        .map_err(refused)
}

type Ignored = Vec<(&'static str, &'static str)>;

fn load(
    text: &str,
    machine: impl FnOnce() -> Option<String>,
) -> Result<(Vec<Flag>, Ignored), String> {
    let mut documents = parse(text, false).map_err(|error| error.to_string())?;
    let document = documents.pop().filter(|_| documents.is_empty());
    let document = document.ok_or_else(|| format!("must hold one {KIND}, and nothing else"))?;
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if document[field] != expected {
            return Err(format!("{field}: must be {expected:?}, not {}", document[field]));
        }
    }
    let config = typed(document.clone())?;
    let Flags { flags, mut without } = flags(&config, machine)
        .map_err(|BadValue { field, reason }| format!("{field}: {reason}"))?;
    without.extend(no_effect::of(&document));
    Ok((flags, without))
}

fn typed(document: Value) -> Result<KubeProxyConfiguration, String> {
    let mut unknown = Vec::new();
    let mut note = |path: serde_ignored::Path<'_>| unknown.push(field_path(&path));
    let config: Result<KubeProxyConfiguration, _> =
        serde_path_to_error::deserialize(serde_ignored::Deserializer::new(document, &mut note));
    let config = config.map_err(|error| format!("{}: {}", error.path(), error.inner()))?;
    match unknown.as_slice() {
        [] => Ok(config),
        [field] => Err(format!("{field}: is no field of a {KIND}")),
        fields => Err(format!("{}: are no fields of a {KIND}", fields.join(", "))),
    }
}

/// Fields with one reason are named together.
fn warning(path: &Path, ignored: &Ignored) -> Option<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for (field, reason) in ignored {
        match reasons.iter_mut().find(|(known, _)| known == reason) {
            Some((_, fields)) => fields.push(field),
            None => reasons.push((reason, vec![field])),
        }
    }
    let parts: Vec<String> = reasons
        .iter()
        .map(|(reason, fields)| format!("{} ({reason})", fields.join(", ")))
        .collect();
    (!parts.is_empty()).then(|| format!("{}: without effect: {}", path.display(), parts.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::flags::TAKEN;
    use super::super::{NO_EFFECT, fields};
    use super::*;
    use std::collections::BTreeSet;

    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    const MACHINE: fn() -> Option<String> = || Some("Machine".to_owned());

    fn line(text: &str) -> String {
        let (flags, _) = load(&format!("{HEAD}{text}"), MACHINE).unwrap();
        let flag = |flag: &Flag| match &flag.value {
            Some(value) => format!("--{} {value}", flag.name),
            None => format!("--{}", flag.name),
        };
        flags.iter().map(flag).collect::<Vec<_>>().join(" ")
    }

    fn refused(text: &str) -> String {
        load(&format!("{HEAD}{text}"), MACHINE).unwrap_err()
    }

    #[test]
    fn every_field_has_an_effect_or_a_reason() {
        let known: Vec<&str> =
            TAKEN.iter().copied().chain(NO_EFFECT.iter().map(|(field, _)| *field)).collect();
        let listed: BTreeSet<&str> = known.iter().copied().collect();
        assert_eq!(listed.len(), known.len(), "one is listed twice");
        let fields = fields();
        assert_eq!(listed, fields.iter().map(String::as_str).collect());
    }

    #[test]
    fn what_kubeadm_writes_is_taken_without_a_word() {
        let text = include_str!("kubeadm.yaml");
        let (flags, ignored) = load(text, MACHINE).unwrap();
        assert_eq!(ignored, []);
        let flags: Vec<(&str, Option<&str>)> =
            flags.iter().map(|flag| (flag.name, flag.value.as_deref())).collect();
        assert_eq!(
            flags,
            [
                ("kubeconfig", Some("/var/lib/kube-proxy/kubeconfig.conf")),
                ("node-name", Some("machine")),
                ("nodeport-addresses", Some("all")),
                ("detect-local", Some("cluster-cidr")),
                ("cluster-cidr", Some("10.244.0.0/16")),
            ]
        );
    }

    #[test]
    fn the_section_of_the_mode_in_use_counts() {
        let sections = "iptables: {minSyncPeriod: 10s, masqueradeAll: true, localhostNodePorts: false}\n\
                        ipvs: {minSyncPeriod: 1m30s, scheduler: wlc}\n\
                        nftables: {minSyncPeriod: 0s, masqueradeAll: false}\n";
        let head = "--in-cluster --node-name machine";
        assert_eq!(
            line(sections),
            format!(
                "{head} --masquerade kube-proxy --masquerade-all --localhost-nodeports off \
                 --nodeport-addresses all --min-sync-period 10000ms"
            )
        );
        assert_eq!(
            line(&format!("mode: ipvs\n{sections}")),
            format!(
                "{head} --masquerade kube-proxy --masquerade-all --policy least-connections \
                 --nodeport-addresses all --min-sync-period 90000ms"
            )
        );
        assert_eq!(line(&format!("mode: nftables\n{sections}")), head);
    }

    #[test]
    fn addresses_pods_and_nodes_become_flags() {
        assert_eq!(
            line(
                "mode: nftables\nhostnameOverride: Node-1\nnodePortAddresses: [192.0.2.0/24, primary]\n\
                 healthzBindAddress: 192.0.2.1\nmetricsBindAddress: 0.0.0.0:9000\n\
                 detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n"
            ),
            "--in-cluster --node-name node-1 --healthz-addr 192.0.2.1:10256 \
             --metrics-addr 0.0.0.0:9000 --nodeport-addresses 192.0.2.0/24,primary \
             --detect-local bridge-interface --pod-bridge-interface cni0"
        );
        // The default, of IPv6, and one that has to be had.
        assert_eq!(
            line("mode: nftables\nbindAddress: '::'\n"),
            "--in-cluster --node-name machine --healthz-addr [::]:10256 --metrics-addr [::1]:10249"
        );
        assert_eq!(
            line("mode: nftables\nbindAddressHardFail: true\n"),
            "--in-cluster --node-name machine --healthz-addr 0.0.0.0:10256 \
             --metrics-addr 127.0.0.1:10249"
        );
    }

    #[test]
    fn what_has_no_effect_is_named_once_with_the_reason() {
        let text = format!(
            "{HEAD}conntrack: {{maxPerCore: 65536, min: 131072, tcpBeLiberal: true}}\n\
             enableProfiling: true\nfeatureGates: {{}}\nmode: ipvs\nipvs: {{scheduler: sed}}\n"
        );
        let (_, ignored) = load(&text, MACHINE).unwrap();
        let text = warning(Path::new("c.yaml"), &ignored).unwrap();
        assert_eq!(
            text,
            "c.yaml: without effect: ipvs.scheduler (only rr, wrr, lc, wlc, sh and mh have a \
             counterpart; --policy names the others); enableProfiling (the agent has no profiler of Go's); \
             conntrack.maxPerCore, conntrack.tcpBeLiberal (the agent does not use the kernel's \
             connection tracking; its flow tables have --flows-v4 and --flows-v6 rows)"
        );
        assert_eq!(warning(Path::new("c.yaml"), &Vec::new()), None);
    }

    #[test]
    fn what_is_unknown_or_of_another_type_is_refused_by_its_path() {
        for (text, expected) in [
            ("conntrack: {maxPerCoer: 1}\n", "conntrack.maxPerCoer: is no field of a"),
            ("a: 1\nb: null\n", "a, b: are no fields of a KubeProxyConfiguration"),
            ("conntrack: {min: many}\n", "conntrack.min: invalid type: string \"many\""),
            ("iptables: {minSyncPeriod: 5}\n", "iptables.minSyncPeriod: invalid type: integer"),
            (
                "iptables: {minSyncPeriod: soon}\n",
                "iptables.minSyncPeriod: \"soon\" is no duration",
            ),
            ("iptables: {masqueradeAll: 1}\n", "iptables.masqueradeAll: invalid type: integer"),
            ("nodePortAddresses: 10.0.0.0/8\n", "nodePortAddresses: invalid type: string"),
            ("nodePortAddresses: [here]\n", "nodePortAddresses[0]: \"here\" is neither"),
            ("mode: userspace\n", "mode: \"userspace\" is not one of iptables, ipvs, nftables"),
            ("detectLocalMode: Guess\n", "detectLocalMode: \"Guess\" is not one of ClusterCIDR"),
            ("clusterCIDR: 10.0.0.0\n", "clusterCIDR: \"10.0.0.0\" is no range"),
            ("healthzBindAddress: 'here:1'\n", "healthzBindAddress: expected an address"),
            ("bindAddress: here\n", "bindAddress: is no address"),
            ("mode: iptables\nmode: ipvs\n", "line 4, column 1: duplicate"),
            ("---\na: b\n", "must hold one KubeProxyConfiguration"),
        ] {
            let reason = refused(text);
            assert!(reason.starts_with(expected), "{text}: {reason}");
        }
        let reason = load("apiVersion: v1\nkind: KubeProxyConfiguration\n", MACHINE).unwrap_err();
        assert!(reason.starts_with("apiVersion: must be \"kubeproxy."), "{reason}");
    }

    #[test]
    fn a_file_that_everybody_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("config.conf");
        fs::write(&path, HEAD).unwrap();
        assert!(read(&path, MACHINE).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        let error = read(&path, MACHINE).unwrap_err().to_string();
        assert!(error.contains("config.conf: can be written to by everybody"), "{error}");
        let error = read(&home.path().join("none"), MACHINE).unwrap_err().to_string();
        assert!(error.ends_with("none: No such file or directory (os error 2)"), "{error}");
    }
}
