//! ICMP errors about packets of flows: translated outside and inside at each
//! edge, so that their receivers know what they are about.

use lb_common::{Flow, FlowKey, V4, V6, Verdict};
use lb_tests::packet::{Extension, Fragment, Packet, Transport};
use lb_tests::prog::net::{POD, POD_2, Port, TUNNEL, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Rig, SNAT_PORTS, ServiceSpec};
use lb_userspace::desired::Protocol;
use std::net::{IpAddr, SocketAddr};

/// A flow, and where it enters and leaves the node.
pub(crate) struct Path {
    pub(crate) client: SocketAddr,
    pub(crate) front: SocketAddr,
    /// The client, as the node routes it.
    source: SocketAddr,
    pub(crate) backend: SocketAddr,
    /// The client, as the backend knows it.
    seen: SocketAddr,
    client_edge: Port,
    backend_edge: Port,
}

/// Opens a flow by its first packet.
fn open(rig: &mut Rig, case: Case, way: (SocketAddr, Port), front: SocketAddr, out: Port) -> Path {
    let (client, client_edge) = way;
    let step = case.enter(rig, client_edge, &case.open(client, front));
    let (source, backend) = step.ends();
    let (seen, _) = case.leave(rig, out, &case.open(source, backend)).ends();
    Path { client, front, source, backend, seen, client_edge, backend_edge: out }
}

fn install(rig: &mut Rig, case: Case, backend: SocketAddr) {
    rig.reset();
    rig.install(&case.web(&[backend]));
}

/// A flow from a pod to the ClusterIP, whose backend is a pod of the same node,
/// alone in the tables.
pub(crate) fn open_between_pods(rig: &mut Rig, case: Case) -> Path {
    install(rig, case, case.pod(1, 10, 8080));
    open(rig, case, (case.pod(1, 20, 4000), POD_2), case.vip(1, 80), POD)
}

/// Flows of every kind, each alone in the tables.
fn each_path(rig: &mut Rig, case: Case, check: impl Fn(&mut Rig, &Path)) {
    let (pod, outside) = (case.pod(1, 20, 4000), case.outside(7, 4000));
    let (local, remote) = (case.pod(1, 10, 8080), case.pod(2, 10, 8080));
    let (vip, node) = (case.vip(1, 80), case.node(UPLINK, 30_080));
    let own = case.pod(1, 10, 4000);
    for (client, edge, front, backend, out, masqueraded) in [
        (pod, POD_2, vip, local, POD, false),
        (pod, POD_2, vip, remote, UPLINK, false),
        (pod, POD_2, node, remote, TUNNEL, false),
        (outside, UPLINK, node, local, POD, false),
        (outside, UPLINK, node, remote, UPLINK_2, true),
        // In and out by the same interface.
        (outside, UPLINK, node, remote, UPLINK, true),
        (pod, POD, vip, local, POD, true),
        // A client that is its own backend.
        (own, POD, vip, local, POD, true),
    ] {
        install(rig, case, backend);
        let path = open(rig, case, (client, edge), front, out);
        assert_eq!((path.source, path.backend), (client, backend));
        assert_eq!(path.seen != client, masqueraded, "{case:?}: {client} to {backend}");
        check(rig, &path);
    }
}

/// Types and codes of errors, with the word behind the checksum.
pub(crate) fn kinds(case: Case) -> &'static [(u8, u8, [u8; 4])] {
    if case.v6 {
        &[(1, 4, [0; 4]), (2, 0, [0, 0, 5, 0]), (3, 0, [0; 4]), (4, 1, [0, 0, 0, 40])]
    } else {
        &[
            (3, 3, [0; 4]),
            (3, 4, [0, 0, 5, 0x14]),
            (4, 0, [0; 4]),
            (11, 0, [0; 4]),
            (12, 0, [20, 0, 0, 0]),
        ]
    }
}

/// How much of a packet a test quotes.
pub(crate) const WHOLE: usize = 1000;

/// Length of all before the transport header.
pub(crate) fn ip_headers(case: Case, packet: &Packet) -> usize {
    let extensions: usize = packet.extensions.iter().map(|e| 2 + e.content.len()).sum();
    match (case.v6, packet.fragment) {
        (false, _) => 20 + packet.ip_options.len(),
        (true, None) => 40 + extensions,
        (true, Some(_)) => 40 + extensions + 8,
    }
}

