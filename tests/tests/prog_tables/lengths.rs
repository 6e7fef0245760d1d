//! Headers that lie about lengths: those of the packet, of a UDP datagram, of a
//! TCP header. What is translated is as right, or as wrong, as it was; what lies
//! beyond the length that a packet claims is none of it.

use lb_common::Verdict;
use lb_tests::packet::{Packet, outer_checksum_fault, parse, rfc1071};
use lb_tests::prog::net::{NODE_2_MAC, POD_2, Port, UPLINK};
use lb_tests::prog::{Case, Outcome, Prog, Rig, ServiceSpec, action};
use lb_userspace::desired::Protocol;

/// A packet of a flow, and what a program makes of it.
struct Way {
    case: Case,
    prog: Prog,
    by: Port,
    packet: Packet,
    becomes: Packet,
    verdict: Verdict,
    /// None: the packet goes on to the stack.
    action: Option<u32>,
}

/// A flow's packets both ways through TC, and through XDP.
fn ways(rig: &mut Rig, case: Case) -> Vec<Way> {
    rig.reset();
    let (near, far) = (case.pod(1, 10, 8080), case.pod(2, 10, 8080));
    let (client, vip) = (case.pod(1, 20, 4000), case.vip(1, 80));
    rig.install(&case.web(&[near]));
    case.enter(rig, POD_2, &case.open(client, vip)).forwarded_to(near);
    let link = |packet: Packet, macs| if case.l3 { packet } else { packet.macs(macs) };
    let by_tc = |prog, macs, packet: Packet, becomes: Packet, verdict| Way {
        case,
        prog,
        by: POD_2,
        packet: link(packet, macs),
        becomes: link(becomes, macs),
        verdict,
        action: None,
    };
    let request = case.data(client, vip);
    let reply = case.data(near, client);
    let mut ways = vec![
        by_tc(
            case.ingress(),
            POD_2.entering(),
            request.clone(),
            request.to(near),
            Verdict::Forwarded,
        ),
        by_tc(case.egress(), POD_2.leaving(), reply.clone(), reply.from(vip), Verdict::Returned),
    ];
    if case.l3 {
        return ways;
    }
    let (client, front) = (case.outside(7, 4000), case.node(UPLINK, 30_080));
    let web = ServiceSpec {
        proto: case.proto(),
        node: vec![front],
        backends: vec![far],
        ..ServiceSpec::default()
    };
    rig.install(&web);
    let (seen, _) = case.xdp(rig, UPLINK, &case.open(client, front)).ends();
    let by_xdp = |packet: Packet, becomes: Packet, macs, verdict| Way {
        case,
        prog: Prog::Xdp,
        by: UPLINK,
        becomes: Packet { ttl: packet.ttl - 1, ..becomes.macs(macs) },
        packet: packet.macs(UPLINK.entering()),
        verdict,
        action: Some(action::XDP_TX),
    };
    let request = case.data(client, front);
    let sent = request.clone().from(seen).to(far);
    ways.push(by_xdp(request, sent, UPLINK.leaving_to(NODE_2_MAC), Verdict::Forwarded));
    let reply = case.data(far, seen);
    let sent = reply.clone().from(front).to(client);
    ways.push(by_xdp(reply, sent, UPLINK.leaving(), Verdict::Returned));
    ways
}

impl Way {
    /// Runs the frame, which tells `lie`s.
    fn run(&self, rig: &mut Rig, lie: impl Fn(&mut Vec<u8>)) -> (Vec<u8>, Outcome) {
        let mut frame = self.packet.bytes();
        lie(&mut frame);
        let outcome = rig.run(self.prog, self.by.index, &frame);
        (frame, outcome)
    }

    /// Asserts that the frame becomes what it would become if it were true, with
    /// the same lie.
    #[track_caller]
    fn translates(&self, rig: &mut Rig, what: &str, lie: impl Fn(&mut Vec<u8>)) {
        let (frame, outcome) = self.run(rig, &lie);
        let mut expected = self.becomes.bytes();
        lie(&mut expected);
        self.assert(&outcome, what, &frame, &expected);
    }

    #[track_caller]
    fn assert(&self, outcome: &Outcome, what: &str, frame: &[u8], expected: &[u8]) {
        let Self { case, prog, verdict, .. } = self;
        let what = format!("{case:?}, {prog:?}, {what}: {frame:02x?} gave {outcome:02x?}");
        assert_eq!(outcome.verdict, *verdict, "{what}");
        match self.action {
            None => assert!(outcome.passes(*prog), "{what}"),
            Some(action) => assert_eq!(outcome.action, action, "{what}"),
        }
        assert!(outcome.frame == expected, "{what}, not {expected:02x?}");
    }

