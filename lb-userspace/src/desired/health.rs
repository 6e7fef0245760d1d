//! What this node tells external load balancers: for each Service that wants to
//! be asked, how many of its ready endpoints run here. Pure, like the rest of
//! `desired`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use super::compile::by_age;
use super::endpoints::weight_of;
use super::{CompileOptions, Problem, Protocol, Severity};
use crate::model::{AddressFamily, EndpointSlice, ObjectName, Objects, Pod, Service, Sourced};

/// A port on which this node answers for a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The Service.
    pub service: ObjectName,
    /// The file that it comes from.
    pub file: String,
    /// The port.
    pub port: u16,
    /// Ready endpoints on this node that take new connections, for those who ask
    /// by IPv4 and by IPv6. A Service of one family gives its only number to both.
    pub local_ready: [usize; 2],
}

/// The ports that this node should answer on, those of the oldest Service first.
/// Of two Services that want the same, the older gets it.
pub fn health_checks(
    objects: &Objects,
    options: &CompileOptions,
) -> (Vec<HealthCheck>, Vec<Problem>) {
    let services = by_age(objects);
    let wanted: Vec<_> = services
        .iter()
        .filter_map(|one| Some((*one, one.object.health_check_node_port?)))
        .collect();
    if wanted.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let mut taken = node_ports(&services);
    let endpoints = LocalEndpoints::new(objects, options.node_name.as_deref(), &wanted);
    let mut checks = Vec::with_capacity(wanted.len());
    let mut problems = Vec::new();
    for (sourced, port) in wanted {
        let service = &sourced.object;
        if let Some(owner) = taken.get(&port) {
            problems.push(too_late(sourced, port, owner));
            continue;
        }
        taken.insert(port, Owner { service: &service.name, node_port: false });
        checks.push(HealthCheck {
            service: service.name.clone(),
            file: sourced.file.to_string(),
            port,
            local_ready: endpoints.ready(service),
        });
    }
    (checks, problems)
}

/// Who has a port of the node.
#[derive(Clone, Copy)]
struct Owner<'a> {
    service: &'a ObjectName,
    node_port: bool,
}

/// Packets to a node port never get to a socket, however young its Service is.
fn node_ports<'a>(services: &[&'a Sourced<Service>]) -> HashMap<u16, Owner<'a>> {
    let mut taken = HashMap::new();
    for service in services.iter().map(|sourced| &sourced.object) {
        let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        for port in tcp.filter_map(|port| port.node_port) {
            taken.entry(port).or_insert(Owner { service: &service.name, node_port: true });
        }
    }
    taken
}

fn too_late(sourced: &Sourced<Service>, port: u16, owner: &Owner<'_>) -> Problem {
    let Owner { service, node_port } = owner;
    let message = if *node_port {
        format!("{port} is a node port of Service {service}, so no load balancer gets an answer")
    } else {
        format!(
            "{port} belongs to Service {service}, which comes first, so no load balancer gets an answer"
        )
    };
    Problem {
        severity: Severity::Error,
        file: sourced.file.to_string(),
        object: Some(format!("Service {}", sourced.object.name)),
        field: Some("spec.healthCheckNodePort".to_owned()),
        message,
    }
}

/// What may be an endpoint on this node.
struct LocalEndpoints<'a> {
    node_name: Option<&'a str>,
    /// Slices of the Services that are asked about.
    slices: HashMap<&'a ObjectName, Vec<&'a EndpointSlice>>,
    /// Pods of this node.
    pods: Vec<&'a Pod>,
    /// Weights of the Pods that have one.
    weights: HashMap<&'a ObjectName, u16>,
}

