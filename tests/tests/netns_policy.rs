//! Network policies: rules between the edges see clients' and backends' own
//! addresses, so that what they deny and admit holds through Services, too. The
//! rules have the form of those that make them: Calico's chains for each
//! interface, kube-router's in the forward hook and on the bridge, and a table of
//! nftables behind routing, as kube-network-policies has.

use anyhow::{Context as _, Result, ensure};
use lb_tests::agent::Options;
use lb_tests::client::{Connection, Datagrams};
use lb_tests::cluster::{Cluster, Setup};
use lb_tests::cni::{CALICO, FLANNEL, KINDNET};
use lb_tests::manifest::{HTTP_TARGET, Service, UDP_TARGET};
use lb_tests::netfilter;
use lb_tests::netns::Namespace;
use lb_tests::privilege::root_or_skip;
use lb_tests::topology::{Addresses, Topology, Wiring};
use lb_tests::traffic::{Kind, Tally};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

const REQUESTS: u64 = 4;
/// How long to wait for an answer that must not come.
const DENIED: Duration = Duration::from_millis(300);

/// Numbers of Services that no other test has: with `--socket-clients all`, agents
/// serve the sockets of the whole machine.
const DB: u8 = 240;
const NEAR: u8 = 241;

/// The one behind policies, and another; with the number of the first.
fn services(topology: &Topology, db: u8) -> Vec<Service> {
    let [one, two] = [&topology.nodes[0], &topology.nodes[1]];
    vec![
        Service::new("db", db).http(0).udp(0).endpoint(two, &two.pods[0]),
        Service::new("near", NEAR).http(0).udp(0).endpoint(one, &one.pods[1]),
    ]
}

fn setup(wiring: Wiring, more: &'static [&'static str]) -> Setup {
    let tc = Setup::tc(wiring);
    Setup { agent: Options { more, ..tc.agent }, ..tc }
}

fn service(number: u8) -> [(Kind, SocketAddr); 4] {
    at(Service::new("", number).addresses, 80, 53)
}

/// Past its Service.
fn straight(to: Addresses) -> [(Kind, SocketAddr); 4] {
    at(to, HTTP_TARGET, UDP_TARGET)
}

fn at(to: Addresses, http: u16, udp: u16) -> [(Kind, SocketAddr); 4] {
    let [v4, v6] = to.both();
    [(Kind::Http, v4, http), (Kind::Http, v6, http), (Kind::Udp, v4, udp), (Kind::Udp, v6, udp)]
        .map(|(kind, address, port)| (kind, SocketAddr::new(address, port)))
}

fn admitted(from: &Namespace, to: [(Kind, SocketAddr); 4], by: &str) -> Result<()> {
    for (kind, to) in to {
        Tally::of(from, kind, to, REQUESTS)?.expect(&[by]).with_context(|| format!("to {to}"))?;
    }
    Ok(())
}

fn ask(kind: Kind, to: SocketAddr) -> io::Result<()> {
    match kind {
        Kind::Http => Connection::open_within(DENIED, to).map(drop),
        Kind::Udp => {
            let socket = Datagrams::open(to)?;
            socket.patience(DENIED)?;
            socket.echo("hello").map(drop)
        }
    }
}

/// None of these is answered; all asked at once, since each takes its time.
fn denied(asked: &[(&Namespace, [(Kind, SocketAddr); 4])], how: ErrorKind) -> Result<()> {
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (from, places) in asked {
            for (kind, to) in *places {
                threads.push((kind, to, scope.spawn(move || from.run(|| ask(kind, to)))));
            }
        }
        for (kind, to, thread) in threads {
            let answer = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let error = answer.err().with_context(|| format!("{kind} to {to} is answered"))?;
            // A datagram's time is over by another name than a connection's.
            let silent = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
            // Over IPv6, Linux goes on trying to connect in spite of an error.
            let silence = how == ErrorKind::TimedOut || (kind == Kind::Http && to.is_ipv6());
            let as_expected = error.kind() == how || (silent && silence);
            ensure!(as_expected, "{kind} to {to}: {error}");
        }
        Ok(())
    })
}

