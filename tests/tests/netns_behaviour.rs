//! What Kubernetes users may observe of Services beyond the plain request: the
//! names of the tests say which; the table in docs/behaviour.md says for which
//! row of it.

use anyhow::{Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::deadline;
use lb_tests::manifest::Service;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Topology, Wiring};
use lb_tests::traffic::{Kind, Load, Tally};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(3);

fn web() -> Service {
    Service::new("web", 1).http(30_080).udp(30_053)
}

fn on_both(topology: &Topology) -> Service {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    web().endpoint(one, &one.pods[1]).endpoint(two, &two.pods[0])
}

/// Waits until somebody, or with `None` nobody, answers datagrams.
fn until_answered_by(netns: &Namespace, to: SocketAddr, by: Option<&str>) -> Result<()> {
    deadline::until(&format!("{to} answered by {by:?}"), SOON, || {
        let answer = netns.run(|| Kind::Udp.ask(to)).ok()?;
        match (answer, by) {
            (Ok(answer), Some(name)) => (answer.backend == name).then_some(()),
            (Err(_), None) => Some(()),
            (Ok(_), None) | (Err(_), Some(_)) => None,
        }
    })
}

#[test]
fn labels_that_give_a_service_away_take_effect_live() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let far = |topology: &Topology| {
        let two = &topology.nodes[1];
        web().endpoint(two, &two.pods[0])
    };
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![far(topology)])?;
    let pod = &cluster.pod(0, 0).netns;
    let given_away = json!({ "metadata": { "labels": {
        "service.kubernetes.io/service-proxy-name": "other" } } });
    let headless = json!({ "metadata": { "labels": { "service.kubernetes.io/headless": "" } } });
    for to in web().udp_addresses() {
        until_answered_by(pod, to, Some("pod-2a"))?;
        cluster.publish(&[far(&cluster.topology).with(given_away.clone())])?;
        until_answered_by(pod, to, None)?;
        cluster.publish(&[far(&cluster.topology)])?;
        until_answered_by(pod, to, Some("pod-2a"))?;
        cluster.publish(&[far(&cluster.topology).with_slices(headless.clone())])?;
        until_answered_by(pod, to, None)?;
        cluster.publish(&[far(&cluster.topology)])?;
        until_answered_by(pod, to, Some("pod-2a"))?;
    }
    Ok(())
}

/// Row 15: it says who is to provide the load balancer, not who serves its address.
#[test]
fn a_load_balancer_class_changes_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let vips = Addresses {
        v4: [203, 0, 113, 1].into(),
        v6: [0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 1].into(),
    };
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let classed = json!({ "spec": { "loadBalancerClass": "example.com/other" } });
        vec![on_both(topology).load_balancer(vips).with(classed)]
    })?;
    let topology = &cluster.topology;
    for (from, places, http, udp) in [
        (&cluster.pod(0, 0).netns, web().addresses, 80, 53),
        (&cluster.pod(0, 0).netns, vips, 80, 53),
        (&topology.client, topology.nodes[0].addresses, 30_080, 30_053),
    ] {
        for address in places.both() {
            for (kind, port) in [(Kind::Http, http), (Kind::Udp, udp)] {
                let tally = Tally::of(from, kind, (address, port).into(), 24)?;
                tally.expect(&["pod-1b", "pod-2a"])?;
            }
        }
    }
    Ok(())
}

