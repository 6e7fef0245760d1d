//! Who gets which endpoints, who is let in, and whose address is replaced:
//! traffic policies, source ranges, and the ways of masquerading.

use lb_common::value::scope;
use lb_common::{Verdict, key};
use lb_tests::prog::net::{OTHER, POD, POD_2, Port, TUNNEL, UPLINK, UPLINK_2};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use std::net::SocketAddr;

const NODE_PORT: u16 = 30_080;

fn near(case: Case) -> SocketAddr {
    case.pod(1, 30, 8080)
}

fn far(case: Case) -> SocketAddr {
    case.pod(2, 30, 8080)
}

/// A Service with an endpoint here and one elsewhere.
fn spec(case: Case) -> ServiceSpec {
    ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        node: vec![case.node(UPLINK, NODE_PORT)],
        load_balancer: vec![case.vip(9, 80)],
        external: vec![case.vip(8, 80)],
        backends: vec![near(case), far(case)],
        local: vec![0],
        ..ServiceSpec::default()
    }
}

fn external(case: Case) -> [SocketAddr; 3] {
    [case.node(UPLINK, NODE_PORT), case.vip(9, 80), case.vip(8, 80)]
}

fn install(rig: &mut Rig, spec: &ServiceSpec) -> Installed {
    rig.reset();
    rig.install(spec)
}

/// Opens some connections; the backends that they got, each once.
#[track_caller]
fn reached(rig: &mut Rig, case: Case, by: Port, front: SocketAddr) -> Vec<SocketAddr> {
    let mut backends: Vec<SocketAddr> = (0..6)
        .map(|n| {
            let client = if by.role == POD.role {
                case.pod(1, 20, 4000 + n)
            } else {
                case.outside(7, 4000 + n)
            };
            case.enter(rig, by, &case.open(client, front)).tuple(Verdict::Forwarded).1
        })
        .collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}

#[test]
fn external_policy_local_gives_clients_from_outside_local_endpoints_only() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, &ServiceSpec { external_scope: scope::LOCAL, ..spec(case) });
        let both = vec![near(case), far(case)];
        for front in external(case) {
            for by in [UPLINK, UPLINK_2, TUNNEL] {
                assert_eq!(reached(&mut rig, case, by, front), [near(case)], "{case:?} {front}");
            }
            // A pod of this node does not go round by the load balancer.
            assert_eq!(reached(&mut rig, case, POD_2, front), both, "{case:?} {front}");
        }
        for by in [UPLINK, POD_2] {
            assert_eq!(reached(&mut rig, case, by, case.vip(1, 80)), both, "{case:?}");
        }
    }
}

#[test]
fn internal_policy_local_is_for_cluster_addresses_and_for_every_client() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, &ServiceSpec { internal_scope: scope::LOCAL, ..spec(case) });
        for by in [UPLINK, POD_2] {
            assert_eq!(reached(&mut rig, case, by, case.vip(1, 80)), [near(case)], "{case:?}");
            for front in external(case) {
                assert_eq!(reached(&mut rig, case, by, front), [near(case), far(case)]);
            }
        }
    }
}

#[test]
fn without_a_local_endpoint_the_client_is_dropped_and_without_any_refused() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let spec = ServiceSpec { external_scope: scope::LOCAL, local: vec![], ..spec(case) };
        let rows = install(&mut rig, &spec);
        let open = case.open(case.outside(7, 4000), case.vip(9, 80));
        case.enter(&mut rig, UPLINK, &open).dropped(Verdict::DroppedNoLocal);
        if !case.l3 {
            // XDP needs no stack for that.
            case.xdp(&mut rig, UPLINK, &open).dropped(Verdict::DroppedNoLocal);
        }
        let counted = if case.l3 { 1 } else { 2 };
        assert_eq!(rig.service_traffic(rows.id).no_local, counted, "{case:?}");
        assert_eq!(rig.service_traffic(rows.id).refused, 0, "{case:?}");
        rig.set_endpoints(rows.id, &[]);
        let step = case.enter(&mut rig, UPLINK, &open);
        assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
        assert_eq!(rig.service_traffic(rows.id).refused, 1, "{case:?}");
    }
}

#[test]
fn the_drop_can_be_a_refusal() {
    let Some(mut rig) = Rig::take_by_prefix() else { return };
    for case in Case::all() {
        let spec = ServiceSpec { internal_scope: scope::LOCAL, local: vec![], ..spec(case) };
        let rows = install(&mut rig, &spec);
        let open = case.open(case.pod(1, 20, 4000), case.vip(1, 80));
        let step = case.enter(&mut rig, POD, &open);
        assert_eq!(step.outcome.verdict, Verdict::RefusedNoLocal, "{}", step.describe());
        assert!(!step.passes_or_drops(), "answered: {}", step.describe());
        assert_eq!(rig.service_traffic(rows.id).refused, 1, "{case:?}");
    }
}