/// Errors of every kind about this packet, with how much they quote: all of it
/// or, behind its IP headers, the least that RFC 792 asks for, all before a TCP
/// checksum, all up to one, and an odd length.
fn errors(case: Case, from: IpAddr, about: &Packet) -> Vec<(Packet, usize)> {
    let headers = ip_headers(case, about);
    let lengths = [headers + 8, headers + 16, headers + 18, headers + 21, WHOLE];
    let error = |(kind, code, rest): &(u8, u8, [u8; 4])| {
        Packet::icmp(from, about.src.ip(), *kind, *code, *rest)
    };
    let first = error(&kinds(case)[0]);
    let mut errors = lengths.map(|most| (first.clone(), most)).to_vec();
    errors.extend(kinds(case)[1..].iter().map(|kind| (error(kind), WHOLE)));
    if case.v6 {
        let extension = Extension { number: 60, content: vec![1, 4, 0, 0, 0, 0] };
        errors.push((Packet { extensions: vec![extension; 2], ..first }, WHOLE));
    } else {
        errors.push((Packet { ip_options: vec![1; 8], ..first }, WHOLE));
    }
    errors
}

/// Shapes that a quoted packet may have.
pub(crate) fn shapes(case: Case, plain: &Packet) -> Vec<Packet> {
    let mut shapes = vec![plain.clone(), Packet { ttl: 1, traffic_class: 3, ..plain.clone() }];
    // The checksum of a part of an SCTP packet can't be followed.
    let fragment =
        (case.protocol != Protocol::Sctp).then_some(Fragment { offset: 0, len: 24, id: 7 });
    shapes.push(Packet { fragment, ..plain.clone() });
    if case.v6 {
        for number in [0, 43, 60] {
            let long = Extension { number, content: vec![0; 14] };
            shapes.push(Packet { extensions: vec![long; 3], fragment, ..plain.clone() });
        }
    } else {
        shapes.push(Packet { ip_options: vec![1; 40], ..plain.clone() });
        if case.protocol == Protocol::Udp {
            let transport = Transport::Udp { checksum: false };
            shapes.push(Packet { transport, ..plain.clone() });
        }
    }
    shapes
}

/// Every row, to see that an error leaves them as they are.
pub(crate) type Rows = (Vec<(FlowKey<V4>, Flow<V4>)>, Vec<(FlowKey<V6>, Flow<V6>)>);

pub(crate) fn rows(rig: &Rig) -> Rows {
    (rig.flows(), rig.flows())
}

/// An edge at which an error is met.
#[derive(Clone, Copy)]
enum At {
    Entering(Port),
    Leaving(Port),
}

/// Asserts that errors from `from` about a packet from `src` to `dst` become,
/// at this edge, errors from `to_from` about a packet from `to_src` to
/// `to_dst`, and nothing else.
#[track_caller]
fn translated(
    rig: &mut Rig,
    case: Case,
    at: At,
    (from, src, dst): (IpAddr, SocketAddr, SocketAddr),
    (to_from, to_src, to_dst): (IpAddr, SocketAddr, SocketAddr),
) {
    let before = rows(rig);
    for about in shapes(case, &case.data(src, dst)) {
        for (error, most) in errors(case, from, &about) {
            let packet = error.clone().quoting(&about, most);
            let step = match at {
                At::Entering(by) => case.enter(rig, by, &packet),
                At::Leaving(by) => case.leave(rig, by, &packet),
            };
            let (to_from, to) = (SocketAddr::new(to_from, 0), SocketAddr::new(to_src.ip(), 0));
            let about = about.clone().from(to_src).to(to_dst);
            let expected = error.from(to_from).to(to).quoting(&about, most);
            let same = packet == expected;
            let verdict = if same { Verdict::Passed } else { Verdict::ErrorTranslated };
            step.turned_into(verdict, &expected);
        }
    }
    assert!(rows(rig) == before, "{case:?}: an error changed a flow");
}

/// From the client, or from a router on its side, about what it was sent.
#[test]
fn the_backend_learns_of_errors_about_its_replies() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        each_path(&mut rig, case, |rig, path| {
            for from in [path.client.ip(), case.outside(99, 0).ip()] {
                let at = At::Entering(path.client_edge);
                let about = (from, path.front, path.client);
                translated(rig, case, at, about, (from, path.backend, path.source));
                // The backend must not learn of an address that it has not seen.
                let named = if from == path.client.ip() { path.seen.ip() } else { from };
                let at = At::Leaving(path.backend_edge);
                let about = (from, path.backend, path.source);
                translated(rig, case, at, about, (named, path.backend, path.seen));
            }
        });
    }
}