/// Runs commands of iptables for both families; `{name}` is the address of that
/// name.
fn iptables(node: &Namespace, names: &[(&str, Addresses)], lines: &str) -> Result<()> {
    for program in ["iptables-nft", "ip6tables-nft"] {
        let mut text = lines.to_owned();
        for (name, address) in names {
            let [v4, v6] = address.both().map(|address| address.to_string());
            let address = if program == "iptables-nft" { v4 } else { v6 };
            text = text.replace(&format!("{{{name}}}"), &address);
        }
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let arguments: Vec<&str> = line.split(' ').collect();
            node.output(program, &arguments)?;
        }
    }
    Ok(())
}

/// As Felix renders a policy: the chain of the endpoint asks the policy's in the
/// place of the profile's.
const CALICO_INGRESS: &str = "
    -N cali-pi-db
    -A cali-pi-db -s {client} -p tcp --dport 8080 -j MARK --set-xmark 0x10000/0x10000
    -A cali-pi-db -s {client} -p udp --dport 5353 -j MARK --set-xmark 0x10000/0x10000
    -R cali-tw-cali11 4 -j cali-pi-db";
const CALICO_EGRESS: &str = "
    -N cali-po-db
    -A cali-po-db -d {db} -p tcp --dport 8080 -j MARK --set-xmark 0x10000/0x10000
    -A cali-po-db -d {db} -p udp --dport 5353 -j MARK --set-xmark 0x10000/0x10000
    -R cali-fw-cali11 4 -j cali-po-db";
const CALICO_DENIES_ALL: &str = "-F cali-pi-db";

#[test]
fn chains_of_interfaces_deny_and_admit_through_services_whoever_translates() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for mode in ["host", "off", "all"] {
        calico(mode).with_context(|| format!("--socket-clients {mode}"))?;
    }
    Ok(())
}

fn calico(mode: &str) -> Result<()> {
    let flags: &[&str] = match mode {
        "off" => &["--socket-clients", "off"],
        "all" => &["--socket-clients", "all"],
        _ => &[],
    };
    let cluster =
        Cluster::new(setup(Wiring::Like(&CALICO), flags), |topology| services(topology, DB))?;
    let [one, two] = [cluster.node(0), cluster.node(1)];
    let [client, other, db, neighbour] =
        [cluster.pod(0, 0), cluster.pod(0, 1), cluster.pod(1, 0), cluster.pod(1, 1)];
    let names = [("client", client.addresses), ("db", db.addresses)];
    iptables(&two.netns, &names, CALICO_INGRESS)?;
    iptables(&one.netns, &names, CALICO_EGRESS)?;
    admitted(&client.netns, service(DB), "pod-2a")?;
    admitted(&client.netns, straight(db.addresses), "pod-2a")?;
    let everybody_else = [
        (&other.netns, service(DB)),
        (&other.netns, straight(db.addresses)),
        (&neighbour.netns, service(DB)),
        (&neighbour.netns, straight(db.addresses)),
        // By the policy for what the client sends.
        (&client.netns, service(NEAR)),
        (&client.netns, straight(other.addresses)),
    ];
    denied(&everybody_else, ErrorKind::TimedOut)?;
    // As the kubelet, a node reaches its own pods.
    if mode != "off" {
        admitted(&two.netns, service(DB), "pod-2a")?;
    }
    // What is open stays when nobody is admitted any more.
    let mut open = client.netns.run(|| {
        Service::new("", DB)
            .http_addresses()
            .map(Connection::open)
            .into_iter()
            .collect::<io::Result<Vec<_>>>()
    })??;
    iptables(&two.netns, &names, CALICO_DENIES_ALL)?;
    denied(&[(&client.netns, service(DB))], ErrorKind::TimedOut)?;
    for connection in &mut open {
        ensure!(connection.get()?.backend == "pod-2a");
    }
    Ok(())
}

const KUBE_ROUTER: &str = "
    -N KUBE-ROUTER-FORWARD
    -N KUBE-POD-FW-DB
    -I FORWARD 1 -j KUBE-ROUTER-FORWARD
    -A KUBE-ROUTER-FORWARD -d {db} -j KUBE-POD-FW-DB
    -A KUBE-ROUTER-FORWARD -m physdev --physdev-is-bridged -d {db} -j KUBE-POD-FW-DB
    -A KUBE-ROUTER-FORWARD -s {db} -j KUBE-POD-FW-DB
    -A KUBE-POD-FW-DB -m conntrack --ctstate INVALID -j DROP
    -A KUBE-POD-FW-DB -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    -A KUBE-POD-FW-DB -m addrtype --src-type LOCAL -d {db} -j ACCEPT
    -A KUBE-POD-FW-DB -s {client} -d {db} -p tcp --dport 8080 -j ACCEPT
    -A KUBE-POD-FW-DB -s {client} -d {db} -p udp --dport 5353 -j ACCEPT
    -A KUBE-POD-FW-DB -j REJECT";

