//! What load balancers and the kubelet ask a node: health-check node ports of
//! Services, `/healthz` and `/livez`.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Agent;
use lb_tests::client::Connection;
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::http::Message;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Wiring};
use serde_json::{Value, json};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// The port on which the Service `web` is asked about.
const PORT: u16 = 32_000;
/// From the write of a manifest, or the end of what holds a port, to the answer.
const SOON: Duration = Duration::from_secs(10);
/// kube-proxy's port.
const HEALTHZ: u16 = 10_256;

/// A Service of type LoadBalancer, created on a day of 2026-01.
fn service(name: &str, number: u8, created: u8, policy: &str) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default",
                      "creationTimestamp": format!("2026-01-{created:02}T00:00:00Z") },
        "spec": {
            "type": "LoadBalancer", "externalTrafficPolicy": policy,
            "clusterIPs": [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")],
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080 },
                      { "name": "more", "port": 81, "targetPort": 8081 }],
        },
    });
    if policy == "Local" {
        object["spec"]["healthCheckNodePort"] = PORT.into();
    }
    object
}

/// A slice of `web`: node, address, and whether it is ready or terminating.
fn slice(name: &str, family: &str, endpoints: &[(&str, String, bool)]) -> Value {
    let endpoints = endpoints.iter().map(|(node, address, ready)| {
        json!({ "addresses": [address], "nodeName": node,
                "conditions": { "ready": ready, "serving": true, "terminating": !ready } })
    });
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
        "metadata": { "name": name, "namespace": "default",
                      "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "port": 8080 }, { "name": "more", "port": 8081 }],
        "endpoints": endpoints.collect::<Vec<_>>(),
    })
}

fn list(items: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// Both pods of the first node by IPv4, one of them by IPv6; of the second node,
/// none by IPv4 and one by IPv6.
fn slices(cluster: &Cluster, ready: bool) -> [Value; 2] {
    let [one, two] = [0, 1].map(|index| cluster.node(index));
    let v4 = [0, 1].map(|pod| (&*one.name, one.pods[pod].addresses.v4.to_string(), ready));
    let v6 = [one, two].map(|node| (&*node.name, node.pods[0].addresses.v6.to_string(), ready));
    [slice("web-4", "IPv4", &v4), slice("web-6", "IPv6", &v6)]
}

/// Asks for any path; nobody listening is an error.
fn ask(from: &Namespace, to: SocketAddr, path: &str) -> Result<Message> {
    Ok(from.run(|| Connection::open(to)?.exchange("GET", path, b""))??)
}

fn status(message: &Message) -> &str {
    message.start.split(' ').nth(1).unwrap_or_default()
}

fn body(message: &Message) -> Result<Value> {
    serde_json::from_slice(&message.body)
        .with_context(|| String::from_utf8_lossy(&message.body).into_owned())
}

/// What a node answers for `web`: from outside, each family for itself.
fn counts(cluster: &Cluster, node: usize, expected: [u64; 2]) -> Result<()> {
    let addresses = cluster.node(node).addresses.both();
    for (address, count) in addresses.into_iter().zip(expected) {
        let answer = ask(&cluster.topology.client, (address, PORT).into(), "/any/path")?;
        let start = if count > 0 { "HTTP/1.1 200 OK" } else { "HTTP/1.1 503 Service Unavailable" };
        ensure!(answer.start == start, "{address}: {answer:?}, not {count}");
        let header = |name| answer.header(name).unwrap_or_default();
        ensure!(header("content-type") == "application/json", "{answer:?}");
        ensure!(header("x-content-type-options") == "nosniff", "{answer:?}");
        let weight = header("x-load-balancing-endpoint-weight");
        ensure!(weight == count.to_string(), "{address}: {answer:?}, not {count}");
        let body = body(&answer)?;
        let expected = json!({
            "service": { "namespace": "default", "name": "web" },
            "localEndpoints": count, "serviceProxyHealthy": true,
        });
        ensure!(body == expected, "{address}: {body}");
    }
    Ok(())
}

fn is_closed(cluster: &Cluster, node: usize) -> bool {
    let refused = |address| ask(&cluster.topology.client, (address, PORT).into(), "/").is_err();
    cluster.node(node).addresses.both().into_iter().all(refused)
}

fn problem(agent: &Agent, object: &str) -> Result<Option<(String, String)>> {
    let status = agent.status()?;
    let problems = status["problems"].as_array().context("no problems")?;
    let ours = problems.iter().find(|problem| {
        problem["object"] == object && problem["field"] == "spec.healthCheckNodePort"
    });
    let text = |problem: &Value, key: &str| problem[key].as_str().unwrap_or_default().to_owned();
    Ok(ours.map(|problem| (text(problem, "severity"), text(problem, "message"))))
}

fn started(manifests: &[Value]) -> Result<Cluster> {
    let mut cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
    cluster.manifests.write("services.json", &list(manifests))?;
    cluster.manifests.write("slices.json", &list(&slices(&cluster, true)))?;
    cluster.start_agents()?;
    Ok(cluster)
}

#[test]
fn load_balancers_learn_which_nodes_have_ready_endpoints() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = started(&[service("web", 1, 1, "Local")])?;
    counts(&cluster, 0, [2, 1])?;
    counts(&cluster, 1, [0, 1])?;
    // Endpoints that are terminating serve what they have, but want no more.
    let slices_file = "slices.json";
    cluster.manifests.write(slices_file, &list(&slices(&cluster, false)))?;
    deadline::until_ok("terminating endpoints", SOON, || counts(&cluster, 0, [0, 0]))?;
    cluster.manifests.write(slices_file, &list(&slices(&cluster, true)))?;
    deadline::until_ok("ready endpoints", SOON, || counts(&cluster, 0, [2, 1]))?;
    // The port goes with the policy, and comes with it.
    let services_file = "services.json";
    cluster.manifests.write(services_file, &list(&[service("web", 1, 1, "Cluster")]))?;
    deadline::until("the port to close", SOON, || is_closed(&cluster, 0).then_some(()))?;
    cluster.manifests.write(services_file, &list(&[service("web", 1, 1, "Local")]))?;
    deadline::until_ok("the port to open", SOON, || counts(&cluster, 0, [2, 1]))?;
    cluster.manifests.write(services_file, &list(&[]))?;
    deadline::until("the port to close", SOON, || is_closed(&cluster, 0).then_some(()))
}