#[test]
fn the_type_of_a_service_changes_live() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![on_both(topology)])?;
    let topology = &cluster.topology;
    let two = &topology.nodes[1];
    let external_name = json!({ "spec": { "type": "ExternalName", "externalName": "x.example" } });
    let without_node_port = Service::new("web", 1).http(0).udp(0).endpoint(two, &two.pods[0]);
    let with_node_port = web().endpoint(two, &two.pods[0]);
    let pod = &cluster.pod(0, 0).netns;
    let inside = web().udp_addresses()[0];
    let outside = SocketAddr::new(topology.nodes[0].addresses.v4.into(), 30_053);
    for _ in 0..2 {
        cluster.publish(std::slice::from_ref(&without_node_port))?;
        until_answered_by(&topology.client, outside, None)?;
        until_answered_by(pod, inside, Some("pod-2a"))?;
        // Also with a ClusterIP that is still written down.
        cluster.publish(&[without_node_port.clone().with(external_name.clone())])?;
        until_answered_by(pod, inside, None)?;
        cluster.publish(std::slice::from_ref(&with_node_port))?;
        until_answered_by(&topology.client, outside, Some("pod-2a"))?;
        until_answered_by(pod, inside, Some("pod-2a"))?;
        cluster.publish(&[with_node_port.clone().with(external_name.clone())])?;
        until_answered_by(&topology.client, outside, None)?;
    }
    Ok(())
}

#[test]
fn ports_come_and_go_without_touching_the_others() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let far = |topology: &Topology, service: Service| {
        let two = &topology.nodes[1];
        service.endpoint(two, &two.pods[0])
    };
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        vec![far(topology, Service::new("web", 1).http(0))]
    })?;
    let topology = &cluster.topology;
    let pod = &cluster.pod(0, 0).netns;
    let (http, udp) = (web().http_addresses()[0], web().udp_addresses()[0]);
    let ((), tally) = Load::run(&[(pod, Kind::Http, http)], |_| {
        for _ in 0..5 {
            cluster.publish(&[far(topology, Service::new("web", 1).http(0).udp(0))])?;
            until_answered_by(pod, udp, Some("pod-2a"))?;
            cluster.publish(&[far(topology, Service::new("web", 1).http(0))])?;
            until_answered_by(pod, udp, None)?;
        }
        Ok(())
    })?;
    tally.expect(&["pod-2a"])
}

/// TCP and UDP on one number lead to different places.
#[test]
fn one_port_number_of_two_protocols() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let ports = json!({ "spec": { "ports": [
        { "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_080 },
        { "name": "dns", "port": 80, "protocol": "UDP", "nodePort": 30_080 } ] } });
    let vips = Addresses {
        v4: [203, 0, 113, 1].into(),
        v6: [0x2001, 0xdb8, 0xaaaa, 0, 0, 0, 0, 1].into(),
    };
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        vec![on_both(topology).load_balancer(vips).with(ports)]
    })?;
    let node = cluster.node(0).addresses.both().map(|address| (address, 30_080).into());
    let inside = web().http_addresses().into_iter();
    let balanced = vips.both().map(|address| SocketAddr::new(address, 80));
    for to in inside.chain(node).chain(balanced) {
        for kind in Kind::ALL {
            Tally::of(&cluster.pod(0, 0).netns, kind, to, 12)?.expect(&["pod-1b", "pod-2a"])?;
        }
    }
    Ok(())
}

