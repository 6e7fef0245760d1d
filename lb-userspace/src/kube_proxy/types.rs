//! `KubeProxyConfiguration` of kubeproxy.config.k8s.io/v1alpha1, field by field as
//! kube-proxy 1.36 has it (kubernetes/kube-proxy, config/v1alpha1/types.go), with
//! what older ones wrote into files that are still about. Every field may be
//! missing or null.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

use super::duration::GoDuration;

/// The group of kube-proxy's configuration, and its key in `/configz`.
pub const GROUP: &str = "kubeproxy.config.k8s.io";
/// The version that is read.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// The kind.
pub const KIND: &str = "KubeProxyConfiguration";

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct KubeProxyConfiguration {
    pub(crate) api_version: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) feature_gates: Option<BTreeMap<String, bool>>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) client_connection: ClientConnection,
    #[serde(deserialize_with = "or_null")]
    pub(crate) logging: LoggingConfiguration,
    pub(crate) hostname_override: Option<String>,
    pub(crate) bind_address: Option<String>,
    pub(crate) healthz_bind_address: Option<String>,
    pub(crate) metrics_bind_address: Option<String>,
    pub(crate) bind_address_hard_fail: Option<bool>,
    pub(crate) enable_profiling: Option<bool>,
    pub(crate) show_hidden_metrics_for_version: Option<String>,
    pub(crate) mode: Option<String>,
    #[serde(rename = "iptables", deserialize_with = "or_null")]
    pub(crate) iptables: IpTablesConfiguration,
    #[serde(rename = "ipvs", deserialize_with = "or_null")]
    pub(crate) ipvs: IpvsConfiguration,
    #[serde(rename = "nftables", deserialize_with = "or_null")]
    pub(crate) nftables: NfTablesConfiguration,
    #[serde(deserialize_with = "or_null")]
    pub(crate) winkernel: WinkernelConfiguration,
    pub(crate) detect_local_mode: Option<String>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) detect_local: DetectLocalConfiguration,
    #[serde(rename = "clusterCIDR")]
    pub(crate) cluster_cidr: Option<String>,
    pub(crate) node_port_addresses: Option<Vec<String>>,
    pub(crate) oom_score_adj: Option<i32>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) conntrack: ConntrackConfiguration,
    pub(crate) config_sync_period: Option<GoDuration>,
    pub(crate) port_range: Option<String>,
    pub(crate) windows_run_as_service: Option<bool>,
    /// Until 1.25.
    pub(crate) udp_idle_timeout: Option<GoDuration>,
}

/// How the API is asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ClientConnection {
    pub(crate) kubeconfig: Option<String>,
    pub(crate) accept_content_types: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) qps: Option<f32>,
    pub(crate) burst: Option<i32>,
}

/// What is logged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct LoggingConfiguration {
    pub(crate) format: Option<String>,
    pub(crate) flush_frequency: Option<TextOrNumber>,
    pub(crate) verbosity: Option<u32>,
    pub(crate) vmodule: Option<Vec<VModuleItem>>,
    #[serde(deserialize_with = "or_null")]
    pub(crate) options: FormatOptions,
}

/// A level for some files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct VModuleItem {
    pub(crate) file_pattern: Option<String>,
    pub(crate) verbosity: Option<u32>,
}

/// By format.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FormatOptions {
    #[serde(deserialize_with = "or_null")]
    pub(crate) text: OutputRouting,
    #[serde(deserialize_with = "or_null")]
    pub(crate) json: OutputRouting,
}

/// Where log lines go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct OutputRouting {
    pub(crate) split_stream: Option<bool>,
    pub(crate) info_buffer_size: Option<TextOrNumber>,
}

/// A duration or a quantity, which may be a bare number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum TextOrNumber {
    Number(u64),
    Text(String),
}

/// Mode iptables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IpTablesConfiguration {
    pub(crate) masquerade_bit: Option<i32>,
    pub(crate) masquerade_all: Option<bool>,
    pub(crate) localhost_node_ports: Option<bool>,
    pub(crate) sync_period: Option<GoDuration>,
    pub(crate) min_sync_period: Option<GoDuration>,
}

/// Mode ipvs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IpvsConfiguration {
    pub(crate) sync_period: Option<GoDuration>,
    pub(crate) min_sync_period: Option<GoDuration>,
    pub(crate) scheduler: Option<String>,
    #[serde(rename = "excludeCIDRs")]
    pub(crate) exclude_cidrs: Option<Vec<String>>,
    #[serde(rename = "strictARP")]
    pub(crate) strict_arp: Option<bool>,
    pub(crate) tcp_timeout: Option<GoDuration>,
    pub(crate) tcp_fin_timeout: Option<GoDuration>,
    pub(crate) udp_timeout: Option<GoDuration>,
}

/// Mode nftables.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NfTablesConfiguration {
    pub(crate) masquerade_bit: Option<i32>,
    pub(crate) masquerade_all: Option<bool>,
    pub(crate) sync_period: Option<GoDuration>,
    pub(crate) min_sync_period: Option<GoDuration>,
}

/// Windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WinkernelConfiguration {
    pub(crate) network_name: Option<String>,
    pub(crate) source_vip: Option<String>,
    #[serde(rename = "enableDSR")]
    pub(crate) enable_dsr: Option<bool>,
    pub(crate) root_hns_endpoint_name: Option<String>,
    pub(crate) forward_health_check_vip: Option<bool>,
}

/// How pods of the node are told from other clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DetectLocalConfiguration {
    pub(crate) bridge_interface: Option<String>,
    pub(crate) interface_name_prefix: Option<String>,
}

/// The kernel's connection tracking.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ConntrackConfiguration {
    pub(crate) max_per_core: Option<i32>,
    pub(crate) min: Option<i32>,
    pub(crate) tcp_established_timeout: Option<GoDuration>,
    pub(crate) tcp_close_wait_timeout: Option<GoDuration>,
    pub(crate) tcp_be_liberal: Option<bool>,
    pub(crate) udp_timeout: Option<GoDuration>,
    pub(crate) udp_stream_timeout: Option<GoDuration>,
}

/// Nothing where a part is null, as Go reads it.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
