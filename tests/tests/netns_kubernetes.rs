//! Agents that follow the Kubernetes API: what it tells is in force at once, and
//! whatever becomes of it, nothing that is in force goes.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::{Agent, Options, metric};
use lb_tests::api_server::{ApiServer, ListFault};
use lb_tests::client::{Connection, get};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline::{self, patient};
use lb_tests::manifest::{Service, items};
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Wiring};
use lb_tests::traffic::{Kind, Tally};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);
/// Where each node's own API server listens.
const LOCAL: &str = "127.0.0.1:6443";
const API_PORT: u16 = 6443;
/// From a change until the first request by the new rule.
const IN_FORCE: Duration = Duration::from_millis(200);

/// A cluster whose agents follow an API server.
struct Scene {
    agents: Vec<Agent>,
    server: ApiServer,
    cluster: Cluster,
}

impl Scene {
    /// The cluster and the server, which every node reaches; no agent.
    fn new() -> Result<Self> {
        let server = ApiServer::new()?;
        let cluster = Cluster::without_agents(Setup::tc(Wiring::Routed))?;
        for node in &cluster.topology.nodes {
            server.listen(&node.netns, LOCAL.parse()?)?;
        }
        Ok(Self { agents: Vec::new(), server, cluster })
    }

    fn publish(&self, services: &[Service]) {
        self.server.publish(items(&self.cluster.topology, services));
    }

    /// Starts an agent on the first node, which need not become healthy.
    fn launch(&mut self) -> Result<()> {
        let source = self.server.source(LOCAL.parse()?)?;
        self.launch_from(source)
    }

    fn launch_from(&mut self, source: Vec<OsString>) -> Result<()> {
        let node = &self.cluster.topology.nodes[self.agents.len()];
        let options = Options { xdp: "off", tc: "auto", more: &[] };
        self.agents.push(Agent::launch(&node.netns, &node.name, source, options)?);
        Ok(())
    }

    /// Starts an agent on each node.
    fn start(&mut self) -> Result<()> {
        for _ in 0..self.cluster.topology.nodes.len() {
            self.launch()?;
        }
        self.agents.iter_mut().try_for_each(Agent::ready)
    }

    /// A Service whose endpoints are one pod.
    fn on(&self, node: usize, pod: usize) -> Service {
        let node = &self.cluster.topology.nodes[node];
        web().endpoint(node, &node.pods[pod])
    }

    /// Waits until exactly these pods answer on an address, asked for from a pod.
    fn served(&self, to: SocketAddr, by: &[&str]) -> Result<()> {
        deadline::until_ok("the Service", patient(LIMIT), || self.serves(to, by))
    }

    fn serves(&self, to: SocketAddr, by: &[&str]) -> Result<()> {
        let pod = &self.cluster.pod(0, 1).netns;
        Tally::of(pod, Kind::Http, to, 4)?.expect(by)
    }

    /// Waits until the first agent says something of its source.
    fn told(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let status = || self.agents[0].status_now();
        deadline::until(what, patient(LIMIT), || status().ok().filter(|status| is(status)))
            .with_context(|| format!("{:#}", status().unwrap_or_default()))
    }
}

fn web() -> Service {
    Service::new("web", 1).http(30080)
}

fn to_web() -> SocketAddr {
    web().http_addresses()[0]
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/api").join(name)
}

fn in_contact(status: &Value) -> bool {
    status["source"]["no_contact_since"].is_null() && status["healthy"] == true
}

fn out_of_contact(status: &Value) -> bool {
    status["source"]["no_contact_since"].is_f64() && status["healthy"] == false
}

