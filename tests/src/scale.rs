//! Many Services: manifests with thousands of them, in every form in which
//! people keep them, around one that is real.

mod api;
mod text;

use crate::agent::Agent;
use crate::client::{self, Connection};
use crate::cluster::{Cluster, Setup};
use crate::deadline;
use crate::manifest::{Service, items};
use crate::process::processor_time;
use crate::topology::Wiring;
use anyhow::{Context as _, Result, bail};
pub use api::ApiField;
use serde_json::{Value, json};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};
pub use text::Shape;

/// How long a change may take before it counts as lost.
const LIMIT: Duration = Duration::from_secs(20);

/// How far apart changes are that are to be measured one by one: those that follow each
/// other within ten milliseconds are taken together, when there was a pause.
pub const APART: Duration = Duration::from_millis(25);

/// How many Services there are beside the real one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: u16,
    /// Endpoints of each; the first four have one more, for round numbers.
    pub endpoints: u8,
    /// Whether they are of both families and have a node port.
    pub rich: bool,
}

/// With the real one, 10,000 Services and 50,000 endpoints.
pub const LARGE: Size = Size { services: 9_999, endpoints: 5, rich: true };

/// One node with an agent that serves them all.
#[derive(Debug)]
pub struct Field {
    /// The agent.
    pub agent: Agent,
    cluster: Cluster,
    shape: Shape,
    /// The objects that never change, as they stand in the file before and
    /// behind those that do.
    around: [String; 2],
}

impl Field {
    /// Writes the manifests and starts the agent; how long it took from then to the
    /// first connection, which needs all of them in force.
    pub fn start(size: Size, shape: Shape) -> Result<(Self, Duration)> {
        let setup = Setup::tc(Wiring::Routed);
        let cluster = Cluster::without_agents(setup)?;
        let half = size.services / 2;
        let many = |range: std::ops::Range<u16>| {
            range.map(move |n| objects(n, size.endpoints + u8::from(n < 4), size.rich))
        };
        let around = if shape == Shape::Files {
            for (number, objects) in (0..).zip(many(0..size.services)) {
                let text = shape.text(&objects);
                let name = format!("many-{number:05}.yaml");
                cluster.manifests.write(&name, &text)?;
            }
            <[String; 2]>::default()
        } else {
            let text = |range| many(range).map(|objects| shape.text(&objects)).collect();
            [text(0..half), text(half..size.services)]
        };
        let around = if shape == Shape::Beside {
            cluster.manifests.write("many.yaml", &Shape::Yaml.file(&around, &[]))?;
            <[String; 2]>::default()
        } else {
            around
        };
        let node = &cluster.topology.nodes[0];
        let options = setup.agent;
        write(&cluster, shape, &around, &[web(&cluster, false)])?();
        let begin = Instant::now();
        let source = vec!["--manifests".into(), cluster.manifests.path().into()];
        let agent = Agent::launch(&node.netns, &node.name, source, options)?;
        let mut field = Self { agent, cluster, shape, around };
        field.first_connection()?;
        let took = begin.elapsed();
        field.agent.ready_within(LIMIT)?;
        Ok((field, took))
    }

    /// Waits until a pod reaches the real Service. The programs are attached when all
    /// Services are in force, and until then nothing answers.
    fn first_connection(&mut self) -> Result<()> {
        const TRY: Duration = Duration::from_millis(20);
        let to = SocketAddr::from((web(&self.cluster, false).addresses.v4, 80));
        let (agent, pod) = (&mut self.agent, self.cluster.pod(0, 1));
        pod.netns.run(|| {
            deadline::until("a connection to the Service", LIMIT * 6, || {
                let ended = agent.ended().map(|status| bail!("the agent ended with {status}"));
                ended.or_else(|| Connection::open_within(TRY, to).ok().map(|_open| Ok(())))
            })
        })??
    }

    /// Adds an endpoint to the real Service, or takes it away; how long it took
    /// from when the file is there until a connection reaches it, or none does.
    pub fn change(&self, second: bool) -> Result<Duration> {
        let services = [web(&self.cluster, second)];
        let put = write(&self.cluster, self.shape, &self.around, &services)?;
        until_changed(&self.cluster, &services[0], second, put)
    }

    /// Processor time that the agent has used so far.
    pub fn processor_time(&self) -> Result<Duration> {
        processor_time(self.pid()?)
    }

    /// The agent's process id.
    pub fn pid(&self) -> Result<u32> {
        self.agent.pid().context("the agent does not run")
    }

    /// What the agent says of the last change: Service ports, writes, and bytes.
    pub fn last_sync(&self) -> Result<[u64; 3]> {
        let status = self.agent.status()?;
        let number = |field: &str| status["last_sync"][field].as_u64();
        let [changed, writes, bytes] = ["changed", "writes", "bytes"].map(number);
        let writes = writes.context("no writes are told")?;
        Ok([changed.context("no changes are told")?, writes, bytes.context("no bytes are told")?])
    }
}

