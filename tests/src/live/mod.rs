//! Frames by the million, sent and received by XDP programs of a few instructions,
//! so that what is between them decides how long they take. The kernel's test run
//! makes them (`BPF_F_TEST_XDP_LIVE_FRAMES`), and they go out by an interface as if
//! they had been redirected there; at their end they are counted, answered or shown.

mod generator;
mod sink;

pub use generator::{Clients, Generator};
pub use sink::{Role, Seen, Sink};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: u32 = 2;
/// `XDP_DROP`.
const DROP: i32 = 1;
/// `XDP_PASS`.
const PASS: i32 = 2;
/// `XDP_TX`.
const TRANSMIT: i32 = 3;

// Offsets in a frame: Ethernet, IPv4 without options, UDP.
const ETHERTYPE: i16 = 12;
const IDENTIFICATION: i16 = 18;
const SOURCE: i16 = 26;
const DESTINATION: i16 = 30;
const SOURCE_PORT: i16 = 34;
const DESTINATION_PORT: i16 = 36;
const PAYLOAD: i16 = 42;
/// Length: the shortest that Ethernet allows.
const LENGTH: i32 = 60;

#[cfg(test)]
mod tests {
    use super::{Clients, Generator, Role, Seen, Sink};
    use crate::netns::{Namespace, Naming};
    use crate::packet::{Layer4, Macs, checksum_fault, parse};
    use crate::{deadline, link, privilege};
    use anyhow::Result;
    use nix::net::if_::if_nametoindex;
    use std::collections::BTreeSet;
    use std::io::Read as _;
    use std::time::Duration;

    const FRAMES: u32 = 32;

    /// Two ends of a wire; generators send by `eth0` of the first.
    fn wire() -> Result<[Namespace; 2]> {
        let [near, far] = ["near", "far"].map(|name| Namespace::new(Naming::Unique, name));
        let (near, far) = (near?, far?);
        near.ip(&[
            format!("link add eth0 type veth peer name eth0 netns {}", far.name()),
            "link set eth0 up".to_owned(),
        ])?;
        far.ip(&["link set eth0 up".to_owned()])?;
        Ok([near, far])
    }

    fn generator(near: &Namespace, flows: u32) -> Result<Generator> {
        let clients = Clients { flows, port: 20_000 };
        let macs = Macs { src: [2, 0, 0, 0, 0, 1], dst: [2, 0, 0, 0, 0, 2] };
        near.run(|| Generator::new("eth0", macs, "192.0.2.1:30053".parse()?, clients))?
    }

    #[test]
    fn every_frame_that_is_sent_is_counted() -> Result<()> {
        if !privilege::root_or_skip() {
            return Ok(());
        }
        let [near, far] = wire()?;
        let sink = far.run(|| Sink::attach("eth0", [192, 0, 2]))??;
        let other = far.run(|| Sink::attach("lo", [192, 0, 2]))??;
        let generator = generator(&near, 1)?;
        for role in [Role::Count, Role::Answer] {
            sink.set(role)?;
            near.run(|| generator.send(10_000))??;
            deadline::until_ok("10,000 frames", Duration::from_secs(5), || {
                let seen = sink.seen()?;
                anyhow::ensure!(seen == Seen { forward: 10_000, back: 0 }, "{seen:?}");
                Ok(())
            })?;
        }
        assert_eq!(other.seen()?, Seen::default());
        Ok(())
    }

    #[test]
    fn frames_are_of_as_many_clients_and_their_checksums_are_right() -> Result<()> {
        if !privilege::root_or_skip() {
            return Ok(());
        }
        let [near, far] = wire()?;
        let sink = far.run(|| Sink::attach("eth0", [192, 0, 2]))??;
        sink.set(Role::Show)?;
        let mut socket = far.run(|| link::open(if_nametoindex("eth0")?))??;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        for flows in [1, 5, 1 << 20] {
            let generator = generator(&near, flows)?;
            // Beyond what is in the address.
            generator.skip(65_530)?;
            near.run(|| generator.send(FRAMES))??;
            let mut sources = BTreeSet::new();
            let mut seen = 0;
            while seen < FRAMES {
                let mut frame = [0; 128];
                let length = socket.read(&mut frame)?;
                // Both ends also look for neighbours, as IPv6 does.
                let parsed = match parse(&frame[..length], true) {
                    Some(parsed) if parsed.layer4 == Layer4::Udp => parsed,
                    Some(_) | None => continue,
                };
                seen += 1;
                assert_eq!(checksum_fault(&frame[..length], true), None);
                assert_eq!(parsed.dst, "192.0.2.1:30053".parse()?);
                sources.insert(parsed.src);
            }
            assert_eq!(sources.len(), flows.min(FRAMES) as usize, "{sources:?}");
        }
        Ok(())
    }
}
