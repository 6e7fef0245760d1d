//! `/configz`: the configuration in force. What kube-proxy has a name for stands
//! under its group, as kube-proxy's own `/configz` has it; all the rest under `lb`.

use super::health::HEALTHZ;
use super::{Config, METRICS};
use crate::cli::{BehaviourArgs, DetectLocal, ListenAddress};
use crate::dataplane::HookOptions;
use crate::kube_proxy::{
    API_VERSION, ClientConnection, DetectLocalConfiguration, GROUP, GoDuration,
    IpTablesConfiguration, KIND, KubeProxyConfiguration, MODE,
};
use crate::source::SourceConfig;
use crate::source::kubernetes::Access;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The page, with the data plane as it was set up.
pub(super) fn page(config: &Config, hooks: &HookOptions) -> String {
    let kube_proxy = serde_json::to_value(kube_proxy(config)).unwrap_or_default();
    json!({ GROUP: said(kube_proxy), "lb": own(config, hooks) }).to_string()
}

/// In kube-proxy's words; what has none is left out.
fn kube_proxy(config: &Config) -> KubeProxyConfiguration {
    let behaviour = &config.behaviour;
    let address = |asked: Option<ListenAddress>, default: SocketAddr| match asked {
        Some(ListenAddress::Off) => String::new(),
        Some(ListenAddress::On(address)) => address.to_string(),
        None => default.to_string(),
    };
    let kubeconfig = match &config.source {
        SourceConfig::Kubernetes(options) => match &options.access {
            Access::Kubeconfig(path) => path.display().to_string(),
            Access::InCluster => String::new(),
        },
        SourceConfig::Manifests(_) => String::new(),
    };
    let text = |text: &str| Some(text.to_owned());
    KubeProxyConfiguration {
        api_version: text(API_VERSION),
        kind: text(KIND),
        client_connection: ClientConnection {
            kubeconfig: Some(kubeconfig),
            content_type: text("application/json"),
            ..ClientConnection::default()
        },
        hostname_override: config.compile.node_name.clone(),
        healthz_bind_address: Some(address(config.healthz, HEALTHZ)),
        metrics_bind_address: Some(address(config.metrics, METRICS)),
        mode: text(MODE),
        // Where kube-proxy keeps what belongs to no mode, until its next version.
        iptables: IpTablesConfiguration {
            masquerade_all: Some(behaviour.masquerade_all),
            localhost_node_ports: Some(behaviour.localhost_nodeports.is_on()),
            min_sync_period: Some(GoDuration(config.min_sync_period)),
            ..IpTablesConfiguration::default()
        },
        detect_local_mode: detect_local(behaviour.detect_local).map(str::to_owned),
        detect_local: DetectLocalConfiguration {
            bridge_interface: text(&behaviour.pod_bridge_interface),
            interface_name_prefix: text(&behaviour.pod_interface_name_prefix),
        },
        cluster_cidr: Some(list(&behaviour.cluster_cidr).join(",")),
        node_port_addresses: Some(list(&behaviour.nodeport_addresses)),
        ..KubeProxyConfiguration::default()
    }
}

/// The agent's flags, by their names.
fn own(config: &Config, hooks: &HookOptions) -> Value {
    let BehaviourArgs { external_ips, no_local_endpoint, answer_ping, .. } = &config.behaviour;
    let (kind, place) = match &config.source {
        SourceConfig::Manifests(path) => ("manifests", path.display().to_string()),
        SourceConfig::Kubernetes(options) => (
            "kubernetes",
            options.api_server.as_ref().map_or_else(String::new, ToString::to_string),
        ),
    };
    json!({
        "source": kind,
        "place": place,
        "policy": config.compile.default_policy.name(),
        "slow-start": GoDuration(config.slow_start),
        "interface": list(&config.network.interfaces),
        "uplink": list(&config.network.uplinks),
        "xdp": name(&hooks.xdp),
        "tc": name(&hooks.tc),
        "socket-clients": name(&hooks.socket_clients),
        "snat-ports": format!("{}-{}", hooks.snat_ports.start(), hooks.snat_ports.end()),
        "flows-v4": hooks.sizes.flows_v4,
        "flows-v6": hooks.sizes.flows_v6,
        "detect-local": name(&config.behaviour.detect_local),
        "masquerade": name(&config.behaviour.masquerade),
        "external-ips": name(external_ips),
        "no-local-endpoint": name(no_local_endpoint),
        "answer-ping": name(answer_ping),
        "skip-stack": config.behaviour.skip_stack,
        "pin-dir": hooks.pin_dir,
        "socket": config.socket,
    })
}

const fn detect_local(mode: DetectLocal) -> Option<&'static str> {
    match mode {
        DetectLocal::ClusterCidr => Some("ClusterCIDR"),
        DetectLocal::NodeCidr => Some("NodeCIDR"),
        DetectLocal::BridgeInterface => Some("BridgeInterface"),
        DetectLocal::InterfaceNamePrefix => Some("InterfaceNamePrefix"),
        DetectLocal::Interface | DetectLocal::None => None,
    }
}

fn list<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

/// What is typed for a value.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// Without the fields that say nothing.
fn said(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let said = fields.into_iter().map(|(name, value)| (name, said(value)));
            let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
            said.filter(|(_, value)| !value.is_null() && !empty(value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            value
        }
    }
}