#[test]
fn what_a_real_api_server_told_is_served_and_followed() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    for node in 0..2 {
        scene.cluster.add_pod_at(node, 31)?;
    }
    for kind in ["services", "endpointslices", "nodes", "servicecidrs"] {
        scene.server.load(&data(&format!("list-{kind}.json")))?;
    }
    // By a name, which the agent has to resolve with the rights that it keeps.
    let mut named = scene.server.source(LOCAL.parse()?)?;
    named.extend(["--api-server".into(), "https://localhost:6443".into()]);
    scene.launch_from(named)?;
    scene.launch()?;
    scene.agents.iter_mut().try_for_each(Agent::ready)?;
    for (to, by) in [
        ("10.96.137.78:80", &["pod-1a", "pod-1b", "pod-2a"][..]),
        ("[fd00:10:96::a17b]:80", &["pod-1a", "pod-1b", "pod-2a"]),
    ] {
        let pod = &scene.cluster.pod(1, 1).netns;
        Tally::of(pod, Kind::Http, to.parse()?, 40)?.expect(by)?;
    }
    // A Service that selects no pod, and an address that no Service has.
    let pod = &scene.cluster.pod(1, 1).netns;
    let empty = "10.96.58.121:80".parse()?;
    let refused = pod.run(|| get(empty))?;
    ensure!(refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
    for kind in ["services", "endpointslices", "nodes"] {
        let events = fs::read_to_string(data(&format!("watch-{kind}.jsonl")))?;
        for event in events.lines() {
            scene.server.replay(&serde_json::from_str(event)?)?;
        }
    }
    // What an agent makes of all that is what one makes that begins at its end.
    scene.agents[0].terminate()?;
    scene.agents[0].cleanup()?;
    scene.agents[0].run()?;
    scene.agents[0].ready()?;
    let fresh = backends(&scene.agents[0].services()?);
    deadline::until_ok("the end of the recording", LIMIT, || {
        let followed = backends(&scene.agents[1].services()?);
        ensure!(followed == fresh, "{followed:#?} instead of {fresh:#?}");
        ensure!(scene.agents[1].verify(&[])?.is_empty());
        Ok(())
    })?;
    let requests = scene.server.requests();
    let asked = |part: &str| requests.iter().any(|request| request.contains(part));
    for part in [
        "/api/v1/services?",
        "fieldSelector=spec.clusterIP!=None",
        "/apis/discovery.k8s.io/v1/endpointslices?",
        "labelSelector=!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name",
        "/api/v1/nodes?",
        "fieldSelector=metadata.name=n1",
        "/apis/networking.k8s.io/v1/servicecidrs?",
        "allowWatchBookmarks=true",
    ] {
        ensure!(asked(part), "nobody asked for {part}: {requests:#?}");
    }
    ensure!(!asked("pods"), "Pods are nobody's business");
    Ok(())
}

/// Services with their backends, free of what counts traffic.
fn backends(services: &[Value]) -> BTreeSet<String> {
    let backend = |one: &Value| format!("{}:{}", one["address"], one["port"]);
    let of = |one: &Value| {
        let backends = one["backends"].as_array().into_iter().flatten();
        let backends: BTreeSet<String> = backends.map(backend).collect();
        format!("{} {} {backends:?}", one["name"], one["port_name"])
    };
    services.iter().map(of).collect()
}

#[test]
fn nothing_is_in_force_before_all_lists_are_complete_and_nothing_goes() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    scene.publish(&[scene.on(0, 0)]);
    scene.start()?;
    scene.served(to_web(), &["pod-1a"])?;
    // The agent is replaced while one list does not come: a partial one has fewer
    // Services, none has fewer endpoints.
    scene.publish(&[scene.on(1, 0)]);
    scene.served(to_web(), &["pod-2a"])?;
    scene.agents[0].kill();
    scene.server.hold("endpointslices", true);
    scene.publish(&[scene.on(0, 0), Service::new("other", 2).http(0)]);
    scene.agents[0].run()?;
    let status = scene.told("the agent waits", |status| {
        status["reasons"][0].as_str().is_some_and(|reason| reason.contains("endpointslices"))
    })?;
    ensure!(status["source"]["complete"] == false && status["last_sync"].is_null(), "{status:#}");
    scene.serves(to_web(), &["pod-2a"])?;
    // Its hooks are at work meanwhile: a pod that starts is a client.
    let index = scene.cluster.add_pod(0)?;
    deadline::until_ok("a new pod", LIMIT, || {
        let pod = &scene.cluster.pod(0, index).netns;
        Tally::of(pod, Kind::Http, to_web(), 2)?.expect(&["pod-2a"])
    })?;
    scene.server.hold("endpointslices", false);
    scene.agents[0].ready()?;
    scene.served(to_web(), &["pod-1a"])?;
    // So it is where another takes over: what it is told last is in force.
    scene.publish(&[scene.on(1, 0)]);
    scene.agents[0].take_over()?;
    scene.served(to_web(), &["pod-2a"])
}

#[test]
fn a_cluster_without_service_cidrs_is_served() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    scene.server.set_absent("servicecidrs", true);
    scene.publish(&[scene.on(0, 0)]);
    scene.start()?;
    scene.told("contact", in_contact)?;
    scene.served(to_web(), &["pod-1a"])
}

