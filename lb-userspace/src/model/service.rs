//! Services.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use ipnet::IpNet;

use super::cluster_ips::{ClusterIps, cluster_ips};
use super::exposure::{self, Exposure};
use super::service_port::ports;
use super::{AddressFamily, Conditions, Findings, ObjectName, Pod, ServicePort, value};
use crate::desired::Policy;

/// The annotation that picks a Service's policy.
pub const POLICY_ANNOTATION: &str = "lb.network/policy";

/// Services with this label, whatever its value, are another proxy's.
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// When it was created, in seconds since 1970: of two Services that claim the
    /// same address, the older keeps it.
    pub created: Option<i64>,
    /// Why it gets no traffic, if so.
    pub not_proxied: Option<NotProxied>,
    /// Cluster addresses, at most one of each family.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports.
    pub ports: Vec<ServicePort>,
    /// Labels of its Pods; empty if its endpoints are written by hand.
    pub selector: BTreeMap<String, String>,
    /// Whether Pods that are not ready count as ready.
    pub publish_not_ready_addresses: bool,
    /// Its own policy, if it names a known one.
    pub policy: Option<Policy>,
    /// Addresses that a load balancer gave it and that nodes answer for.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Its `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Clients that may use the load balancer's addresses; a family without a
    /// range is open to all.
    pub source_ranges: Vec<IpNet>,
    /// Which endpoints clients of its cluster addresses get.
    pub internal_policy: TrafficPolicy,
    /// Which endpoints clients of its other addresses get.
    pub external_policy: TrafficPolicy,
    /// Which endpoints clients should rather get, where nobody else has written
    /// that into EndpointSlices.
    pub distribution: Option<Distribution>,
    /// For how many seconds a client stays with its backend, if it does.
    pub affinity: Option<u32>,
    /// Where each node tells load balancers whether it has endpoints; only with
    /// type LoadBalancer and external policy Local.
    pub health_check_node_port: Option<u16>,
}

/// Which endpoints a client may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrafficPolicy {
    /// Any of the cluster.
    #[default]
    Cluster,
    /// Those of the node that it reached.
    Local,
}

/// Which endpoints a client should rather get (`spec.trafficDistribution`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distribution {
    /// Those of its zone.
    SameZone,
    /// Those of its node, else of its zone.
    SameNode,
}

impl Distribution {
    fn of(word: Option<&str>) -> Option<Self> {
        match word {
            // PreferClose is the older name.
            Some("PreferSameZone" | "PreferClose") => Some(Self::SameZone),
            Some("PreferSameNode") => Some(Self::SameNode),
            Some(_) | None => None,
        }
    }
}

impl TrafficPolicy {
    /// The policy of a field that may be absent.
    pub(super) fn of(word: Option<&str>) -> Self {
        if word == Some("Local") { Self::Local } else { Self::Cluster }
    }
}

/// Why a Service is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotProxied {
    /// It is a name in DNS only.
    ExternalName,
    /// It has no cluster address by intent.
    Headless,
    /// It has no cluster address yet.
    NoClusterIp,
    /// A label gives it to another proxy.
    OtherProxy,
}