#[test]
fn a_port_that_can_not_be_had_is_told_and_taken_when_it_can() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = started(&[service("web", 1, 2, "Cluster"), service("rival", 2, 3, "Local")])?;
    let agent = &cluster.agents[0];
    let node = cluster.node(0);
    let rival = || ask(&node.netns, (node.addresses.v4, PORT).into(), "/");
    ensure!(body(&rival()?)?["service"]["name"] == "rival");

    // The older Service takes the port from the younger.
    let both = [service("web", 1, 2, "Local"), service("rival", 2, 3, "Local")];
    cluster.manifests.write("services.json", &list(&both))?;
    deadline::until_ok("the older Service", SOON, || counts(&cluster, 0, [2, 1]))?;
    let (severity, message) = problem(agent, "Service default/rival")?.context("no problem")?;
    ensure!(severity == "error" && message.contains("belongs to Service default/web"), "{message}");

    // Another program has it.
    cluster.manifests.write("services.json", &list(&[]))?;
    let taken = deadline::until("the port to be free", SOON, || {
        let taken = node.netns.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)));
        taken.ok()?.ok()
    })?;
    cluster.manifests.write("services.json", &list(&[service("web", 1, 2, "Local")]))?;
    let (severity, message) = deadline::until("a problem", SOON, || {
        problem(agent, "Service default/web").ok().flatten()
    })?;
    ensure!(severity == "warning", "{severity}");
    ensure!(message.contains("0.0.0.0:32000: Address already in use"), "{message}");
    let log = std::fs::read_to_string(agent.log())?;
    ensure!(log.contains("Service default/web: spec.healthCheckNodePort: can't be"), "{log}");
    // It is the only thing that is wrong: the other family and node answer, and
    // the Service is in force.
    let v6: SocketAddr = (node.addresses.v6, PORT).into();
    ensure!(status(&ask(&cluster.topology.client, v6, "/")?) == "200");
    counts(&cluster, 1, [0, 1])?;
    ensure!(agent.services()?.iter().any(|service| service["name"] == "web"));
    ensure!(agent.status()?["healthy"] == true);

    drop(taken);
    deadline::until_ok("the port to be taken", SOON, || counts(&cluster, 0, [2, 1]))?;
    deadline::until_ok("the problem to go", SOON, || {
        ensure!(problem(agent, "Service default/web")?.is_none());
        Ok(())
    })
}

/// Many connections that begin a request and never end it.
fn stall(to: SocketAddr) -> std::io::Result<Vec<TcpStream>> {
    let one = |_| {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(b"GET / HTTP/1.1\r\nX: ")?;
        Ok(stream)
    };
    (0..200).map(one).collect()
}

