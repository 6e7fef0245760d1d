//! Why a Service does on this node what it does: how many endpoints its clients
//! may get, and what keeps the others out. For people; pure.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::{Desired, DesiredBackend, DesiredService, Scope, Takes};
use crate::model::{EndpointSlice, NotProxied, ObjectName, Objects, Pod, Service, ServicePort};

/// What becomes of a Service here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The Service.
    pub service: ObjectName,
    /// Why it is not served at all, if so.
    pub not_served: Option<String>,
    /// Its ports that are served.
    pub ports: Vec<ExplainedPort>,
    /// What keeps whole sets of endpoints out.
    pub notes: Vec<String>,
}

/// What becomes of a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPort {
    /// The port as it was compiled.
    pub service: DesiredService,
    /// Endpoints that get new connections: by scope, by family (IPv4, IPv6).
    pub sizes: [[usize; 2]; 2],
    /// Endpoints that don't, and why.
    pub unused: Vec<(IpAddr, u16, String)>,
}

/// Explains every Service, by name.
pub fn explain(objects: &Objects, desired: &Desired) -> Vec<Explanation> {
    let mut slices: HashMap<(&str, &str), Vec<&EndpointSlice>> = HashMap::new();
    for slice in objects.endpoint_slices.values().map(|sourced| &*sourced.object) {
        if let Some(service) = &slice.service {
            let key = (slice.name.namespace.as_str(), service.as_str());
            slices.entry(key).or_default().push(slice);
        }
    }
    let mut served: BTreeMap<(&str, &str), Vec<&DesiredService>> = BTreeMap::new();
    for service in desired.services.values() {
        let key = (service.key.namespace.as_str(), service.key.name.as_str());
        served.entry(key).or_default().push(service);
    }
    let services = objects.services.values().map(|sourced| &*sourced.object);
    let explained = services.map(|service| {
        let key = (service.name.namespace.as_str(), service.name.name.as_str());
        let slices = slices.get(&key).map_or(&[][..], Vec::as_slice);
        let ports = served.get(&key).map_or(&[][..], Vec::as_slice);
        one(objects, service, slices, ports)
    });
    explained.collect()
}

fn one(
    objects: &Objects,
    service: &Service,
    slices: &[&EndpointSlice],
    served: &[&DesiredService],
) -> Explanation {
    let mut explanation = Explanation {
        service: service.name.clone(),
        not_served: not_served(service, served),
        ports: Vec::new(),
        notes: Vec::new(),
    };
    if explanation.not_served.is_some() {
        return explanation;
    }
    let notes = slices.iter().filter_map(|slice| unusable(slice, service));
    explanation.notes.extend(notes);
    let pods = || objects.pods.values().map(|sourced| &*sourced.object);
    let selected: Vec<&Pod> = if slices.is_empty() {
        pods().filter(|pod| service.selects(pod)).collect()
    } else {
        Vec::new()
    };
    if slices.is_empty() && selected.is_empty() {
        explanation.notes.push(
            if service.selector.is_empty() {
                "has no selector, and no EndpointSlice names it"
            } else {
                "no EndpointSlice names it, and its selector matches no Pod that runs"
            }
            .to_owned(),
        );
    }
    for port in served {
        let known = service
            .ports
            .iter()
            .find(|known| known.name == port.key.port_name && known.protocol == port.key.protocol);
        let mut unused: Vec<_> = port.backends.iter().filter_map(idle).collect();
        if let Some(known) = known {
            unused.extend(absent(slices, &selected, known, port));
        }
        unused.sort();
        unused.dedup();
        explanation.ports.push(ExplainedPort {
            service: (*port).clone(),
            sizes: Scope::ALL.map(|scope| sizes(port, scope)),
            unused,
        });
    }
    explanation
}

fn not_served(service: &Service, served: &[&DesiredService]) -> Option<String> {
    let why = match service.not_proxied {
        Some(NotProxied::ExternalName) => "is an ExternalName: a name in DNS, never proxied",
        Some(NotProxied::Headless) => "is headless: clients get the endpoints from DNS",
        Some(NotProxied::NoClusterIp) => "has no cluster address yet",
        Some(NotProxied::OtherProxy) => {
            "is another proxy's, by the label service.kubernetes.io/service-proxy-name"
        }
        None if served.is_empty() => "has no address of its own left to serve",
        None => return None,
    };
    Some(why.to_owned())
}

fn sizes(port: &DesiredService, scope: Scope) -> [usize; 2] {
    [false, true].map(|v6| {
        let taking = port.backends.iter().filter(|backend| backend.serves(scope));
        taking.filter(|backend| backend.addr.is_ipv6() == v6).count()
    })
}

/// A backend that keeps what it has.
fn idle(backend: &DesiredBackend) -> Option<(IpAddr, u16, String)> {
    let why = match backend.takes {
        Takes::New => return None,
        Takes::Terminating => "is ending, and others are ready",
        Takes::Draining => "its weight is 0",
        Takes::Farther => "others are closer, by the topology hints",
        Takes::NotReady => "serves, but is not ready",
    };
    Some((backend.addr, backend.port, why.to_owned()))
}

/// What keeps all endpoints of a slice out.
fn unusable(slice: &EndpointSlice, service: &Service) -> Option<String> {
    let name = &slice.name.name;
    let Some(family) = slice.family else {
        return Some(format!("EndpointSlice {name} holds domain names"));
    };
    if slice.headless {
        return Some(format!("EndpointSlice {name} has the label service.kubernetes.io/headless"));
    }
    if !service.has_family(family) {
        return Some(format!("EndpointSlice {name} is of a family that the Service has not"));
    }
    let missing = service.ports.iter().filter(|port| slice.port(port).is_none());
    let missing: Vec<String> =
        missing.map(|port| format!("{:?}/{}", port.name, port.protocol)).collect();
    (!missing.is_empty())
        .then(|| format!("EndpointSlice {name} has no port {}", missing.join(", ")))
}

/// Endpoints that are not among the backends at all.
fn absent(
    slices: &[&EndpointSlice],
    pods: &[&Pod],
    port: &ServicePort,
    served: &DesiredService,
) -> Vec<(IpAddr, u16, String)> {
    let mut absent = Vec::new();
    for slice in slices.iter().filter(|slice| !slice.headless) {
        let Some(number) = slice.port(port) else { continue };
        absent.extend(slice.endpoints.iter().map(|endpoint| {
            (endpoint.addr, number, why_absent(endpoint.conditions.terminating).to_owned())
        }));
    }
    for pod in pods {
        let name = &pod.name.name;
        match pod.port(&port.target, port.protocol) {
            Some(number) => absent.extend(pod.addresses.iter().map(|&addr| {
                (addr, number, format!("Pod {name} {}", why_absent(pod.terminating)))
            })),
            None => absent.extend(pod.addresses.iter().map(|&addr| {
                (addr, 0, format!("Pod {name} has no port of the name in targetPort"))
            })),
        }
    }
    let is_backend = |addr, port| {
        served.backends.iter().any(|backend| (backend.addr, backend.port) == (addr, port))
    };
    let has_family =
        |addr: &IpAddr| served.cluster_ips.iter().any(|own| own.is_ipv4() == addr.is_ipv4());
    absent.retain(|(addr, port, _)| !is_backend(*addr, *port) && has_family(addr));
    absent
}

const fn why_absent(terminating: bool) -> &'static str {
    if terminating { "is ending and no longer serves" } else { "is neither ready nor serving" }
}
