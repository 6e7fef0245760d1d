//! What a flow remembers, and when it lets go of its backend.

use lb_common::flow::flag as flow_flag;
use lb_common::tcp::{flag, state};
use lb_common::value::backend_state;
use lb_common::{Traffic, V4, V6, Verdict};
use lb_tests::prog::net::{POD_2, UPLINK};
use lb_tests::prog::{Case, Family, Installed, Rig, ServiceSpec};
use std::net::SocketAddr;

struct World {
    case: Case,
    client: SocketAddr,
    vip: SocketAddr,
    backends: [SocketAddr; 3],
    rows: Installed,
}

/// Three backends in turn: the next flow takes the next.
fn world(rig: &mut Rig, case: Case) -> World {
    rig.reset();
    let backends = [30, 31, 32].map(|n| case.pod(1, n, 8080));
    let rows = rig.install(&ServiceSpec {
        proto: case.proto(),
        cluster: vec![case.vip(1, 80)],
        backends: backends.to_vec(),
        ..ServiceSpec::default()
    });
    World { case, client: case.pod(1, 20, 4000), vip: case.vip(1, 80), backends, rows }
}

impl World {
    /// Opens the connection or exchange, both ways, and says which backend it
    /// has: an index.
    #[track_caller]
    fn open(&self, rig: &mut Rig) -> usize {
        let step = self.case.enter(rig, POD_2, &self.case.open(self.client, self.vip));
        let (_, backend) = step.tuple(Verdict::Forwarded);
        let accept = self.case.accept(backend, self.client);
        self.case.leave(rig, POD_2, &accept).returned_from(self.vip);
        self.backends.iter().position(|b| *b == backend).expect("a backend of the Service")
    }

    #[track_caller]
    fn client_sends(&self, rig: &mut Rig, flags: u8, to: usize) {
        let packet = self.case.segment(self.client, self.vip, flags);
        self.case.enter(rig, POD_2, &packet).forwarded_to(self.backends[to]);
    }

    #[track_caller]
    fn backend_sends(&self, rig: &mut Rig, flags: u8, from: usize) {
        let packet = self.case.segment(self.backends[from], self.client, flags);
        self.case.leave(rig, POD_2, &packet).returned_from(self.vip);
    }
}

fn tcp() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| case.connects())
}

fn udp() -> impl Iterator<Item = Case> {
    Case::all().filter(|case| !case.connects())
}

#[test]
fn an_established_connection_stays_with_a_backend_that_leaves() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        for state in [backend_state::TERMINATING, backend_state::REMOVED, backend_state::FREE] {
            let world = world(&mut rig, case);
            let at = world.open(&mut rig);
            rig.set_backend_state(world.rows.backends[at], state);
            rig.set_endpoints(world.rows.id, &[]);
            for _ in 0..3 {
                world.client_sends(&mut rig, flag::ACK, at);
                world.backend_sends(&mut rig, flag::ACK, at);
            }
            world.client_sends(&mut rig, flag::FIN | flag::ACK, at);
            world.backend_sends(&mut rig, flag::FIN | flag::ACK, at);
            world.client_sends(&mut rig, flag::ACK, at);
        }
    }
}

#[test]
fn datagrams_leave_a_removed_backend_with_the_next_and_stay_on_a_terminating_one() {
    let Some(mut rig) = Rig::take() else { return };
    for case in udp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        let others: Vec<u32> = world
            .rows
            .backends
            .iter()
            .copied()
            .filter(|id| *id != world.rows.backends[at])
            .collect();
        rig.set_backend_state(world.rows.backends[at], backend_state::TERMINATING);
        rig.set_endpoints(world.rows.id, &others);
        for _ in 0..3 {
            world.client_sends(&mut rig, 0, at);
            world.backend_sends(&mut rig, 0, at);
        }
        rig.set_backend_state(world.rows.backends[at], backend_state::REMOVED);
        let next = world.open(&mut rig);
        assert_ne!(next, at, "{case:?}");
        for _ in 0..3 {
            world.client_sends(&mut rig, 0, next);
            world.backend_sends(&mut rig, 0, next);
        }
        // What the old one still had to say gets through.
        world.backend_sends(&mut rig, 0, at);
        world.client_sends(&mut rig, 0, next);
    }
}