impl<'a> LocalEndpoints<'a> {
    fn new(
        objects: &'a Objects,
        node_name: Option<&'a str>,
        wanted: &[(&'a Sourced<Service>, u16)],
    ) -> Self {
        let names = wanted.iter().map(|(sourced, _)| &sourced.object.name);
        let asked: HashMap<(&str, &str), &ObjectName> =
            names.map(|name| ((name.namespace.as_str(), name.name.as_str()), name)).collect();
        let mut slices: HashMap<_, Vec<_>> = HashMap::new();
        for slice in objects.endpoint_slices.values().map(|sourced| &*sourced.object) {
            let service = slice.service.as_deref();
            let key = service.map(|service| (slice.name.namespace.as_str(), service));
            if let Some(name) = key.and_then(|key| asked.get(&key)) {
                slices.entry(*name).or_default().push(slice);
            }
        }
        let pods = || objects.pods.values().map(|sourced| &*sourced.object);
        let weights = pods().filter_map(|pod| Some((&pod.name, pod.weight?))).collect();
        let local = |pod: &&Pod| node_name.is_some() && pod.node.as_deref() == node_name;
        Self { node_name, slices, pods: pods().filter(local).collect(), weights }
    }

    /// Counts addresses, not ports: a Pod that serves two of them is one endpoint.
    fn ready(&self, service: &Service) -> [usize; 2] {
        let addresses = match self.slices.get(&service.name) {
            Some(slices) => self.in_slices(service, slices),
            None => self.in_pods(service),
        };
        let v4 = addresses.iter().filter(|addr| addr.is_ipv4()).count();
        let counts = [v4, addresses.len() - v4];
        match (service.has_family(AddressFamily::V4), service.has_family(AddressFamily::V6)) {
            (true, false) => [counts[0]; 2],
            (false, true) => [counts[1]; 2],
            _ => counts,
        }
    }

    /// Ready decides, and that it is not drained: a node whose endpoints all are
    /// should get no more. An endpoint that is terminating is ready only if its
    /// Service publishes endpoints that are not, and then it counts.
    fn in_slices(&self, service: &Service, slices: &[&EndpointSlice]) -> BTreeSet<IpAddr> {
        let serves = |slice: &&&EndpointSlice| {
            !slice.headless && service.ports.iter().any(|port| slice.port(port).is_some())
        };
        let endpoints = slices
            .iter()
            .filter(serves)
            .flat_map(|slice| slice.endpoints.iter().map(move |one| (*slice, one)));
        let local = endpoints
            .filter(|(_, one)| one.node.is_some() && one.node.as_deref() == self.node_name);
        local
            .filter(|(_, one)| one.conditions.ready)
            .filter(|(slice, one)| weight_of(slice, one, &self.weights) != Some(0))
            .map(|(_, one)| one.addr)
            .collect()
    }

    /// Of Pods that nobody wrote slices for.
    fn in_pods(&self, service: &Service) -> BTreeSet<IpAddr> {
        let selected = |pod: &&&Pod| service.selects(pod);
        let ready = |pod: &&&Pod| service.conditions(pod).ready;
        let serves = |pod: &&&Pod| {
            service.ports.iter().any(|port| pod.port(&port.target, port.protocol).is_some())
        };
        let pods = self.pods.iter().filter(selected).filter(ready).filter(serves);
        let pods = pods.filter(|pod| pod.weight != Some(0));
        pods.flat_map(|pod| &pod.addresses).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::manifests::read_text;

    const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, creationTimestamp: 2026-01-01T00:00:00Z}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  clusterIPs: [10.96.0.1, 'fd00::1']
  selector: {app: web}
  ports: [{name: a, port: 80}, {name: b, port: 81}]
---
";

    fn checks(text: &str) -> (Vec<HealthCheck>, Vec<Problem>) {
        let snapshot = read_text("a.yaml", text);
        let options = CompileOptions { node_name: Some("n1".into()), ..CompileOptions::default() };
        health_checks(&snapshot.objects, &options)
    }

    fn ready(text: &str) -> [usize; 2] {
        let (checks, problems) = checks(text);
        assert_eq!(problems, []);
        assert_eq!((checks.len(), checks[0].port), (1, 32_000));
        checks[0].local_ready
    }

    fn slice(name: &str, family: &str, port: &str, endpoints: &str) -> String {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: web}}}}\n\
             addressType: {family}\nports: [{{name: {port}, port: 8080}}]\n\
             endpoints: [{endpoints}]\n---\n"
        )
    }

    fn endpoint(address: &str, node: &str, conditions: &str) -> String {
        format!("{{addresses: ['{address}'], nodeName: {node}, conditions: {{{conditions}}}}}")
    }

    #[test]
    fn addresses_of_ready_endpoints_on_this_node_count_once() {
        let v4 = [
            endpoint("10.0.0.1", "n1", ""),
            endpoint("10.0.0.2", "n1", "ready: true"),
            endpoint("10.0.0.3", "n1", "ready: false, serving: true, terminating: true"),
            endpoint("10.0.0.4", "n1", "ready: false"),
            endpoint("10.0.0.5", "n2", ""),
            "{addresses: [10.0.0.6]}".to_owned(),
        ]
        .join(", ");
        let text = [
            SERVICE,
            &slice("a", "IPv4", "a", &v4),
            &slice("b", "IPv4", "b", &v4),
            &slice("c", "IPv4", "other", &endpoint("10.0.0.9", "n1", "")),
            &slice("d", "IPv6", "a", &endpoint("fd00::9", "n1", "")),
        ]
        .concat();
        assert_eq!(ready(&text), [2, 1]);
        // Slices for a Service that has none of the family do not count, and the
        // only number answers both.
        let single = text.replace("[10.96.0.1, 'fd00::1']", "['fd00::1']");
        assert_eq!(ready(&single), [1, 1]);
    }

    /// An endpoint that is drained takes nothing new, so nobody should send more.
    #[test]
    fn endpoints_of_weight_0_do_not_count() {
        let endpoints = [
            endpoint("10.0.0.1", "n1", ""),
            "{addresses: [10.0.0.2], nodeName: n1, targetRef: {kind: Pod, name: p}}".to_owned(),
        ];
        let slices = |annotation: &str| {
            let text = slice("a", "IPv4", "a", &endpoints.join(", "));
            [SERVICE, &text.replace("labels:", &format!("{annotation}labels:"))].concat()
        };
        let pod = |weight: u16| {
            format!(
                "apiVersion: v1\nkind: Pod\n\
                 metadata: {{name: p, annotations: {{lb.network/weight: '{weight}'}}}}\n\
                 spec: {{containers: []}}\n---\n"
            )
        };
        let drained = "annotations: {lb.network/weight: '0'}, ";
        assert_eq!(ready(&slices("")), [2, 0]);
        assert_eq!(ready(&(slices("") + &pod(0))), [1, 0]);
        assert_eq!(ready(&slices(drained)), [0, 0]);
        assert_eq!(ready(&(slices(drained) + &pod(7))), [1, 0]);
    }

    #[test]
    fn without_slices_pods_count_by_selector() {
        let pod = |name: &str, node: &str, host: u8, ready: &str, more: &str| {
            format!(
                "apiVersion: v1\nkind: Pod\n\
                 metadata: {{name: {name}, labels: {{app: web}}{more}}}\n\
                 spec: {{nodeName: {node}, containers: []}}\n\
                 status: {{podIPs: [{{ip: 10.0.0.{host}}}, {{ip: 'fd00::{host}'}}], \
                 conditions: [{{type: Ready, status: '{ready}'}}]}}\n---\n"
            )
        };
        let ending = ", deletionTimestamp: 2026-01-01T00:00:00Z";
        let text = [
            SERVICE.to_owned(),
            pod("a", "n1", 1, "True", ""),
            pod("b", "n1", 2, "False", ""),
            pod("c", "n1", 3, "True", ending),
            pod("d", "n2", 4, "True", ""),
            pod("e", "n1", 5, "True", ", namespace: other"),
        ]
        .concat();
        assert_eq!(ready(&text), [1, 1]);
        // The slice controller would call each of them ready.
        let all = text.replace("  selector:", "  publishNotReadyAddresses: true\n  selector:");
        assert_eq!(ready(&all), [3, 3]);
        // A slice, even an empty one, speaks for itself.
        assert_eq!(ready(&(text + &slice("s", "IPv4", "a", ""))), [0, 0]);
    }

    #[test]
    fn a_port_goes_to_node_ports_first_and_then_to_the_oldest() {
        let younger = SERVICE
            .replace("web, creation", "young, creation")
            .replace("2026-01", "2026-02")
            .replace("10.96.0.1, 'fd00::1'", "10.96.0.2");
        let (granted, problems) = checks(&(younger + SERVICE));
        assert_eq!(granted.iter().map(|check| &*check.service.name).collect::<Vec<_>>(), ["web"]);
        assert_eq!(
            problems[0].to_string(),
            "a.yaml: Service default/young: spec.healthCheckNodePort: 32000 belongs to Service \
             default/web, which comes first, so no load balancer gets an answer"
        );
        let node_port = SERVICE.replace("port: 81", "port: 81, nodePort: 32000");
        let (granted, problems) = checks(&node_port);
        assert_eq!((granted, problems.len()), (vec![], 1));
        assert!(problems[0].message.contains("a node port of Service default/web"), "{problems:?}");
    }

    #[test]
    fn nothing_is_asked_for_without_a_local_policy_or_by_what_is_not_proxied() {
        for (from, to) in [
            ("externalTrafficPolicy: Local", "externalTrafficPolicy: Cluster"),
            ("type: LoadBalancer", "type: NodePort"),
            ("healthCheckNodePort: 32000", "healthCheckNodePort: 0"),
            ("{name: web,", "{name: web, labels: {service.kubernetes.io/service-proxy-name: x},"),
        ] {
            assert_eq!(checks(&SERVICE.replace(from, to)), (vec![], vec![]), "{to}");
        }
    }
}