    /// Asserts that nothing was taken for this flow's packet: the frame goes on as
    /// it was, or ends here.
    #[track_caller]
    fn refuses(&self, what: &str, frame: &[u8], outcome: &Outcome) {
        let Self { case, prog, .. } = self;
        let ethernet = prog.is_ethernet();
        let what = format!("{case:?}, {prog:?}, {what}: {frame:02x?} gave {outcome:02x?}");
        if outcome.passes(*prog) {
            let verdicts = [Verdict::Passed, Verdict::HandedOver];
            assert!(verdicts.contains(&outcome.verdict), "{what}");
            assert!(outcome.frame == frame, "changed: {what}");
            return;
        }
        assert_eq!(outcome.verdict, Verdict::RefusedUnknownPort, "{what}");
        assert_eq!(outer_checksum_fault(&outcome.frame, ethernet), None, "{what}");
        let answer = parse(&outcome.frame, ethernet).map(|answer| answer.dst.ip());
        assert_eq!(answer, Some(self.packet.src.ip()), "{what}");
    }

    fn link(&self) -> usize {
        if self.case.l3 { 0 } else { 14 }
    }

    /// Offset of the transport header.
    fn transport(&self) -> usize {
        self.link() + if self.case.v6 { 40 } else { 20 }
    }

    /// Length of the packet behind the IP header.
    fn behind_ip(&self) -> usize {
        self.packet.bytes().len() - self.transport()
    }

    /// Bytes of the transport header that a program must see.
    const fn header(&self) -> usize {
        match self.case.protocol {
            Protocol::Tcp => 20,
            Protocol::Udp => 8,
            Protocol::Sctp => 16,
        }
    }

    /// Has the IP header claim so many bytes: IPv4 counts its own header, IPv6
    /// does not.
    fn claim(&self, frame: &mut [u8], length: usize) {
        let ip = self.link();
        let length = u16::try_from(length).expect("16 bits").to_be_bytes();
        if self.case.v6 {
            frame[ip + 4..ip + 6].copy_from_slice(&length);
            return;
        }
        frame[ip + 2..ip + 4].copy_from_slice(&length);
        frame[ip + 10..ip + 12].fill(0);
        let sum = rfc1071(&[&frame[ip..ip + 20]]);
        frame[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
    }

    /// What the IP header must claim for so many bytes behind it.
    fn with_header(&self, behind: usize) -> usize {
        behind + if self.case.v6 { 0 } else { 20 }
    }
}

#[test]
fn a_datagram_that_lies_about_its_length_is_translated_and_lies_on() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.protocol == Protocol::Udp) {
        for way in ways(&mut rig, case) {
            let (at, true_length) = (way.transport() + 4, way.behind_ip());
            for length in [0, 1, 7, 8, true_length - 1, true_length + 1, 1500, 65_535] {
                let bytes = u16::try_from(length).expect("16 bits").to_be_bytes();
                way.translates(&mut rig, &format!("UDP length {length}"), |frame| {
                    frame[at..at + 2].copy_from_slice(&bytes);
                });
            }
        }
    }
}

#[test]
fn a_segment_that_lies_about_its_header_is_translated_and_lies_on() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.is_tcp()) {
        for way in ways(&mut rig, case) {
            let at = way.transport() + 12;
            for words in 0..16 {
                way.translates(&mut rig, &format!("data offset {words}"), |frame| {
                    frame[at] = words << 4;
                });
            }
        }
    }
}

/// What a link, or a liar, adds behind the packet.
#[test]
fn what_follows_the_packet_stays_and_counts_for_nothing() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for way in ways(&mut rig, case) {
            for trailer in [&[0xff_u8][..], &[0x5a; 7], &[0xa5; 300]] {
                way.translates(&mut rig, "a trailer", |frame| frame.extend(trailer));
            }
        }
    }
}