#[test]
fn datagrams_that_lost_their_last_backend_are_refused_and_served_again_later() {
    let Some(mut rig) = Rig::take() else { return };
    for case in udp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        rig.set_endpoints(world.rows.id, &[]);
        rig.set_backend_state(world.rows.backends[at], backend_state::REMOVED);
        let step = case.enter(&mut rig, POD_2, &case.open(world.client, world.vip));
        assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
        let other = (at + 1) % 3;
        rig.set_endpoints(world.rows.id, &[world.rows.backends[other]]);
        assert_eq!(world.open(&mut rig), other, "{case:?}");
    }
}

#[test]
fn a_backend_row_that_another_endpoint_has_got_ends_the_exchange() {
    let Some(mut rig) = Rig::take() else { return };
    for case in udp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        let id = world.rows.backends[at];
        let elsewhere = case.pod(1, 99, 9999);
        rig.give_backend(id, world.rows.id, case.proto(), elsewhere);
        rig.set_endpoints(world.rows.id, &[id]);
        let packet = case.open(world.client, world.vip);
        case.enter(&mut rig, POD_2, &packet).forwarded_to(elsewhere);
        let reply = case.accept(elsewhere, world.client);
        case.leave(&mut rig, POD_2, &reply).returned_from(world.vip);
    }
}

#[test]
fn a_connection_outlives_the_backend_row_and_is_not_counted_to_its_new_owner() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        let id = world.rows.backends[at];
        let before = rig.backend_traffic(id);
        rig.set_endpoints(world.rows.id, &[]);
        rig.give_backend(id, world.rows.id, case.proto(), case.pod(1, 99, 9999));
        world.client_sends(&mut rig, flag::ACK, at);
        world.backend_sends(&mut rig, flag::ACK, at);
        assert_eq!(rig.backend_traffic(id), before, "{case:?}");
    }
}

/// RFC 9293 section 3.6.1 lets a port be used again as soon as the connection
/// is closed; such a SYN is a new connection.
#[test]
fn a_syn_on_a_closed_flow_is_a_new_decision() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        for ending in 0..4 {
            let world = world(&mut rig, case);
            let at = world.open(&mut rig);
            match ending {
                0 => {
                    world.client_sends(&mut rig, flag::FIN | flag::ACK, at);
                    world.backend_sends(&mut rig, flag::FIN | flag::ACK, at);
                }
                1 => {
                    world.backend_sends(&mut rig, flag::FIN | flag::ACK, at);
                    world.client_sends(&mut rig, flag::FIN | flag::ACK, at);
                }
                2 => world.client_sends(&mut rig, flag::RST, at),
                _ => world.backend_sends(&mut rig, flag::RST | flag::ACK, at),
            }
            // Its last segments still get through.
            world.client_sends(&mut rig, flag::ACK, at);
            world.backend_sends(&mut rig, flag::ACK, at);
            let next = world.open(&mut rig);
            assert_eq!(next, (at + 1) % 3, "{case:?}, ending {ending}");
            world.client_sends(&mut rig, flag::ACK, next);
            let service = rig.service_traffic(world.rows.id);
            assert_eq!(service.connections, 2, "{case:?}, ending {ending}");
        }
    }
}

#[test]
fn a_syn_on_an_open_flow_is_a_retransmission() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        world.client_sends(&mut rig, flag::SYN, at);
        // Half closed is open: the other half still carries data.
        world.client_sends(&mut rig, flag::FIN | flag::ACK, at);
        world.client_sends(&mut rig, flag::SYN, at);
        world.backend_sends(&mut rig, flag::ACK, at);
        assert_eq!(rig.service_traffic(world.rows.id).connections, 1, "{case:?}");
    }
}

