//! What of kube-proxy's configuration has no effect here, and why.

use serde_json::Value;

const NO_CONNTRACK: &str = "the agent does not use the kernel's connection tracking; its flow \
                            tables have --flows-v4 and --flows-v6 rows";
const FIXED_TIMEOUTS: &str = "`lb connections --help` says when flows are forgotten";
const NO_PERIOD: &str = "changes are applied as they come, and what the kernel holds is compared \
                         every few seconds";
const NO_MARKS: &str = "packets are not marked";
const NO_KLOG: &str = "the environment variable LB_LOG sets what is logged";
const NO_IPVS: &str = "IPVS is not used";
const NO_WINDOWS: &str = "it is for Windows";
const FEW_REQUESTS: &str = "the agent asks for JSON, in pages, and only lists and watches";

/// Each field, and why it has no effect.
pub const NO_EFFECT: &[(&str, &str)] = &[
    ("featureGates", "features of kube-proxy are not the agent's"),
    ("clientConnection.acceptContentTypes", FEW_REQUESTS),
    ("clientConnection.contentType", FEW_REQUESTS),
    ("clientConnection.qps", FEW_REQUESTS),
    ("clientConnection.burst", FEW_REQUESTS),
    ("logging.format", NO_KLOG),
    ("logging.flushFrequency", NO_KLOG),
    ("logging.verbosity", NO_KLOG),
    ("logging.vmodule", NO_KLOG),
    ("logging.options.text.splitStream", NO_KLOG),
    ("logging.options.text.infoBufferSize", NO_KLOG),
    ("logging.options.json.splitStream", NO_KLOG),
    ("logging.options.json.infoBufferSize", NO_KLOG),
    ("enableProfiling", "the agent has no profiler of Go's"),
    ("showHiddenMetricsForVersion", "no metric is hidden"),
    ("iptables.masqueradeBit", NO_MARKS),
    ("iptables.syncPeriod", NO_PERIOD),
    ("ipvs.syncPeriod", NO_PERIOD),
    ("ipvs.excludeCIDRs", NO_IPVS),
    ("ipvs.strictARP", "addresses of Services are on no interface, so nobody answers ARP for them"),
    ("ipvs.tcpTimeout", FIXED_TIMEOUTS),
    ("ipvs.tcpFinTimeout", FIXED_TIMEOUTS),
    ("ipvs.udpTimeout", FIXED_TIMEOUTS),
    ("nftables.masqueradeBit", NO_MARKS),
    ("nftables.syncPeriod", NO_PERIOD),
    ("winkernel.networkName", NO_WINDOWS),
    ("winkernel.sourceVip", NO_WINDOWS),
    ("winkernel.enableDSR", NO_WINDOWS),
    ("winkernel.rootHnsEndpointName", NO_WINDOWS),
    ("winkernel.forwardHealthCheckVip", NO_WINDOWS),
    ("windowsRunAsService", NO_WINDOWS),
    ("oomScoreAdj", "set it where the agent is started (systemd: OOMScoreAdjust)"),
    ("conntrack.maxPerCore", NO_CONNTRACK),
    ("conntrack.min", NO_CONNTRACK),
    ("conntrack.tcpEstablishedTimeout", FIXED_TIMEOUTS),
    ("conntrack.tcpCloseWaitTimeout", FIXED_TIMEOUTS),
    ("conntrack.tcpBeLiberal", NO_CONNTRACK),
    ("conntrack.udpTimeout", FIXED_TIMEOUTS),
    ("conntrack.udpStreamTimeout", FIXED_TIMEOUTS),
    ("configSyncPeriod", "the API is watched, and listed again only where a watch was lost"),
    ("portRange", "it belonged to a mode that kube-proxy has no more"),
    ("udpIdleTimeout", "it belonged to a mode that kube-proxy has no more"),
];

/// What kube-proxy's own tools write into every file: that these are there says
/// nothing of what somebody wants.
const DEFAULTS: &[(&str, &str)] = &[
    ("clientConnection.contentType", "application/vnd.kubernetes.protobuf"),
    ("clientConnection.qps", "5"),
    ("clientConnection.burst", "10"),
    ("logging.format", "text"),
    ("logging.flushFrequency", "5s"),
    ("iptables.masqueradeBit", "14"),
    ("iptables.syncPeriod", "30s"),
    ("ipvs.syncPeriod", "30s"),
    ("nftables.masqueradeBit", "14"),
    ("nftables.syncPeriod", "30s"),
    ("oomScoreAdj", "-999"),
    ("conntrack.maxPerCore", "32768"),
    ("conntrack.min", "131072"),
    ("conntrack.tcpEstablishedTimeout", "24h0m0s"),
    ("conntrack.tcpCloseWaitTimeout", "1h0m0s"),
    ("configSyncPeriod", "15m0s"),
    ("udpIdleTimeout", "250ms"),
];

/// The fields of a file that say something and have no effect.
pub(super) fn of(file: &Value) -> Vec<(&'static str, &'static str)> {
    let says = |path: &str| {
        let value = path.split('.').fold(file, |value, name| &value[name]);
        says_something(value)
            && !DEFAULTS.iter().any(|(field, default)| *field == path && is(value, default))
    };
    NO_EFFECT.iter().filter(|(path, _)| says(path)).copied().collect()
}

/// Zeros are what Go writes where nothing was said.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0" | "0s"),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn is(value: &Value, default: &str) -> bool {
    match value {
        Value::String(text) => text == default,
        Value::Number(number) => number.to_string() == default,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}
