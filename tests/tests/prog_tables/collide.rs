//! Flows that look alike behind the client's edge: two Services with a common
//! backend, and connections straight to a backend (design: a flow's keys
//! cannot collide).

use lb_common::Verdict;
use lb_common::tcp::flag;
use lb_tests::prog::net::{POD, POD_2, UPLINK};
use lb_tests::prog::{Case, Installed, Rig, ServiceSpec};
use std::net::SocketAddr;

fn service(rig: &mut Rig, case: Case, n: u8, backends: &[SocketAddr]) -> Installed {
    rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(n, 80)],
        backends: backends.to_vec(),
        ..ServiceSpec::default()
    })
}

/// A client's flow to a frontend, or past it where `front` is the backend.
#[derive(Clone, Copy)]
struct Pair {
    case: Case,
    client: SocketAddr,
    front: SocketAddr,
    backend: SocketAddr,
}

impl Pair {
    fn in_verdict(self) -> Verdict {
        if self.front == self.backend { Verdict::Passed } else { Verdict::Forwarded }
    }

    fn out_verdict(self) -> Verdict {
        if self.front == self.backend { Verdict::Passed } else { Verdict::Returned }
    }

    /// Opens the flow and says from where the node routes it.
    #[track_caller]
    fn open(self, rig: &mut Rig) -> SocketAddr {
        let Self { case, client, front, backend } = self;
        let step = case.enter(rig, POD_2, &case.open(client, front));
        let (source, destination) = step.tuple(self.in_verdict());
        assert_eq!(destination, backend, "{}", step.describe());
        assert_eq!(source.ip(), client.ip(), "{}", step.describe());
        // What the node routes on, it leaves alone.
        case.leave(rig, POD, &case.open(source, backend)).passed();
        case.enter(rig, POD, &case.accept(backend, source)).passed();
        let accept = case.accept(backend, source);
        case.leave(rig, POD_2, &accept).became(self.out_verdict(), front, client);
        source
    }

    /// Sends both ways on the flow that the node routes from `source`.
    #[track_caller]
    fn exchange(self, rig: &mut Rig, source: SocketAddr) {
        let Self { case, client, front, backend } = self;
        let data = case.data(client, front);
        case.enter(rig, POD_2, &data).became(self.in_verdict(), source, backend);
        let data = case.data(backend, source);
        case.leave(rig, POD_2, &data).became(self.out_verdict(), front, client);
    }

    /// Ends the flow: FINs, or two minutes of silence.
    fn close(self, rig: &mut Rig, source: SocketAddr) {
        let Self { case, client, front, backend } = self;
        if case.connects() {
            let fin = flag::FIN | flag::ACK;
            case.enter(rig, POD_2, &case.segment(client, front, fin));
            case.leave(rig, POD_2, &case.segment(backend, source, fin));
            case.enter(rig, POD_2, &case.segment(client, front, flag::ACK));
        } else {
            rig.age_flows();
        }
    }
}

#[test]
fn two_services_with_a_common_backend_and_the_same_client_port_are_kept_apart() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        let vips = [1, 2, 3].map(|n| case.vip(n, 80));
        for n in [1, 2, 3] {
            service(&mut rig, case, n, &[backend]);
        }
        let sources = vips.map(|vip| Pair { case, client, front: vip, backend }.open(&mut rig));
        assert_eq!(sources[0], client, "the first keeps the client's port");
        assert_ne!(sources[1], sources[0], "{case:?}");
        assert_ne!(sources[2], sources[0], "{case:?}");
        assert_ne!(sources[2], sources[1], "{case:?}");
        for _ in 0..2 {
            for (vip, source) in vips.into_iter().zip(sources) {
                Pair { case, client, front: vip, backend }.exchange(&mut rig, source);
            }
        }
    }
}

#[test]
fn cluster_ip_and_node_port_of_a_service_are_kept_apart() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        let fronts = [case.vip(1, 80), case.node(UPLINK, 30_080)];
        rig.install(&ServiceSpec {
            proto: case.proto(),
            cluster: vec![fronts[0]],
            node: vec![fronts[1]],
            backends: vec![backend],
            ..ServiceSpec::default()
        });
        let sources = fronts.map(|front| Pair { case, client, front, backend }.open(&mut rig));
        assert_ne!(sources[0], sources[1], "{case:?}");
        for (front, source) in fronts.into_iter().zip(sources) {
            Pair { case, client, front, backend }.exchange(&mut rig, source);
        }
    }
}

#[test]
fn a_connection_past_the_service_is_told_from_a_live_one_through_it() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        service(&mut rig, case, 1, &[backend]);
        let through = Pair { case, client, front: vip, backend }.open(&mut rig);
        let past = Pair { case, client, front: backend, backend }.open(&mut rig);
        assert_ne!(past, through, "{case:?}");
        for _ in 0..2 {
            Pair { case, client, front: vip, backend }.exchange(&mut rig, through);
            Pair { case, client, front: backend, backend }.exchange(&mut rig, past);
        }
    }
}

