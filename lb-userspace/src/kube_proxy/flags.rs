//! From kube-proxy's configuration to the agent's flags: each says what the file
//! asked of kube-proxy.

use std::str::FromStr as _;

use ipnet::IpNet;

use super::duration::GoDuration;
use super::types::KubeProxyConfiguration;
use crate::cli::NodePortAddress;

/// A flag of `lb agent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Its name, without the hyphens before it.
    pub name: &'static str,
    /// Its value, if it takes one.
    pub value: Option<String>,
}

/// A value that kube-proxy would not take either, or that can't be served.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadValue {
    pub(super) field: String,
    pub(super) reason: String,
}

impl BadValue {
    fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// Whose section of the file counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    IpTables,
    Ipvs,
    NfTables,
}

/// What a file comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Flags {
    pub(super) flags: Vec<Flag>,
    /// Values that kube-proxy takes and that have no counterpart, and why.
    pub(super) without: Vec<(&'static str, &'static str)>,
}

/// The flags, in kube-proxy's order of things; the name of the machine is asked
/// for where the file names no node.
pub(super) fn flags(
    config: &KubeProxyConfiguration,
    machine: impl FnOnce() -> Option<String>,
) -> Result<Flags, BadValue> {
    let mode = mode(config)?;
    let mut flags = Flags::default();
    match said(config.client_connection.kubeconfig.as_ref()) {
        Some(path) => flags.set("kubeconfig", path),
        None => flags.switch("in-cluster"),
    }
    let node = said(config.hostname_override.as_ref()).map(str::to_owned).or_else(machine);
    if let Some(node) = node {
        flags.set("node-name", &node.trim().to_lowercase());
    }
    addresses(config, &mut flags)?;
    behaviour(config, mode, &mut flags)?;
    local_pods(config, &mut flags)?;
    if let Some(period) = min_sync_period(config, mode) {
        flags.set("min-sync-period", &format!("{}ms", period.0.as_millis()));
    }
    Ok(flags)
}

impl Flags {
    fn set(&mut self, name: &'static str, value: &str) {
        self.flags.push(Flag { name, value: Some(value.to_owned()) });
    }

    fn switch(&mut self, name: &'static str) {
        self.flags.push(Flag { name, value: None });
    }
}

/// A text that says something.
fn said(text: Option<&String>) -> Option<&str> {
    text.map(|text| text.trim()).filter(|text| !text.is_empty())
}

fn mode(config: &KubeProxyConfiguration) -> Result<Mode, BadValue> {
    match said(config.mode.as_ref()) {
        None | Some("iptables") => Ok(Mode::IpTables),
        Some("ipvs") => Ok(Mode::Ipvs),
        Some("nftables") => Ok(Mode::NfTables),
        Some(other) => {
            Err(BadValue::new("mode", format!("{other:?} is not one of iptables, ipvs, nftables")))
        }
    }
}

/// Where is listened. An address that is the default may be taken, as with
/// kube-proxy, unless the file says that this is an error.
fn addresses(config: &KubeProxyConfiguration, flags: &mut Flags) -> Result<(), BadValue> {
    let bind = said(config.bind_address.as_ref());
    let bind: Option<std::net::IpAddr> = bind
        .map(str::parse)
        .transpose()
        .map_err(|_not_one| BadValue::new("bindAddress", "is no address as in 192.0.2.1"))?;
    let v6 = bind.is_some_and(|addr| addr.is_ipv6());
    let hard = config.bind_address_hard_fail == Some(true);
    for (flag, field, text, port, default) in [
        (
            "healthz-addr",
            "healthzBindAddress",
            said(config.healthz_bind_address.as_ref()),
            10_256,
            ["0.0.0.0:10256", "[::]:10256"],
        ),
        (
            "metrics-addr",
            "metricsBindAddress",
            said(config.metrics_bind_address.as_ref()),
            10_249,
            ["127.0.0.1:10249", "[::1]:10249"],
        ),
    ] {
        let address = match text {
            Some(text) => crate::cli::socket_address(text, port)
                .map(|address| address.to_string())
                .map_err(|reason| BadValue::new(field, reason))?,
            None => default[usize::from(v6)].to_owned(),
        };
        if hard || address != default[0] {
            flags.set(flag, &address);
        }
    }
    Ok(())
}