/// Pods of one bridge, with `br_netfilter`: the request is routed, the answer is not.
#[test]
fn rules_of_the_forward_hook_refuse_and_admit_behind_a_bridge() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let cluster =
        Cluster::new(setup(Wiring::Like(&FLANNEL), &[]), |topology| services(topology, 242))?;
    let two = cluster.node(1);
    let [far, db, client] = [cluster.pod(0, 0), cluster.pod(1, 0), cluster.pod(1, 1)];
    iptables(&two.netns, &[("client", client.addresses), ("db", db.addresses)], KUBE_ROUTER)?;
    // Neighbours of one bridge look for each other through it.
    let neighbours = ["-I", "KUBE-ROUTER-FORWARD", "1", "-p", "icmpv6", "-j", "ACCEPT"];
    two.netns.output("ip6tables-nft", &neighbours)?;
    admitted(&client.netns, service(242), "pod-2a")?;
    admitted(&two.netns, service(242), "pod-2a")?;
    // The client is told by an error about the backend, which has to become one
    // about the Service.
    let others = [(&far.netns, service(242)), (&far.netns, straight(db.addresses))];
    denied(&others, ErrorKind::ConnectionRefused)
}

/// A policy in the form of nftables, where packets leave: who may reach whom.
fn nft_policy(client: Addresses, db: Addresses) -> String {
    let (Addresses { v4: from4, v6: from6 }, Addresses { v4: to4, v6: to6 }) = (client, db);
    format!(
        "table inet network-policies {{
            chain postrouting {{
                type filter hook postrouting priority srcnat - 5; policy accept;
                ct state established,related accept
                fib saddr type local accept
                ip saddr {from4} ip daddr {to4} accept
                ip6 saddr {from6} ip6 daddr {to6} accept
                ip daddr {to4} drop
                ip6 daddr {to6} drop
            }}
            chain forward {{
                type filter hook forward priority filter; policy accept;
                ct state invalid drop
            }}
        }}"
    )
}

#[test]
fn rules_behind_routing_deny_and_admit_with_and_without_the_stack() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for more in [&[][..], &["--skip-stack"]] {
        let cluster =
            Cluster::new(setup(Wiring::Like(&KINDNET), more), |topology| services(topology, 243))?;
        let [client, other, db, neighbour] =
            [cluster.pod(0, 0), cluster.pod(0, 1), cluster.pod(1, 0), cluster.pod(1, 1)];
        let two = &cluster.node(1).netns;
        netfilter::nft(two, &nft_policy(client.addresses, db.addresses))?;
        admitted(&client.netns, service(243), "pod-2a")?;
        admitted(two, service(243), "pod-2a")?;
        let others = [
            (&other.netns, service(243)),
            (&neighbour.netns, service(243)),
            (&neighbour.netns, straight(db.addresses)),
        ];
        denied(&others, ErrorKind::TimedOut).with_context(|| format!("{more:?}"))?;
    }
    Ok(())
}

/// What `--skip-stack` says of itself: a rule that comes later ends what is open,
/// but not where packets pass the stack by.
#[test]
fn a_rule_that_comes_later_is_not_seen_past_the_stack() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for (more, goes_on) in [(&[][..], false), (&["--skip-stack"][..], true)] {
        let cluster =
            Cluster::new(setup(Wiring::Like(&KINDNET), more), |topology| services(topology, 244))?;
        let client = &cluster.pod(1, 1).netns;
        let mut open = client.run(|| {
            Service::new("", 244)
                .http_addresses()
                .map(|to| {
                    let mut connection = Connection::open(to)?;
                    connection.get()?;
                    Ok(connection)
                })
                .into_iter()
                .collect::<io::Result<Vec<_>>>()
        })??;
        netfilter::nft(
            &cluster.node(1).netns,
            "table inet late {
            chain forward {
                type filter hook forward priority filter; policy drop;
            }
        }",
        )?;
        denied(&[(client, service(244))], ErrorKind::TimedOut)?;
        for connection in &mut open {
            let answered = connection.get().is_ok();
            ensure!(answered == goes_on, "{more:?}: an open connection is answered: {answered}");
        }
    }
    Ok(())
}