#[test]
fn a_syn_to_a_backend_that_has_left_goes_to_another() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let packet = case.open(world.client, world.vip);
        let (_, first) = case.enter(&mut rig, POD_2, &packet).tuple(Verdict::Forwarded);
        let at = world.backends.iter().position(|b| *b == first).expect("a backend");
        rig.set_backend_state(world.rows.backends[at], backend_state::REMOVED);
        assert_ne!(world.open(&mut rig), at, "{case:?}");
    }
}

/// The old backend's last words must not end the connection that has the
/// client's port now.
#[test]
fn a_late_reset_of_an_old_connection_leaves_the_new_one_alone() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        for late in [flag::RST, flag::FIN | flag::ACK] {
            let world = world(&mut rig, case);
            let at = world.open(&mut rig);
            world.client_sends(&mut rig, flag::FIN | flag::ACK, at);
            world.backend_sends(&mut rig, flag::FIN | flag::ACK, at);
            let packet = case.open(world.client, world.vip);
            let (_, next) = case.enter(&mut rig, POD_2, &packet).tuple(Verdict::Forwarded);
            assert_ne!(next, world.backends[at], "{case:?}");
            world.backend_sends(&mut rig, late, at);
            world.backend_sends(&mut rig, late, at);
            let fin = case.segment(world.client, world.vip, flag::FIN | flag::ACK);
            case.enter(&mut rig, POD_2, &fin).forwarded_to(next);
            // A retransmission: the connection is half closed at most.
            case.enter(&mut rig, POD_2, &packet).forwarded_to(next);
        }
    }
}

#[test]
fn a_flow_outlives_its_service() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        rig.remove_frontend(world.vip, case.proto());
        rig.set_endpoints(world.rows.id, &[]);
        rig.set_backend_state(world.rows.backends[at], backend_state::REMOVED);
        world.client_sends(&mut rig, flag::ACK, at);
        world.backend_sends(&mut rig, flag::ACK, at);
        // A new one finds nothing, and the address is nobody's any more.
        let packet = case.open(case.pod(1, 20, 4001), world.vip);
        case.enter(&mut rig, POD_2, &packet).passed();
    }
}

#[test]
fn datagrams_to_a_service_that_is_gone_pass() {
    let Some(mut rig) = Rig::take() else { return };
    for case in udp() {
        let world = world(&mut rig, case);
        let at = world.open(&mut rig);
        rig.remove_frontend(world.vip, case.proto());
        rig.set_endpoints(world.rows.id, &[]);
        rig.set_backend_state(world.rows.backends[at], backend_state::REMOVED);
        case.enter(&mut rig, POD_2, &case.data(world.client, world.vip)).passed();
    }
}

/// As after an agent that came late, or an evicted row: the backend answers
/// what it does not know with a reset, and the client learns at once.
#[test]
fn a_segment_without_a_flow_still_reaches_a_backend() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let packet = case.data(world.client, world.vip);
        let (_, backend) = case.enter(&mut rig, POD_2, &packet).tuple(Verdict::Forwarded);
        assert!(world.backends.contains(&backend), "{case:?}");
        let reset = case.segment(backend, world.client, flag::RST);
        case.leave(&mut rig, POD_2, &reset).returned_from(world.vip);
    }
}

#[test]
fn rows_say_what_became_of_the_connection() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        if case.v6 {
            states::<V6>(&mut rig, case);
        } else {
            states::<V4>(&mut rig, case);
        }
    }
}

