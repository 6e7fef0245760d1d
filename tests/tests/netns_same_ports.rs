//! Flows whose tuples meet behind the client's edge: a direct connection with
//! the client port of a Service's flow, and two Services with one backend.

use anyhow::{Context as _, Result, ensure};
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::manifest::{HTTP_TARGET, Service, UDP_TARGET};
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::Wiring;
use std::net::SocketAddr;

/// Ports outside the range from which the kernel takes them for others.
const FIRST_PORT: u16 = 20_000;

fn cluster() -> Result<Cluster> {
    Cluster::new(Setup::tc(Wiring::Routed), |topology| {
        let two = &topology.nodes[1];
        let service = |number| Service::new(&format!("web{number}"), number).http(0).udp(0);
        vec![service(1).endpoint(two, &two.pods[0]), service(2).endpoint(two, &two.pods[0])]
    })
}

fn targets(cluster: &Cluster, family: usize) -> [(SocketAddr, SocketAddr); 3] {
    let service = |number| {
        let address = Service::new("", number).addresses.both()[family];
        ((address, 80).into(), (address, 53).into())
    };
    let direct = cluster.pod(1, 0).addresses.both()[family];
    [service(1), service(2), ((direct, HTTP_TARGET).into(), (direct, UDP_TARGET).into())]
}

/// All orders of the Service, another Service with the same backend, and the
/// backend itself, at the same time from the same client port.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn tcp_connections_from_one_port_are_kept_apart() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster()?;
    let netns = &cluster.pod(0, 0).netns;
    let mut port = FIRST_PORT;
    for family in 0..2 {
        let targets = targets(&cluster, family);
        for order in ORDERS {
            port += 1;
            let mut open = Vec::new();
            for (place, index) in order.into_iter().enumerate() {
                let to = targets[index].0;
                let connection = netns.run(|| Connection::open_from(port, to))?;
                open.push(connection.with_context(|| format!("{order:?} place {place} to {to}"))?);
            }
            for round in 0..3 {
                for connection in &mut open {
                    let answer = connection.get().with_context(|| format!("{order:?} {round}"))?;
                    ensure!(answer.backend == "pod-2a");
                }
            }
            // Those that ended must not lead those that begin astray.
            for connection in open {
                connection.reset()?;
            }
            for index in order.into_iter().rev() {
                let to = targets[index].0;
                let again = netns.run(|| Connection::open_from(port, to)?.get())?;
                again.with_context(|| format!("{order:?} once more to {to}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn udp_sockets_on_one_port_are_kept_apart() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster()?;
    let netns = &cluster.pod(0, 0).netns;
    let mut port = FIRST_PORT + 1000;
    for family in 0..2 {
        let targets = targets(&cluster, family);
        for order in ORDERS {
            port += 1;
            for round in 0..3 {
                for index in order {
                    // One socket at a time: each would take the others' answers.
                    let to = targets[index].1;
                    let answer = netns.run(|| Datagrams::open_from(port, to)?.echo("x"))?;
                    answer.with_context(|| format!("{order:?} round {round} to {to}"))?;
                }
            }
        }
    }
    Ok(())
}

/// With sequential ports, as after a restart of the client: the failure of the
/// first prototype.
#[test]
fn direct_connections_right_after_those_through_the_service() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster = cluster()?;
    let netns = &cluster.pod(0, 0).netns;
    for family in 0..2 {
        let [service, _, direct] = targets(&cluster, family);
        for port in FIRST_PORT + 2000..FIRST_PORT + 2300 {
            for to in [service.0, direct.0, service.0] {
                let answer = netns.run(|| {
                    let mut connection = Connection::open_from(port, to)?;
                    let answer = connection.get()?;
                    connection.reset()?;
                    std::io::Result::Ok(answer)
                })?;
                answer.with_context(|| format!("from port {port} to {to}"))?;
            }
        }
    }
    Ok(())
}