/// Host-network backends, and endpoints that are not in the cluster at all.
#[test]
fn endpoints_on_nodes_and_outside_the_cluster() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in [Setup::tc(Wiring::Routed), Setup::xdp(Wiring::Routed, "native")] {
        let mut cluster = Cluster::without_agents(setup)?;
        let names = ["host-1", "host-2"];
        for (index, name) in names.into_iter().enumerate() {
            let addresses = cluster.node(index).addresses;
            cluster.serve_in(|topology| &topology.nodes[index].netns, name, addresses)?;
        }
        let beyond = Addresses {
            v4: [192, 0, 2, 254].into(),
            v6: [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0xfe].into(),
        };
        cluster.serve_in(|topology| &topology.router, "outside", beyond)?;
        let [one, two] = [&cluster.topology.nodes[0], &cluster.topology.nodes[1]];
        let host = |name, number, node: &lb_tests::topology::Node| {
            Service::new(name, number)
                .http(30_080 + u16::from(number))
                .udp(30_180 + u16::from(number))
                .endpoint_at(Some(node), name, node.addresses)
        };
        cluster.publish(&[
            host("host-1", 1, one),
            host("host-2", 2, two),
            Service::new("outside", 3)
                .http(30_083)
                .udp(30_183)
                .endpoint_at(None, "outside", beyond),
        ])?;
        cluster.start_agents()?;
        let topology = &cluster.topology;
        // Routers outside don't know pods; CNIs hide them there.
        topology.router.ip(&[
            "route add 10.244.1.0/24 via 192.0.2.1".to_owned(),
            "route add fd00:10:244:1::/64 via 2001:db8:2::1".to_owned(),
        ])?;
        let node = topology.nodes[0].addresses;
        for (number, name) in [(1, "host-1"), (2, "host-2"), (3, "outside")] {
            for (index, address) in
                Service::new("", number).addresses.both().into_iter().enumerate()
            {
                for kind in Kind::ALL {
                    let to = (address, kind.port()).into();
                    Tally::of(&cluster.pod(0, 0).netns, kind, to, 5)?
                        .expect(&[name])
                        .map_err(|error| error.context(format!("{kind} to {to}")))?;
                    let base = if kind == Kind::Http { 30_080 } else { 30_180 };
                    let to = (node.both()[index], base + u16::from(number)).into();
                    Tally::of(&topology.client, kind, to, 5)?
                        .expect(&[name])
                        .map_err(|error| error.context(format!("{kind} to {to}")))?;
                }
            }
        }
        // Datagrams longer than a packet.
        for number in [1, 2] {
            for to in Service::new("", number).udp_addresses() {
                let long = "x".repeat(2_500);
                let answer = cluster
                    .pod(0, 0)
                    .netns
                    .run(|| lb_tests::client::Datagrams::open(to)?.echo(&long))??;
                ensure!(answer.backend == names[usize::from(number) - 1], "{answer:?}");
            }
        }
    }
    Ok(())
}

/// An endpoint that moves from slice to slice, as the controller packs them
/// anew, is there all the time.
#[test]
fn an_endpoint_that_changes_its_slice_never_blinks_out() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |_| vec![web()])?;
    let pod = cluster.pod(1, 0).addresses;
    let slices = |places: &[&str]| {
        let slice = |name: &str| {
            let here = places.contains(&name);
            json!({
                "addressType": "IPv4", "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": { "name": name, "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "web" } },
                "endpoints": if here { json!([{ "addresses": [pod.v4] }]) } else { json!([]) },
                "ports": [{ "name": "http", "port": 8080 },
                          { "name": "dns", "port": 5353, "protocol": "UDP" }],
            })
        };
        let list = json!({ "apiVersion": "v1", "kind": "List",
            "items": [slice("a"), slice("b")] });
        cluster.manifests.write("slices.json", &list.to_string()).map(drop)
    };
    slices(&["a"])?;
    let client = &cluster.pod(0, 0).netns;
    let (http, udp) = (web().http_addresses()[0], web().udp_addresses()[0]);
    until_answered_by(client, udp, Some("pod-2a"))?;
    let targets = [(client, Kind::Http, http), (client, Kind::Udp, udp)];
    let ((), tally) = Load::run(&targets, |load| {
        for place in [&["b"][..], &["a", "b"], &["a"], &["b"], &["a"]] {
            slices(place)?;
            let begin = load.requests();
            deadline::until("some requests", SOON, || {
                (load.requests() > begin + 500).then_some(())
            })?;
        }
        Ok(())
    })?;
    tally.expect(&["pod-2a"])
}

#[test]
fn a_family_without_endpoints_is_refused_while_the_other_serves() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        // Both slices would have the addresses of their family: only IPv6 stays.
        vec![on_both(topology)]
    })?;
    let client = &cluster.pod(0, 0).netns;
    let [v4, v6] = web().udp_addresses();
    let text = std::fs::read_to_string(cluster.manifests.path().join("cluster.yaml"))?;
    let changed = text.replace("addressType: IPv4", "addressType: FQDN");
    ensure!(changed != text, "the slice is there");
    cluster.manifests.write("cluster.yaml", &changed)?;
    until_answered_by(client, v4, None)?;
    Tally::of(client, Kind::Udp, v6, 12)?.expect(&["pod-1b", "pod-2a"])
}