/// `--detect-local cluster-cidr`: the address counts, not the interface.
#[test]
fn local_pods_can_be_told_by_their_address() {
    let Some(mut rig) = Rig::take_by_prefix() else { return };
    for case in Case::all() {
        install(&mut rig, &ServiceSpec { external_scope: scope::LOCAL, ..spec(case) });
        let ask = |rig: &mut Rig, by: Port, client: SocketAddr| {
            let step = case.enter(rig, by, &case.open(client, case.vip(9, 80)));
            step.tuple(Verdict::Forwarded).1
        };
        let pods = |rig: &mut Rig, by, from: u16| -> Vec<SocketAddr> {
            (from..from + 4).map(|port| ask(rig, by, case.pod(1, 20, port))).collect()
        };
        assert!(!pods(&mut rig, POD, 4000).contains(&far(case)), "{case:?}: no range yet");
        let pod = case.pod(1, 20, 0).ip();
        let length = if pod.is_ipv4() { 24 } else { 64 };
        let range = ipnet::IpNet::new(pod, length).expect("a range").trunc();
        rig.add_range(key::PODS, range);
        for by in [POD, UPLINK, OTHER] {
            assert!(pods(&mut rig, by, 5000).contains(&far(case)), "{case:?}: {}", by.index);
            rig.clear_flows();
        }
        assert_eq!(ask(&mut rig, POD, case.outside(7, 4000)), near(case), "{case:?}");
    }
}

#[test]
fn source_ranges_guard_the_load_balancers_address_alone() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let client = case.outside(7, 4000);
        let other = case.outside(200, 4000);
        let range = |text: &str| text.parse().expect("a range");
        // Client 7 is inside, client 200 is not, and pods are not either.
        let ranges = match (case.l3, case.v6) {
            (false, false) => vec![range("203.0.113.0/28"), range("10.0.0.0/32")],
            (true, false) => vec![range("8.0.200.0/28"), range("10.0.0.0/32")],
            (false, true) => vec![range("2001:db8:f::/124")],
            (true, true) => vec![range("2001:db8:86dd::/124")],
        };
        let rows = install(&mut rig, &ServiceSpec { ranges, ..spec(case) });
        let vip = case.vip(9, 80);
        let pod = case.pod(1, 20, 4000);
        case.enter(&mut rig, UPLINK, &case.open(client, vip)).tuple(Verdict::Forwarded);
        for (by, outsider) in [(UPLINK, other), (POD_2, pod)] {
            let open = case.open(outsider, vip);
            case.enter(&mut rig, by, &open).dropped(Verdict::DroppedSourceRange);
            let fronts = [case.node(UPLINK, NODE_PORT), case.vip(8, 80), case.vip(1, 80)];
            for front in fronts {
                let open = case.open(outsider, front);
                case.enter(&mut rig, by, &open).tuple(Verdict::Forwarded);
            }
        }
        assert_eq!(rig.service_traffic(rows.id).out_of_range, 2, "{case:?}");
        // A connection that was let in goes on when the ranges change.
        rig.add_frontend(
            vip,
            case.proto(),
            lb_common::Frontend {
                service: 0,
                flags: lb_common::value::frontend_flag::SOURCE_RANGES,
                kind: lb_common::value::frontend_kind::LOAD_BALANCER,
                ..lb_common::Frontend::default()
            },
        );
        if case.connects() {
            case.enter(&mut rig, UPLINK, &case.data(client, vip)).tuple(Verdict::Forwarded);
        }
    }
}

/// What the backend's edge makes of a client's first packet.
#[track_caller]
fn is_masqueraded(rig: &mut Rig, case: Case, by: Port, front: SocketAddr, n: u16) -> bool {
    let client =
        if by.role == POD.role { case.pod(1, 20, 4000 + n) } else { case.outside(7, 4000 + n) };
    let step = case.enter(rig, by, &case.open(client, front));
    let (source, backend) = step.tuple(Verdict::Forwarded);
    let out = if backend == near(case) { POD } else { UPLINK_2 };
    let step = case.leave(rig, out, &case.open(source, backend));
    if step.outcome.verdict == Verdict::Passed {
        return false;
    }
    assert_eq!(step.outcome.verdict, Verdict::SourceTranslated, "{}", step.describe());
    assert_eq!(step.ends().0.ip(), case.node(out, 0).ip(), "{}", step.describe());
    true
}

/// Appendix A, the columns of the three Services, for pods and for clients from
/// outside: both endpoints where both may be reached.
#[test]
fn masquerading_as_kube_proxy_does() {
    let Some(mut rig) = Rig::take_kube_proxy() else { return };
    for case in Case::all() {
        let services = [
            spec(case),
            ServiceSpec { external_scope: scope::LOCAL, ..spec(case) },
            ServiceSpec { internal_scope: scope::LOCAL, ..spec(case) },
        ];
        for (service, spec) in services.iter().enumerate() {
            install(&mut rig, spec);
            let local_outside = service == 1;
            for by in [POD_2, UPLINK] {
                let pod = by == POD_2;
                for n in 0..4 {
                    let cluster = is_masqueraded(&mut rig, case, by, case.vip(1, 80), n);
                    assert_eq!(cluster, !pod, "{case:?}, service {service}, ClusterIP");
                    for front in external(case) {
                        let got = is_masqueraded(&mut rig, case, by, front, n);
                        assert_eq!(got, !local_outside, "{case:?}, service {service}, {front}");
                    }
                }
            }
        }
    }
}

/// The default: only where a reply would not come back through this node.
#[test]
fn masquerading_as_little_as_possible() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        install(&mut rig, &spec(case));
        for front in external(case).into_iter().chain([case.vip(1, 80)]) {
            rig.clear_flows();
            let mut masqueraded = Vec::new();
            for (by, n) in [(POD_2, 0), (POD_2, 1), (UPLINK, 2), (UPLINK, 3)] {
                if is_masqueraded(&mut rig, case, by, front, n) {
                    masqueraded.push(by.index);
                }
            }
            // Of the two clients from outside, the one with the far backend.
            assert_eq!(masqueraded, [UPLINK.index], "{case:?} {front}");
        }
    }
}