/// From the backend, or from a router on its side or this node, about what
/// the client sent.
#[test]
fn the_client_learns_of_errors_about_its_packets() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        each_path(&mut rig, case, |rig, path| {
            for from in [path.backend.ip(), case.outside(99, 0).ip()] {
                let at = At::Entering(path.backend_edge);
                let about = (from, path.seen, path.backend);
                translated(rig, case, at, about, (from, path.source, path.backend));
                let named = if from == path.backend.ip() { path.front.ip() } else { from };
                let at = At::Leaving(path.client_edge);
                let about = (from, path.source, path.backend);
                translated(rig, case, at, about, (named, path.client, path.front));
            }
        });
    }
}

/// Two Services share a backend, and one client dials both from one port.
#[test]
fn a_flow_that_was_given_another_port_gets_errors_about_its_own() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let (client, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        install(&mut rig, case, backend);
        rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![case.vip(2, 80)],
            backends: vec![backend],
            ..ServiceSpec::default()
        });
        open(&mut rig, case, (client, POD_2), case.vip(1, 80), POD);
        // Through the other Service, and past the Services.
        for front in [case.vip(2, 80), backend] {
            let path = open(&mut rig, case, (client, POD_2), front, POD);
            assert!(SNAT_PORTS.contains(&path.source.port()), "{case:?}: {}", path.source);
            let from = client.ip();
            let about = (from, front, client);
            let to = (from, backend, path.source);
            translated(&mut rig, case, At::Entering(POD_2), about, to);
            let about = (backend.ip(), path.source, backend);
            let to = (front.ip(), client, front);
            translated(&mut rig, case, At::Leaving(POD_2), about, to);
        }
    }
}

#[test]
fn a_flow_that_xdp_finishes_has_its_errors_translated_by_tc() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::ethernet() {
        let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
        let backend = case.pod(3, 10, 8080);
        install(&mut rig, case, backend);
        let (seen, _) = case.xdp(&mut rig, UPLINK, &case.open(client, front)).ends();
        let about = case.data(seen, backend);
        let (kind, code, rest) = kinds(case)[1];
        let error = Packet::icmp(backend.ip(), seen.ip(), kind, code, rest).quoting(&about, WHOLE);
        case.xdp(&mut rig, UPLINK_2, &error).passed();
        let (from, at) = (backend.ip(), At::Entering(UPLINK_2));
        translated(&mut rig, case, at, (from, seen, backend), (from, client, backend));
        let at = At::Leaving(UPLINK);
        translated(&mut rig, case, at, (from, client, backend), (front.ip(), client, front));
    }
}

/// Bytes that a link adds are none of the quote's, though a TCP checksum would
/// stand there.
#[test]
fn padding_behind_a_short_quote_stays() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let Path { client, front: vip, backend, .. } = open_between_pods(&mut rig, case);
        let header = if case.v6 { 40 } else { 20 };
        let (kind, code, rest) = kinds(case)[0];
        let error = Packet::icmp(client.ip(), vip.ip(), kind, code, rest);
        let packet = error.clone().quoting(&case.data(vip, client), header + 8);
        let packet = Packet { padding: 30, ..packet };
        let step = case.enter(&mut rig, POD_2, &packet);
        let to = SocketAddr::new(backend.ip(), 0);
        let expected = error.to(to).quoting(&case.data(backend, client), header + 8);
        step.turned_into(Verdict::ErrorTranslated, &expected);
    }
}

/// Half a checksum can't be brought up to date; the error's own is right.
#[test]
fn half_a_checksum_at_the_end_of_a_quote_stays() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        let Path { client, front: vip, backend, .. } = open_between_pods(&mut rig, case);
        let half = 17 + if case.v6 { 40 } else { 20 };
        let (kind, code, rest) = kinds(case)[0];
        let error = Packet::icmp(client.ip(), vip.ip(), kind, code, rest);
        let packet = error.clone().quoting(&case.data(vip, client), half);
        let step = case.enter(&mut rig, POD_2, &packet);
        let to = SocketAddr::new(backend.ip(), 0);
        let mut expected = error.to(to).quoting(&case.data(backend, client), half);
        expected.payload[half - 1] = packet.payload[half - 1];
        step.turned_into(Verdict::ErrorTranslated, &expected);
    }
}