#[test]
fn external_addresses_are_served_unless_switched_off() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let external = json!({ "spec": { "externalIPs": ["203.0.113.7", "2001:db8:aaaa::7"] } });
    let addresses = ["203.0.113.7:53", "[2001:db8:aaaa::7]:53"];
    for (arguments, served) in [(&[][..], true), (&["--external-ips", "off"][..], false)] {
        let mut setup = Setup::tc(Wiring::Routed);
        setup.agent.more = arguments;
        let cluster =
            Cluster::new(setup, |topology| vec![on_both(topology).with(external.clone())])?;
        let topology = &cluster.topology;
        topology.router.ip(&[
            "route add 203.0.113.0/24 via 192.0.2.1".to_owned(),
            "route add 2001:db8:aaaa::/64 via 2001:db8:2::1".to_owned(),
        ])?;
        for to in addresses {
            for client in [&topology.client, &cluster.pod(0, 0).netns] {
                let answer = client.run(|| {
                    let socket = lb_tests::client::Datagrams::open(to.parse().unwrap())?;
                    socket.patience(Duration::from_millis(500))?;
                    socket.echo("hello")
                })?;
                ensure!(answer.is_ok() == served, "{to}: {answer:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn node_ports_answer_on_the_primary_address_or_on_those_that_are_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for (arguments, second) in [
        (&[][..], false),
        (&["--nodeport-addresses", "all"][..], true),
        (&["--nodeport-addresses", "192.0.2.0/24,198.18.0.0/15"][..], true),
    ] {
        let mut setup = Setup::tc(Wiring::Routed);
        setup.agent.more = arguments;
        let cluster = Cluster::new(setup, |topology| vec![on_both(topology)])?;
        let topology = &cluster.topology;
        topology.nodes[0].netns.ip(&["addr add 198.18.0.1/32 dev eth0".to_owned()])?;
        topology.router.ip(&["route add 198.18.0.1/32 via 192.0.2.1".to_owned()])?;
        let first = SocketAddr::new(topology.nodes[0].addresses.v4.into(), 30_053);
        Tally::of(&topology.client, Kind::Udp, first, 12)?.expect(&["pod-1b", "pod-2a"])?;
        let other: SocketAddr = "198.18.0.1:30053".parse()?;
        if second {
            deadline::until("the address that came later", SOON, || {
                topology.client.run(|| Kind::Udp.ask(other)).ok()?.ok().map(drop)
            })?;
        } else {
            until_answered_by(&topology.client, other, None)?;
        }
    }
    Ok(())
}

/// A change of this node's zone puts all Services to the question again.
#[test]
fn topology_hints_follow_the_nodes_zone() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = Cluster::new(Setup::tc(Wiring::Routed), |topology| vec![on_both(topology)])?;
    let client = &cluster.pod(0, 0).netns;
    let path = cluster.manifests.path().join("cluster.yaml");
    let text = std::fs::read_to_string(&path)?;
    let hinted = |zone_of_n1: &str| -> Result<()> {
        let mut list: serde_json::Value = serde_saphyr::from_str(&text)?;
        for item in list["items"].as_array_mut().unwrap() {
            if item["kind"] == "Node" && item["metadata"]["name"] == "n1" {
                item["metadata"]["labels"]["topology.kubernetes.io/zone"] = zone_of_n1.into();
            }
            for endpoint in item["endpoints"].as_array_mut().into_iter().flatten() {
                let zone = if endpoint["nodeName"] == "n1" { "east" } else { "west" };
                endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
            }
        }
        cluster.manifests.write("cluster.yaml", &serde_json::to_string(&list)?).map(drop)
    };
    for (zone, expected) in [
        ("east", &["pod-1b"][..]),
        ("west", &["pod-2a"]),
        ("north", &["pod-1b", "pod-2a"]),
        ("east", &["pod-1b"]),
    ] {
        hinted(zone)?;
        for to in web().udp_addresses() {
            deadline::until_ok(&format!("zone {zone}"), SOON, || {
                Tally::of(client, Kind::Udp, to, 12)?.expect(expected)
            })?;
        }
    }
    Ok(())
}