/// The transport header stands beyond the end of the packet, in what is no more
/// than the link's padding.
#[test]
fn a_packet_that_ends_before_its_transport_header_does_has_none() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for way in ways(&mut rig, case) {
            for behind in 0..way.header() {
                let length = way.with_header(behind);
                // IPv6 has a special case; see below.
                if length == 0 {
                    continue;
                }
                let (frame, outcome) = way.run(&mut rig, |frame| way.claim(frame, length));
                way.refuses(&format!("claims {length} bytes"), &frame, &outcome);
            }
            for length in (1..20).filter(|_| !case.v6) {
                let (frame, outcome) = way.run(&mut rig, |frame| way.claim(frame, length));
                if outcome.is_drop(way.prog) {
                    // Not even its IP header is whole: no error could quote it.
                    assert_eq!(outcome.verdict, Verdict::RefusedUnknownPort, "{case:?}");
                } else {
                    way.refuses(&format!("claims {length} bytes"), &frame, &outcome);
                    assert!(outcome.passes(way.prog), "answered: {case:?}, {outcome:02x?}");
                }
            }
        }
    }
}

/// A packet that is to be cut by the device may be too long for the field, which
/// is 0 then. No frame comes so from a link: XDP leaves it to the stack.
#[test]
fn a_length_of_zero_is_that_of_a_packet_too_long_to_say() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.protocol != Protocol::Sctp) {
        for way in ways(&mut rig, case) {
            if way.prog == Prog::Xdp {
                let (frame, outcome) = way.run(&mut rig, |frame| way.claim(frame, 0));
                assert_eq!(outcome.verdict, Verdict::HandedOver, "{case:?}");
                assert!(outcome.frame == frame, "{case:?}");
            } else {
                way.translates(&mut rig, "claims 0 bytes", |frame| way.claim(frame, 0));
            }
        }
    }
}

/// The stack finds that the end is missing, whatever the addresses are; XDP, which
/// would send the frame on itself, leaves that to it.
#[test]
fn a_packet_that_claims_more_than_is_there_lies_on_and_is_never_sent_by_xdp() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all() {
        for way in ways(&mut rig, case) {
            let true_length = way.with_header(way.behind_ip());
            for length in [true_length + 1, true_length + 100, 65_535] {
                let (frame, mut outcome) = way.run(&mut rig, |frame| way.claim(frame, length));
                if way.prog == Prog::Xdp {
                    way.refuses(&format!("claims {length} bytes"), &frame, &outcome);
                    continue;
                }
                let mut expected = way.becomes.bytes();
                way.claim(&mut expected, length);
                if case.protocol == Protocol::Sctp {
                    // The checksum is over what is not there.
                    let sum = way.transport() + 8..way.transport() + 12;
                    outcome.frame[sum.clone()].copy_from_slice(&expected[sum]);
                }
                way.assert(&outcome, &format!("claims {length} bytes"), &frame, &expected);
            }
        }
    }
}

/// A segment that no host would take gets no answer: what a reset acknowledges
/// follows from its lengths.
#[test]
fn a_segment_that_lies_is_refused_without_an_answer() {
    let Some(mut rig) = Rig::take() else { return };
    for case in Case::all().filter(|case| case.is_tcp()) {
        rig.reset();
        rig.install(&case.web(&[]));
        let link = if case.l3 { 0 } else { 14 };
        let ip = if case.v6 { 40 } else { 20 };
        let packet = case.open(case.pod(1, 20, 4000), case.vip(1, 80)).payload(b"early data");
        let packet = if case.l3 { packet } else { packet.macs(POD_2.entering()) };
        let mut run = |words: u8, length: usize| {
            let mut frame = packet.bytes();
            frame[link + ip + 12] = words << 4;
            let claimed = u16::try_from(length).expect("16 bits").to_be_bytes();
            let at = link + if case.v6 { 4 } else { 2 };
            frame[at..at + 2].copy_from_slice(&claimed);
            rig.run(case.ingress(), POD_2.index, &frame)
        };
        let length = packet.bytes().len() - link - if case.v6 { 40 } else { 0 };
        for (words, length, answers) in [
            (5, length, true),
            (7, length, true),
            (4, length, false),
            (0, length, false),
            (8, length, false),
            (15, length, false),
            (5, length + 1, false),
            (5, 65_535, false),
        ] {
            let outcome = run(words, length);
            let what = format!("{case:?}, data offset {words}, {length} bytes: {outcome:02x?}");
            assert_eq!(outcome.verdict, Verdict::RefusedNoBackend, "{what}");
            let action = if answers { action::TC_REDIRECT } else { action::TC_DROP };
            assert_eq!(outcome.action, action, "{what}");
        }
    }
}