#[test]
fn an_api_server_that_goes_away_changes_nothing_and_is_followed_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let gone = Service::new("gone", 2).http(0);
    let gone_too = gone.clone().endpoint(scene.cluster.node(0), scene.cluster.pod(0, 0));
    scene.publish(&[scene.on(0, 0), gone_too]);
    scene.start()?;
    scene.served(to_web(), &["pod-1a"])?;
    scene.served(gone.http_addresses()[0], &["pod-1a"])?;
    scene.server.stop();
    let status = scene.told("no contact", out_of_contact)?;
    let reason = status["reasons"][0].as_str().unwrap_or_default().to_owned();
    ensure!(
        reason
            .starts_with("no contact with the Kubernetes API at https://127.0.0.1:6443/ since 20")
            && reason.ends_with("; the Services stay as they were"),
        "{reason}"
    );
    let netns = &scene.cluster.node(0).netns;
    ensure!(metric(netns, "lb_source_in_contact")? == 0);
    // Meanwhile a Service goes, an endpoint moves, and the server forgets how.
    scene.publish(&[scene.on(1, 0)]);
    scene.server.compact();
    scene.serves(to_web(), &["pod-1a"])?;
    scene.serves(gone.http_addresses()[0], &["pod-1a"])?;
    // Whoever starts now has the pins, and keeps them.
    scene.agents[0].kill();
    scene.agents[0].run()?;
    scene.told("no contact again", out_of_contact)?;
    scene.serves(to_web(), &["pod-1a"])?;
    scene.server.start();
    scene.told("contact", in_contact)?;
    ensure!(metric(netns, "lb_source_in_contact")? == 1);
    scene.served(to_web(), &["pod-2a"])?;
    let answer = scene.cluster.pod(0, 1).netns.run(|| get(gone.http_addresses()[0]))?;
    ensure!(answer.is_err(), "a Service that is gone answers");
    ensure!(scene.agents[0].verify(&[])?.is_empty());
    Ok(())
}

#[test]
fn watches_that_end_expire_or_lie_leave_what_is_true() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    scene.publish(&[scene.on(0, 0)]);
    scene.start()?;
    let watched = |scene: &Scene| {
        deadline::until("watches of both agents", LIMIT, || {
            (scene.server.watches("endpointslices") == 2).then_some(())
        })
    };
    let mut place = [(1, 0), (0, 0)].into_iter().cycle();
    let mut moves = |scene: &Scene| -> Result<()> {
        let (node, pod) = place.next().context("cycles never end")?;
        scene.publish(&[scene.on(node, pod)]);
        scene.served(to_web(), &[&scene.cluster.pod(node, pod).name])
    };
    watched(&scene)?;
    // A watch that is cut goes on from where it was; so does one with bookmarks.
    scene.server.bookmark();
    scene.server.cut();
    moves(&scene)?;
    // One that the server has forgotten lists anew, in pages that fail.
    watched(&scene)?;
    scene.server.set_page(1);
    for fault in [ListFault::Expired, ListFault::Cut, ListFault::Internal] {
        scene.server.fail_list("endpointslices", fault);
        scene.server.compact();
        moves(&scene)?;
        watched(&scene)?;
    }
    // The same event again, and one that is older, change nothing.
    let old = scene.server.last_event("endpointslices").context("an event")?;
    moves(&scene)?;
    let new = scene.server.last_event("endpointslices").context("an event")?;
    for event in [&new, &old, &new] {
        scene.server.tell("endpointslices", event.clone());
    }
    scene.server.put(marker());
    let marker = Service::new("marker", 9).http_addresses()[0];
    deadline::until("a Service without endpoints", patient(LIMIT), || {
        let refused = scene.cluster.pod(0, 1).netns.run(|| get(marker)).ok()?.err()?;
        (refused.kind() == ErrorKind::ConnectionRefused).then_some(())
    })?;
    scene.serves(to_web(), &["pod-2a"])?;
    // No event is too odd to be survived.
    for odd in [json!({ "type": "ADDED", "object": {} }), json!(7), json!({ "type": "DELETED" })] {
        scene.server.tell("services", odd);
    }
    moves(&scene)?;
    ensure!(scene.agents[0].verify(&[])?.is_empty());
    Ok(())
}