#[test]
fn a_flow_through_the_service_is_told_from_a_live_connection_past_it() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        service(&mut rig, case, 1, &[backend]);
        let past = Pair { case, client, front: backend, backend }.open(&mut rig);
        assert_eq!(past, client, "a connection that nobody disturbs keeps its port");
        let through = Pair { case, client, front: vip, backend }.open(&mut rig);
        assert_ne!(past, through, "{case:?}");
        for _ in 0..2 {
            Pair { case, client, front: vip, backend }.exchange(&mut rig, through);
            Pair { case, client, front: backend, backend }.exchange(&mut rig, past);
        }
    }
}

#[test]
fn a_connection_past_the_service_takes_over_the_tuple_of_a_closed_flow() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, vip, backend) =
            (case.pod(1, 20, 4000), case.vip(1, 80), case.pod(1, 10, 8080));
        service(&mut rig, case, 1, &[backend]);
        for _ in 0..3 {
            let through = Pair { case, client, front: vip, backend }.open(&mut rig);
            assert_eq!(through, client, "{case:?}");
            Pair { case, client, front: vip, backend }.close(&mut rig, through);
            let past = Pair { case, client, front: backend, backend }.open(&mut rig);
            assert_eq!(past, client, "{case:?}");
            Pair { case, client, front: backend, backend }.exchange(&mut rig, past);
            Pair { case, client, front: backend, backend }.close(&mut rig, past);
        }
    }
}

#[test]
fn another_service_takes_over_the_tuple_of_a_closed_flow() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        for n in [1, 2] {
            service(&mut rig, case, n, &[backend]);
        }
        for vip in [1, 2, 1, 2].map(|n| case.vip(n, 80)) {
            let source = Pair { case, client, front: vip, backend }.open(&mut rig);
            assert_eq!(source, client, "{case:?}");
            Pair { case, client, front: vip, backend }.exchange(&mut rig, source);
            Pair { case, client, front: vip, backend }.close(&mut rig, source);
        }
    }
}

/// The tuple that is taken over belonged to a connection whose client port has
/// long been in use again, with another backend.
#[test]
fn taking_over_a_closed_tuple_leaves_the_ports_live_connection_alone() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        for direct in [true, false] {
            rig.reset();
            let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
            let backends = [case.pod(1, 10, 8080), case.pod(1, 11, 8080)];
            service(&mut rig, case, 1, &backends);
            service(&mut rig, case, 2, &backends[..1]);
            Pair { case, client, front: vip, backend: backends[0] }.open(&mut rig);
            Pair { case, client, front: vip, backend: backends[0] }.close(&mut rig, client);
            Pair { case, client, front: vip, backend: backends[1] }.open(&mut rig);
            let front = if direct { backends[0] } else { case.vip(2, 80) };
            let source = Pair { case, client, front, backend: backends[0] }.open(&mut rig);
            Pair { case, client, front: vip, backend: backends[1] }.exchange(&mut rig, client);
            Pair { case, client, front, backend: backends[0] }.exchange(&mut rig, source);
        }
    }
}

/// As conntrack has it: nobody's tuple is kept for the day that an established
/// connection has.
#[test]
fn a_connection_that_nobody_went_on_with_gives_its_tuple_away_when_it_falls_silent() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.connects()) {
        for steps in 0..3 {
            rig.reset();
            let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
            let backend = case.pod(1, 10, 8080);
            service(&mut rig, case, 1, &[backend]);
            let pair = Pair { case, client, front: vip, backend };
            if steps > 0 {
                pair.open(&mut rig);
            } else {
                case.enter(&mut rig, POD_2, &case.open(client, vip)).forwarded_to(backend);
            }
            if steps > 1 {
                pair.exchange(&mut rig, client);
            }
            rig.age_flows();
            let past = Pair { case, client, front: backend, backend }.open(&mut rig);
            assert_eq!(past != client, steps == 2, "{case:?}");
        }
    }
}

#[test]
fn two_clients_with_the_same_port_are_two_flows() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (vip, backend) = (case.vip(1, 80), case.pod(1, 10, 8080));
        service(&mut rig, case, 1, &[backend]);
        for client in [case.pod(1, 20, 4000), case.pod(1, 21, 4000), case.outside(7, 4000)] {
            let source = Pair { case, client, front: vip, backend }.open(&mut rig);
            assert_eq!(source, client, "{case:?}");
        }
    }
}

/// A segment in the middle of a connection that began before the programs were
/// there.
#[test]
fn a_segment_past_the_service_without_a_flow_passes_and_so_does_its_reply() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        rig.reset();
        let (client, backend) = (case.pod(1, 20, 4000), case.pod(1, 10, 8080));
        service(&mut rig, case, 1, &[backend]);
        case.leave(&mut rig, POD_2, &case.data(backend, client)).passed();
        case.enter(&mut rig, POD_2, &case.data(client, backend)).passed();
        case.leave(&mut rig, POD_2, &case.data(backend, client)).passed();
    }
}
