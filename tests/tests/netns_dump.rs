//! The dump of a real cluster, as `kubectl get svc,endpointslices,pods,nodes -A
//! -o yaml` printed it, in force without a change.

use anyhow::{Context as _, Result, ensure};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use lb_tests::traffic::{Kind, Tally};
use std::io::ErrorKind;
use std::net::SocketAddr;

const REQUESTS: u64 = 40;

#[test]
fn the_dump_of_a_real_cluster_is_served_as_it_is() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for setup in [Setup::tc(Wiring::Bridged), Setup::xdp(Wiring::Routed, "native")] {
        let mut cluster = Cluster::without_agents(setup)?;
        for node in 0..2 {
            cluster.add_pod_at(node, 31)?;
        }
        let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/cluster.yaml");
        let dump = std::fs::read_to_string(dump).with_context(|| format!("read {dump}"))?;
        cluster.manifests.write("cluster.yaml", &dump)?;
        cluster.start_agents()?;
        serves(&cluster)?;
    }
    Ok(())
}

fn serves(cluster: &Cluster) -> Result<()> {
    let pod = &cluster.pod(1, 1).netns;
    let client = &cluster.topology.client;
    // The fourth pod, pod-2b, is not ready.
    let web = ["pod-1a", "pod-1b", "pod-2a"];
    let dns = ["pod-1c", "pod-2c"];
    for (netns, kind, to, backends) in [
        (pod, Kind::Http, "10.96.137.78:80", &web[..]),
        (pod, Kind::Http, "[fd00:10:96::a17b]:80", &web),
        (pod, Kind::Http, "10.96.13.139:80", &web),
        (pod, Kind::Http, "10.96.196.6:80", &web),
        (pod, Kind::Udp, "10.96.0.10:53", &dns),
        (pod, Kind::Udp, "[fd00:10:96::c900]:53", &dns),
        // The hints of its slices keep the client in its zone.
        (pod, Kind::Udp, "10.96.160.210:53", &dns[1..]),
        (client, Kind::Http, "192.0.2.1:30080", &web),
        (client, Kind::Http, "192.0.2.2:30080", &web),
        (client, Kind::Http, "[2001:db8:2::1]:30080", &web),
        (client, Kind::Http, "[2001:db8:2::2]:30080", &web),
    ] {
        let to: SocketAddr = to.parse()?;
        let tally = Tally::of(netns, kind, to, REQUESTS)?;
        tally.expect(backends).with_context(|| format!("{kind} to {to}"))?;
    }
    // A Service that selects no pod, and a port that `web` does not have.
    for to in ["10.96.58.121:80", "10.96.137.78:81", "[fd00:10:96::a17b]:81"] {
        let to: SocketAddr = to.parse()?;
        let refused = pod.run(|| Kind::Http.ask(to))?;
        let refused = refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        ensure!(refused, "{to} does not refuse");
    }
    Ok(())
}