fn states<A: Family>(rig: &mut Rig, case: Case) {
    let world = world(rig, case);
    let at = world.open(rig);
    let check = |rig: &Rig, expected: u8| {
        let flows = rig.flows::<A>();
        assert_eq!(flows.len(), 2, "{case:?}: {flows:?}");
        for (key, flow) in flows {
            assert!(key == flow.forward_key() || key == flow.reverse_key(), "{case:?}: {flow:?}");
            assert_eq!(flow.tcp, expected, "{case:?}: {flow:?}");
            assert_eq!(flow.service, world.rows.id, "{case:?}: {flow:?}");
            assert_eq!(flow.backend, world.rows.backends[at], "{case:?}: {flow:?}");
            assert_eq!(flow.generation, 1, "{case:?}: {flow:?}");
            assert_eq!(flow.proto, case.proto(), "{case:?}: {flow:?}");
            assert_eq!(flow.flags, 0, "{case:?}: {flow:?}");
            assert_eq!(flow.source_port, flow.client_port, "{case:?}: {flow:?}");
            assert!(flow.last_used > 0, "{case:?}: {flow:?}");
        }
    };
    let ends = state::CLIENT_FIN | state::BACKEND_FIN | state::RESET;
    // Datagrams end nothing, and so soon a second one proves nothing.
    let tcp = |bits: u8| if case.connects() { bits } else { bits & !(ends | state::ASSURED) };
    check(rig, tcp(state::REPLIED));
    world.client_sends(rig, flag::FIN | flag::ACK, at);
    check(rig, tcp(state::REPLIED | state::ASSURED | state::CLIENT_FIN));
    world.backend_sends(rig, flag::FIN | flag::ACK, at);
    check(rig, tcp(state::REPLIED | state::ASSURED | state::CLIENT_FIN | state::BACKEND_FIN));
    world.client_sends(rig, flag::RST, at);
    let all =
        state::REPLIED | state::ASSURED | state::CLIENT_FIN | state::BACKEND_FIN | state::RESET;
    check(rig, tcp(all));
}

#[test]
fn rows_of_outside_clients_say_so() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let world = world(&mut rig, case);
        let packet = case.open(case.outside(7, 4000), world.vip);
        case.enter(&mut rig, UPLINK, &packet).tuple(Verdict::Forwarded);
        let flags: Vec<u8> = if case.v6 {
            rig.flows::<V6>().into_iter().map(|(_, flow)| flow.flags).collect()
        } else {
            rig.flows::<V4>().into_iter().map(|(_, flow)| flow.flags).collect()
        };
        assert_eq!(flags, [flow_flag::EXTERNAL; 2], "{case:?}");
    }
}

/// A row that is used is one that eviction spares, and one that others respect.
#[test]
fn traffic_in_either_direction_keeps_both_rows_young() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for from_client in [true, false] {
            let world = world(&mut rig, case);
            let at = world.open(&mut rig);
            rig.age_flows();
            if from_client {
                world.client_sends(&mut rig, flag::ACK, at);
            } else {
                world.backend_sends(&mut rig, flag::ACK, at);
            }
            let ages: Vec<u64> = if case.v6 {
                rig.flows::<V6>().into_iter().map(|(_, flow)| flow.last_used).collect()
            } else {
                rig.flows::<V4>().into_iter().map(|(_, flow)| flow.last_used).collect()
            };
            assert!(ages.len() == 2 && ages.iter().all(|age| *age > 0), "{case:?}: {ages:?}");
        }
    }
}

#[test]
fn a_refused_packet_leaves_no_flow() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        let world = world(&mut rig, case);
        rig.set_endpoints(world.rows.id, &[]);
        let packet = case.open(world.client, world.vip);
        let step = case.enter(&mut rig, POD_2, &packet);
        assert_eq!(step.outcome.verdict, Verdict::RefusedNoBackend, "{}", step.describe());
        assert!(rig.flows::<V4>().is_empty() && rig.flows::<V6>().is_empty(), "{case:?}");
        let counted = Traffic { refused: 1, ..Traffic::default() };
        assert_eq!(rig.service_traffic(world.rows.id), counted, "{case:?}");
    }
}

/// The data plane does not follow sequence numbers: a segment that the client
/// must answer with a reset, or ignore, still comes from the address that the
/// client knows (row 73 of the behaviour table).
#[test]
fn a_segment_out_of_the_window_is_translated_like_any_other() {
    let Some(mut rig) = Rig::take() else { return };
    for case in tcp() {
        let world = world(&mut rig, case);
        let backend = world.backends[world.open(&mut rig)];
        for flags in [flag::ACK, flag::ACK | flag::FIN, flag::RST, flag::SYN | flag::ACK] {
            for sequence in [0, 1, 0x7fff_ffff, u32::MAX] {
                let segment = case.segment(backend, world.client, flags).numbers(sequence, 1);
                case.leave(&mut rig, POD_2, &segment).returned_from(world.vip);
            }
        }
    }
}