#[test]
fn clients_that_stall_keep_nobody_from_an_answer() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = started(&[service("web", 1, 1, "Local")])?;
    let client = &cluster.topology.client;
    let node = cluster.node(0).addresses;
    let mut stalled = Vec::new();
    for port in [PORT, HEALTHZ] {
        for address in node.both() {
            stalled.push(client.run(|| stall((address, port).into()))??);
        }
    }
    counts(&cluster, 0, [2, 1])?;
    ensure!(status(&ask(client, (node.v4, HEALTHZ).into(), "/livez")?) == "200");
    // They don't take the agent's descriptors either.
    let agent = &cluster.agents[0].status()?["agent"]["pid"];
    deadline::until_ok("connections to be few", SOON, || {
        let open = std::fs::read_dir(format!("/proc/{agent}/fd"))?.count();
        ensure!(open < 700, "{open} files are open");
        Ok(())
    })
}

fn node_object(name: &str, more: &Value, taints: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "spec": { "taints": taints },
    });
    if let (Some(metadata), Some(more)) = (object["metadata"].as_object_mut(), more.as_object()) {
        metadata.extend(more.clone());
    }
    object
}

/// Both families and addresses answer `path` alike; what.
fn answers(from: &Namespace, node: Addresses, path: &str) -> Result<(String, Value)> {
    let mut last = None;
    for address in node.both() {
        let answer = ask(from, (address, HEALTHZ).into(), path)?;
        ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
        ensure!(answer.header("x-content-type-options") == Some("nosniff"), "{answer:?}");
        let this = (status(&answer).to_owned(), body(&answer)?);
        ensure!(last.is_none_or(|(status, _)| status == this.0), "the families differ");
        last = Some(this);
    }
    last.context("no address")
}

#[test]
fn healthz_follows_the_node_and_livez_does_not() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
    let name = cluster.node(0).name.clone();
    let plain = node_object(&name, &json!({}), &json!([]));
    cluster.manifests.write("node.json", &list(std::slice::from_ref(&plain)))?;
    cluster.start_agents()?;
    let client = &cluster.topology.client;
    let node = cluster.node(0).addresses;

    let (status, body) = answers(client, node, "/healthz")?;
    ensure!(status == "200" && body["nodeEligible"] == true, "{status} {body}");
    ensure!(body["healthy"] == true && body["lastUpdated"] == body["currentTime"], "{body}");
    for family in ["IPv4", "IPv6"] {
        let of_family = &body["status"][family];
        let updated = of_family["lastUpdated"].as_str().unwrap_or_default();
        ensure!(of_family["healthy"] == true && updated.ends_with('Z'), "{body}");
    }
    let (status, body) = answers(client, node, "/livez")?;
    ensure!(status == "200" && body.get("nodeEligible").is_none(), "{status} {body}");
    let missing = ask(client, (node.v4, HEALTHZ).into(), "/metrics")?;
    ensure!(missing.start.starts_with("HTTP/1.1 404"), "{missing:?}");

    let taint = json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]);
    let deleted = json!({ "deletionTimestamp": "2026-01-01T00:00:00Z" });
    for items in [
        vec![node_object(&name, &json!({}), &taint)],
        vec![node_object(&name, &deleted, &json!([]))],
        vec![],
    ] {
        let becomes = |items: &[Value], expected: &str| {
            cluster.manifests.write("node.json", &list(items))?;
            deadline::until_ok(&format!("{expected} for {items:?}"), SOON, || {
                let (status, body) = answers(client, node, "/healthz")?;
                ensure!(status == expected, "{status} {body}");
                ensure!(body["nodeEligible"] == (expected == "200"), "{body}");
                let (alive, _) = answers(client, node, "/livez")?;
                ensure!(alive == "200", "/livez follows the node: {alive}");
                Ok(())
            })
        };
        becomes(&items, "503")?;
        becomes(std::slice::from_ref(&plain), "200")?;
    }
    Ok(())
}

#[test]
fn a_taken_default_address_does_not_end_the_agent() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
    let taken =
        cluster.node(0).netns.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, HEALTHZ)))??;
    cluster.start_agents()?;
    ensure!(cluster.agents[0].status()?["agent"]["healthz"].is_null());
    ensure!(cluster.agents[1].status()?["agent"]["healthz"] == "0.0.0.0:10256");
    let log = std::fs::read_to_string(cluster.agents[0].log())?;
    ensure!(log.contains("no /healthz: 0.0.0.0:10256 can't be used"), "{log}");
    drop(taken);
    Ok(())
}