impl Service {
    /// Checks a Service of the API; none if it is refused.
    pub fn from_api(
        name: ObjectName,
        service: api::Service,
        findings: &mut Findings,
    ) -> Option<Self> {
        findings.check("metadata.namespace", value::label(&name.namespace));
        findings.check("metadata.name", value::label(&name.name));
        let metadata = service.metadata;
        let policy = policy(metadata.annotations.as_ref(), findings);
        let Some(mut spec) = service.spec else {
            findings.error("spec", "is missing");
            return None;
        };
        let kind = match spec.type_.as_deref() {
            None => "ClusterIP",
            Some(kind) => findings.check(
                "spec.type",
                value::choice(kind, &["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]),
            )?,
        };
        check_choices(&spec, findings);
        let cluster_ips = cluster_ips(&spec, findings);
        let other_proxy =
            metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
        let not_proxied = if kind == "ExternalName" {
            Some(NotProxied::ExternalName)
        } else if other_proxy {
            Some(NotProxied::OtherProxy)
        } else {
            match cluster_ips {
                ClusterIps::Headless => Some(NotProxied::Headless),
                ClusterIps::Missing => Some(NotProxied::NoClusterIp),
                ClusterIps::Refused | ClusterIps::Some(_) => None,
            }
        };
        let ports = ports(spec.ports.take().unwrap_or_default(), kind, not_proxied, findings);
        if not_proxied == Some(NotProxied::NoClusterIp) {
            findings.warning(
                "spec.clusterIP",
                "is missing and nothing here allocates one, so the Service gets no traffic",
            );
        }
        let cluster_ips = match cluster_ips {
            ClusterIps::Some(addresses) => addresses,
            ClusterIps::Headless | ClusterIps::Missing | ClusterIps::Refused => Vec::new(),
        };
        let Exposure { load_balancer_ips, external_ips, source_ranges, external_policy } =
            if not_proxied.is_none() {
                exposure::of(&spec, service.status.as_ref(), kind, &cluster_ips, findings)
            } else {
                Exposure::default()
            };
        let affinity = affinity(&spec, findings);
        let health_check_node_port = health_check_node_port(&spec, kind, external_policy, findings);
        if findings.refused() {
            return None;
        }
        Some(Self {
            name,
            created: metadata.creation_timestamp.map(|time| time.0.as_second()),
            not_proxied,
            cluster_ips,
            ports,
            selector: spec.selector.unwrap_or_default(),
            publish_not_ready_addresses: spec.publish_not_ready_addresses.unwrap_or(false),
            policy,
            load_balancer_ips,
            external_ips,
            source_ranges,
            internal_policy: TrafficPolicy::of(spec.internal_traffic_policy.as_deref()),
            external_policy,
            distribution: Distribution::of(spec.traffic_distribution.as_deref()),
            affinity,
            health_check_node_port,
        })
    }

    /// Whether a Pod gives it endpoints: one of its namespace that has every
    /// label of the selector and has not ended. Without a selector none does.
    pub fn selects(&self, pod: &Pod) -> bool {
        !self.selector.is_empty()
            && pod.name.namespace == self.name.namespace
            && !pod.finished
            && self.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
    }

    /// The condition of the endpoints that a Pod gives it, as the EndpointSlice
    /// controller would write it.
    pub const fn conditions(&self, pod: &Pod) -> Conditions {
        Conditions {
            ready: self.publish_not_ready_addresses || (pod.ready && !pod.terminating),
            serving: pod.ready,
            terminating: pod.terminating,
        }
    }

    /// Whether it has an address of a family: only such endpoints serve it.
    pub fn has_family(&self, family: AddressFamily) -> bool {
        self.cluster_ips.iter().any(|addr| AddressFamily::of(*addr) == family)
    }
}

/// The API server refuses such a port where it means nothing, but takes it away
/// by itself when an edit makes it so; a file has nobody who does that.
fn health_check_node_port(
    spec: &api::ServiceSpec,
    kind: &str,
    external_policy: TrafficPolicy,
    findings: &mut Findings,
) -> Option<u16> {
    const FIELD: &str = "spec.healthCheckNodePort";
    let number = spec.health_check_node_port.filter(|&number| number != 0)?;
    let port = findings.check(FIELD, value::port(number))?;
    if kind == "LoadBalancer" && external_policy == TrafficPolicy::Local {
        return Some(port);
    }
    findings
        .warning(FIELD, "has no effect without type LoadBalancer and externalTrafficPolicy Local");
    None
}

fn policy(
    annotations: Option<&BTreeMap<String, String>>,
    findings: &mut Findings,
) -> Option<Policy> {
    let name = annotations?.get(POLICY_ANNOTATION)?;
    match name.parse() {
        Ok(policy) => Some(policy),
        Err(error) => {
            findings.warning(
                format_args!("metadata.annotations[{POLICY_ANNOTATION}]"),
                format_args!("{name:?} is {error}, so the default policy applies"),
            );
            None
        }
    }
}

/// Words that the API server would refuse.
fn check_choices(spec: &api::ServiceSpec, findings: &mut Findings) {
    const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
    let choices: [(&str, Option<&String>, &[&str]); 4] = [
        ("spec.sessionAffinity", spec.session_affinity.as_ref(), &["None", "ClientIP"]),
        ("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_ref(), TRAFFIC_POLICIES),
        ("spec.externalTrafficPolicy", spec.external_traffic_policy.as_ref(), TRAFFIC_POLICIES),
        (
            "spec.ipFamilyPolicy",
            spec.ip_family_policy.as_ref(),
            &["SingleStack", "PreferDualStack", "RequireDualStack"],
        ),
    ];
    for (field, word, words) in choices {
        // The API server reads an empty word as "not given".
        if let Some(word) = word.filter(|word| !word.is_empty()) {
            findings.check(field, value::choice(word, words));
        }
    }
}

/// Session affinity with its timeout in seconds; the default and the bounds are
/// the API server's.
fn affinity(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<u32> {
    const DEFAULT: u32 = 10_800;
    const LONGEST: i32 = 86_400;
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    match config.and_then(|config| config.timeout_seconds) {
        None => Some(DEFAULT),
        Some(seconds) if (1..=LONGEST).contains(&seconds) => u32::try_from(seconds).ok(),
        Some(seconds) => {
            findings.error(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format_args!("must be 1 to {LONGEST}, not {seconds}"),
            );
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::desired::{Protocol, Severity};
    use crate::model::TargetPort;

    fn read(spec: &serde_json::Value) -> (Option<Service>, Vec<String>) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "namespace": "default" },
            "spec": spec,
        });
        let mut findings = Findings::default();
        let service = Service::from_api(
            ObjectName { namespace: "default".into(), name: "web".into() },
            serde_json::from_value(object).unwrap(),
            &mut findings,
        );
        let lines = findings
            .into_vec()
            .into_iter()
            .map(|finding| {
                let mark = if finding.severity == Severity::Error { "E" } else { "W" };
                format!("{mark} {}: {}", finding.field, finding.message)
            })
            .collect();
        (service, lines)
    }

    #[test]
    fn defaults_are_those_of_the_api_server() {
        let (service, findings) =
            read(&json!({ "clusterIP": "10.96.0.1", "ports": [{ "port": 80 }] }));
        assert_eq!(findings, [""; 0]);
        let service = service.unwrap();
        assert_eq!(
            service.ports,
            [ServicePort {
                index: 0,
                name: String::new(),
                protocol: Protocol::Tcp,
                port: 80,
                target: TargetPort::Number(80),
                node_port: None,
            }]
        );
        assert_eq!(service.not_proxied, None);
    }

    #[test]
    fn each_bad_value_is_named_and_refuses_the_object() {
        let good = json!({ "clusterIP": "10.96.0.1", "type": "NodePort", "ports": [
            { "name": "a", "port": 80, "nodePort": 30080 }, { "name": "b", "port": 81 } ] });
        assert!(read(&good).0.is_some());
        let cases = [
            (
                "/ports/0/port",
                json!(0),
                "E spec.ports[0].port: must be a port from 1 to 65535, not 0",
            ),
            ("/ports/1/port", json!(65_536), "E spec.ports[1].port: must be a port"),
            ("/ports/1/port", json!(80), "E spec.ports[1].port: 80 is there twice"),
            ("/ports/1/name", json!("a"), "E spec.ports[1].name: \"a\" is the name of two"),
            ("/ports/1/name", json!(""), "E spec.ports[1].name: is needed"),
            ("/ports/1/name", json!("HTTP"), "E spec.ports[1].name: \"HTTP\" must be"),
            ("/ports/0/nodePort", json!(-1), "E spec.ports[0].nodePort: must be a port"),
            ("/ports/1/nodePort", json!(30080), "E spec.ports[1].nodePort: 30080 is there twice"),
            ("/ports/0/protocol", json!("tcp"), "E spec.ports[0].protocol: \"tcp\" is not one"),
            ("/ports/0/targetPort", json!(70000), "E spec.ports[0].targetPort: must be a port"),
            ("/ports/0/targetPort", json!("80"), "E spec.ports[0].targetPort: \"80\" must be"),
            ("/clusterIP", json!("10.96.0.256"), "E spec.clusterIP: \"10.96.0.256\" is not an IP"),
            ("/clusterIP", json!("127.0.0.1"), "E spec.clusterIP: 127.0.0.1 is a loopback"),
            (
                "/clusterIPs",
                json!(["10.96.0.2"]),
                "E spec.clusterIPs[0]: \"10.96.0.2\" must be the same",
            ),
            (
                "/clusterIPs",
                json!(["10.96.0.1", "10.96.0.2"]),
                "E spec.clusterIPs[1]: 10.96.0.2 is a second",
            ),
            (
                "/ipFamilies",
                json!(["IPv6"]),
                "E spec.ipFamilies[0]: IPv6 is not the family of 10.96.0.1",
            ),
            ("/type", json!("Clusterip"), "E spec.type: \"Clusterip\" is not one of"),
            ("/type", json!("ClusterIP"), "E spec.ports[0].nodePort: is allowed only"),
            ("/sessionAffinity", json!("yes"), "E spec.sessionAffinity: \"yes\" is not one of"),
            ("/ports", json!([]), "E spec.ports: must have at least one port"),
        ];
        for (pointer, bad, expected) in cases {
            let mut spec = good.clone();
            let (parent, leaf) = pointer.rsplit_once('/').unwrap();
            spec.pointer_mut(parent).unwrap()[leaf] = bad;
            let (service, findings) = read(&spec);
            assert_eq!(service, None, "{pointer}");
            assert!(findings.iter().any(|line| line.starts_with(expected)), "{findings:?}");
        }
    }

    #[test]
    fn a_health_check_port_needs_a_load_balancer_and_a_local_policy() {
        let good = json!({ "clusterIP": "10.96.0.1", "type": "LoadBalancer",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_000,
            "ports": [{ "port": 80 }] });
        let with = |field: &str, value: serde_json::Value| {
            let mut spec = good.clone();
            spec[field] = value;
            read(&spec)
        };
        let service = read(&good).0.unwrap();
        assert_eq!(service.external_policy, TrafficPolicy::Local);
        assert_eq!(service.health_check_node_port, Some(32_000));
        for (field, value) in [
            ("externalTrafficPolicy", json!("Cluster")),
            ("externalTrafficPolicy", json!(null)),
            ("type", json!("NodePort")),
        ] {
            let (service, findings) = with(field, value);
            assert_eq!(service.unwrap().health_check_node_port, None);
            assert!(
                findings.iter().any(|line| line.starts_with("W spec.healthCheckNodePort: has no")),
                "{findings:?}"
            );
        }
        let (service, findings) = with("healthCheckNodePort", json!(70_000));
        assert_eq!(service, None);
        assert!(
            findings.iter().any(|line| line.starts_with("E spec.healthCheckNodePort: must be")),
            "{findings:?}"
        );
        let absent = with("healthCheckNodePort", json!(0)).0.unwrap();
        assert_eq!(absent.health_check_node_port, None);
    }

    #[test]
    fn a_port_number_may_be_there_once_for_each_protocol() {
        let (service, findings) = read(&json!({ "clusterIP": "10.96.0.1", "ports": [
            { "name": "a", "port": 80, "protocol": "SCTP" }, { "name": "b", "port": 80 },
            { "name": "c", "port": 80, "protocol": "UDP" } ] }));
        let protocols: Vec<_> = service.unwrap().ports.iter().map(|port| port.protocol).collect();
        assert_eq!(protocols, [Protocol::Sctp, Protocol::Tcp, Protocol::Udp]);
        assert!(findings.is_empty(), "{findings:?}");
    }

    #[test]
    fn an_unknown_policy_is_a_warning() {
        let mut findings = Findings::default();
        let annotations = [(POLICY_ANNOTATION.to_owned(), "fastest".to_owned())].into();
        assert_eq!(policy(Some(&annotations), &mut findings), None);
        let finding = findings.into_vec().remove(0);
        assert_eq!(finding.severity, Severity::Warning);
        assert_eq!(finding.field, "metadata.annotations[lb.network/policy]");
    }

    #[test]
    fn services_without_a_usable_address_are_not_proxied() {
        let ports = json!([{ "port": 80 }]);
        for (spec, why) in [
            (json!({ "clusterIP": "None", "ports": ports }), NotProxied::Headless),
            (json!({ "clusterIP": "None" }), NotProxied::Headless),
            (json!({ "clusterIP": "", "ports": ports }), NotProxied::NoClusterIp),
            (json!({ "ports": ports }), NotProxied::NoClusterIp),
            (
                json!({ "type": "ExternalName", "externalName": "x.example" }),
                NotProxied::ExternalName,
            ),
        ] {
            assert_eq!(read(&spec).0.unwrap().not_proxied, Some(why));
        }
    }
}