fn behaviour(
    config: &KubeProxyConfiguration,
    mode: Mode,
    flags: &mut Flags,
) -> Result<(), BadValue> {
    let all = match mode {
        Mode::NfTables => config.nftables.masquerade_all,
        Mode::IpTables | Mode::Ipvs => config.iptables.masquerade_all,
    };
    if all == Some(true) {
        flags.set("masquerade", "kube-proxy");
        flags.switch("masquerade-all");
    }
    if mode == Mode::IpTables && config.iptables.localhost_node_ports == Some(false) {
        flags.set("localhost-nodeports", "off");
    }
    if mode == Mode::Ipvs
        && let Some(scheduler) = said(config.ipvs.scheduler.as_ref())
    {
        let policy = match scheduler {
            "rr" | "wrr" => Some("round-robin"),
            "lc" | "wlc" => Some("least-connections"),
            "sh" => Some("source-hash"),
            "mh" => Some("maglev"),
            _ => None,
        };
        match policy {
            Some(policy) => flags.set("policy", policy),
            None => flags.without.push((
                "ipvs.scheduler",
                "only rr, wrr, lc, wlc, sh and mh have a counterpart; --policy names the others",
            )),
        }
    }
    let mut ranges = Vec::new();
    let listed = config.node_port_addresses.iter().flatten();
    for (index, text) in listed.enumerate() {
        if text == "localhost" {
            ranges.extend(["127.0.0.0/8".to_owned(), "::1/128".to_owned()]);
            continue;
        }
        let bad = |reason| BadValue::new(format!("nodePortAddresses[{index}]"), reason);
        NodePortAddress::from_str(text).map_err(bad)?;
        ranges.push(text.clone());
    }
    if ranges.is_empty() && mode != Mode::NfTables {
        // What kube-proxy does in these modes unless it is told otherwise.
        ranges.push("all".to_owned());
    }
    if !ranges.is_empty() {
        flags.set("nodeport-addresses", &ranges.join(","));
    }
    Ok(())
}

fn local_pods(config: &KubeProxyConfiguration, flags: &mut Flags) -> Result<(), BadValue> {
    let ranges = said(config.cluster_cidr.as_ref());
    for range in ranges.iter().flat_map(|text| text.split(',')) {
        if range.trim().parse::<IpNet>().is_err() {
            let reason = format!("{range:?} is no range as in 10.244.0.0/16");
            return Err(BadValue::new("clusterCIDR", reason));
        }
    }
    let bridge = said(config.detect_local.bridge_interface.as_ref());
    let prefix = said(config.detect_local.interface_name_prefix.as_ref());
    let mode = match said(config.detect_local_mode.as_ref()) {
        // Without a mode it is ClusterCIDR, which without a range tells nothing: the
        // agent's own way then tells more.
        None => ranges.map(|_| "cluster-cidr"),
        Some("ClusterCIDR") => Some("cluster-cidr"),
        Some("NodeCIDR") => Some("node-cidr"),
        Some("BridgeInterface") => Some("bridge-interface"),
        Some("InterfaceNamePrefix") => Some("interface-name-prefix"),
        Some(other) => {
            let reason = format!(
                "{other:?} is not one of ClusterCIDR, NodeCIDR, BridgeInterface, \
                 InterfaceNamePrefix"
            );
            return Err(BadValue::new("detectLocalMode", reason));
        }
    };
    if let Some(mode) = mode {
        flags.set("detect-local", mode);
    }
    for (flag, value) in [
        ("cluster-cidr", ranges),
        ("pod-bridge-interface", bridge),
        ("pod-interface-name-prefix", prefix),
    ] {
        if let Some(value) = value {
            flags.set(flag, value);
        }
    }
    Ok(())
}

/// Only what somebody chose: what kube-proxy waits by default is for its rules.
fn min_sync_period(config: &KubeProxyConfiguration, mode: Mode) -> Option<GoDuration> {
    let period = match mode {
        Mode::IpTables => config.iptables.min_sync_period,
        Mode::Ipvs => config.ipvs.min_sync_period,
        Mode::NfTables => config.nftables.min_sync_period,
    };
    period.filter(|period| !period.0.is_zero())
}

/// Fields that become flags, or decide which do.
#[cfg(test)]
pub(super) const TAKEN: &[&str] = &[
    "apiVersion",
    "kind",
    "clientConnection.kubeconfig",
    "hostnameOverride",
    "bindAddress",
    "healthzBindAddress",
    "metricsBindAddress",
    "bindAddressHardFail",
    "mode",
    "iptables.masqueradeAll",
    "iptables.localhostNodePorts",
    "iptables.minSyncPeriod",
    "ipvs.minSyncPeriod",
    "ipvs.scheduler",
    "nftables.masqueradeAll",
    "nftables.minSyncPeriod",
    "detectLocalMode",
    "detectLocal.bridgeInterface",
    "detectLocal.interfaceNamePrefix",
    "clusterCIDR",
    "nodePortAddresses",
];