/// Makes a change, and asks the Service from a pod until its second endpoint answers,
/// or does no more; how long that took.
fn until_changed(
    cluster: &Cluster,
    service: &Service,
    second: bool,
    change: impl FnOnce() + Send,
) -> Result<Duration> {
    let to = SocketAddr::from((service.addresses.v4, 80));
    let [pod, name] = [cluster.pod(0, 1), cluster.pod(1, 0)];
    pod.netns.run(move || {
        let begin = Instant::now();
        change();
        let mut others = 0;
        // Turns are taken by CPU, so two answers in a row say little.
        while begin.elapsed() < LIMIT {
            let answer = client::get(to).context("ask the Service")?;
            others = if answer.backend == name.name { 0 } else { others + 1 };
            if (others == 0) == second && (second || others > 8) {
                return Ok(begin.elapsed());
            }
        }
        bail!("a change is not in force after {LIMIT:?}")
    })?
}

/// The real Service, with one endpoint or two.
fn web(cluster: &Cluster, second: bool) -> Service {
    let nodes = &cluster.topology.nodes;
    let service = Service::new("web", 1).http(0).endpoint(&nodes[0], &nodes[0].pods[0]);
    if second { service.endpoint(&nodes[1], &nodes[1].pods[0]) } else { service }
}

/// Prepares the manifests; what comes back puts them in place.
fn write(
    cluster: &Cluster,
    shape: Shape,
    around: &[String; 2],
    services: &[Service],
) -> Result<impl FnOnce() + Send + use<>> {
    let text = shape.file(around, &items(&cluster.topology, services));
    let dir = cluster.manifests.path();
    let (fresh, path) = (dir.join(".cluster.new"), dir.join(shape.file_name()));
    std::fs::write(&fresh, text).context("write the manifests")?;
    // As careful writers do. File systems that see to it themselves would let
    // the rename wait for the disk, for longer than all of what is measured.
    File::open(&fresh).and_then(|file| file.sync_all()).context("write them to the disk")?;
    Ok(move || {
        // A failure shows as a change that never comes.
        let _ = std::fs::rename(fresh, path);
    })
}

/// A Service with its EndpointSlices.
fn objects(number: u16, endpoints: u8, rich: bool) -> Vec<Value> {
    let name = format!("service-{number:05}");
    let namespace = format!("team-{:03}", number % 100);
    let [high, low] = number.to_be_bytes();
    let v4 = Ipv4Addr::new(10, 97, high, low);
    let v6 = Ipv6Addr::new(0xfd00, 0x10, 0x97, 0, 0, 0, 0, number);
    let pod = |n: u8| -> IpAddr {
        // They are of the two families in turn.
        if !rich || n.is_multiple_of(2) {
            Ipv4Addr::new(10, 128 + n, high, low).into()
        } else {
            Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, number, n.into()).into()
        }
    };
    let metadata = |name: &str| {
        json!({
            "creationTimestamp": "2026-11-22T13:00:05Z",
            "labels": { "app.kubernetes.io/name": name, "kubernetes.io/service-name": name },
            "name": name, "namespace": namespace, "resourceVersion": number.to_string(),
            "uid": format!("bc55bf4d-c2ee-4291-90b3-{number:012}"),
        })
    };
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata(&name),
        "spec": {
            "clusterIP": v4, "clusterIPs": [v4, v6], "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "name": "http", "nodePort": 32_768 + u32::from(number), "port": 80,
                        "protocol": "TCP", "targetPort": "http" }],
            "selector": { "app.kubernetes.io/name": name }, "sessionAffinity": "None",
            "type": "NodePort",
        },
        "status": { "loadBalancer": {} },
    });
    let families = if rich { &["IPv4", "IPv6"][..] } else { &["IPv4"] };
    if !rich {
        let spec = &mut service["spec"];
        spec["clusterIPs"] = json!([v4]);
        (spec["ipFamilies"], spec["ipFamilyPolicy"]) = (json!(families), "SingleStack".into());
        spec["type"] = "ClusterIP".into();
        spec["ports"][0].as_object_mut().map(|port| port.remove("nodePort"));
    }
    let mut list = vec![service];
    for family in families {
        let of_family = (0..endpoints).filter(|n| pod(*n).is_ipv4() == (*family == "IPv4"));
        let endpoint = |n: u8| {
            json!({
                "addresses": [pod(n)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": "n2",
                "targetRef": { "kind": "Pod", "name": format!("{name}-{n}"),
                    "namespace": namespace, "uid": format!("f5e1ba18-01e4-4c43-{n:04}-{number:012}") },
                "zone": "zone-b",
            })
        };
        let mut slice_metadata = metadata(&name);
        slice_metadata["name"] = format!("{name}-{}", family.to_ascii_lowercase()).into();
        slice_metadata["generateName"] = format!("{name}-").into();
        list.push(json!({
            "addressType": family, "apiVersion": "discovery.k8s.io/v1",
            "endpoints": of_family.map(endpoint).collect::<Vec<_>>(),
            "kind": "EndpointSlice", "metadata": slice_metadata,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }));
    }
    list
}