/// The server tells nothing of such objects, and that one has become such as if it
/// were gone; what says who is to provide a load balancer changes nothing.
#[test]
fn labels_that_give_a_service_away_take_effect_live_from_the_api() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let vips = Addresses {
        v4: [203, 0, 113, 1].into(),
        v6: [0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 1].into(),
    };
    let classed = json!({ "spec": { "loadBalancerClass": "example.com/other" } });
    let ours = scene.on(0, 0).load_balancer(vips).with(classed);
    let label = |name: &str| json!({ "metadata": { "labels": { name: "" } } });
    let given_away = ours.clone().with(label("service.kubernetes.io/service-proxy-name"));
    let headless = ours.clone().with_slices(label("service.kubernetes.io/headless"));
    let places = [to_web(), (vips.v4, 80).into(), (vips.v6, 80).into()];
    let all_served = |scene: &Scene| -> Result<()> {
        places.iter().try_for_each(|to| scene.served(*to, &["pod-1a"]))
    };
    scene.publish(std::slice::from_ref(&ours));
    scene.start()?;
    all_served(&scene)?;
    for theirs in [&given_away, &headless] {
        scene.publish(std::slice::from_ref(theirs));
        let pod = &scene.cluster.pod(0, 1).netns;
        for to in places {
            let what = format!("nobody to answer at {to}");
            deadline::until(&what, patient(LIMIT), || pod.run(|| quick(to)).ok()?.err())?;
        }
        scene.publish(std::slice::from_ref(&ours));
        all_served(&scene)?;
    }
    // An agent that begins then is not told at all.
    scene.publish(std::slice::from_ref(&given_away));
    scene.agents[0].terminate()?;
    scene.agents[0].cleanup()?;
    scene.agents[0].run()?;
    scene.agents[0].ready()?;
    ensure!(scene.agents[0].services()?.is_empty(), "{:?}", scene.agents[0].services()?);
    Ok(())
}

/// A connection, if there is one within a moment.
fn quick(to: SocketAddr) -> std::io::Result<()> {
    Connection::open_within(Duration::from_millis(200), to).map(drop)
}

#[test]
fn a_change_is_in_force_within_200_ms() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    scene.publish(&[scene.on(0, 0)]);
    scene.start()?;
    scene.served(to_web(), &["pod-1a"])?;
    let pod = &scene.cluster.pod(0, 1).netns;
    let mut slowest = Duration::ZERO;
    for round in 1..=20 {
        let target = &scene.cluster.pod(round % 2, 0).name;
        let begin = Instant::now();
        scene.publish(&[scene.on(round % 2, 0)]);
        deadline::until("a change in force", patient(LIMIT), || {
            let answer = pod.run(|| get(to_web())).ok()?.ok()?;
            (answer.backend == *target).then_some(())
        })?;
        slowest = slowest.max(begin.elapsed());
    }
    println!("the slowest of 20 changes took {slowest:?}");
    ensure!(slowest < patient(IN_FORCE), "a change took {slowest:?}");
    Ok(())
}

#[test]
fn an_agent_that_serves_the_api_itself_finds_it_without_services() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut scene = Scene::new()?;
    let server = scene.cluster.node(1).addresses.v4;
    scene.server.listen(&scene.cluster.node(1).netns, (server, API_PORT).into())?;
    let node = scene.cluster.node(0);
    let web = Service::new("web", 3).http(0).endpoint(node, scene.cluster.pod(0, 0));
    let to = web.http_addresses()[0];
    let mut objects = items(&scene.cluster.topology, &[web]);
    objects.extend(kubernetes(server));
    scene.server.publish(objects);
    // As a pod is told it: where this agent has yet to serve it.
    let told = scene.server.source((Ipv4Addr::new(10, 96, 0, 1), 443).into())?;
    scene.launch_from(told.clone())?;
    scene.told("nobody there", out_of_contact)?;
    ensure!(scene.agents[0].services()?.is_empty());
    scene.agents.clear();
    let mut named = told.clone();
    named.extend(["--api-server".into(), format!("https://{server}:{API_PORT}").into()]);
    scene.launch_from(named)?;
    scene.agents[0].ready()?;
    scene.served(to, &["pod-1a"])?;
    let kept = scene
        .server
        .state_dir()
        .join(format!("{}.api-servers", scene.cluster.node(0).netns.name()));
    let kept = fs::read_to_string(&kept).with_context(|| format!("read {}", kept.display()))?;
    ensure!(kept == format!("{server}:{API_PORT}\n"), "{kept:?}");
    // As after a restart of the machine: nothing is pinned.
    scene.agents.clear();
    scene.launch_from(told)?;
    scene.agents[0].ready()?;
    scene.served(to, &["pod-1a"])
}

/// The Service of the API and its endpoint.
fn kubernetes(server: Ipv4Addr) -> [Value; 2] {
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "kubernetes", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{ "name": "https", "port": 443, "targetPort": API_PORT }] },
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" } },
        "endpoints": [{ "addresses": [server], "conditions": { "ready": true } }],
        "ports": [{ "name": "https", "port": API_PORT, "protocol": "TCP" }],
    });
    [service, slice]
}

/// A Service without endpoints: it refuses as soon as it is known.
fn marker() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "marker", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.9", "ports": [{ "port": 80 }] },
    })
}
