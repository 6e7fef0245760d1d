//! Floods: first packets of made-up clients, as fast as one thread sends them.

use crate::link;
use crate::netns::Namespace;
use crate::packet::{Macs, Packet};
use anyhow::{Context as _, Result};
use lb_common::proto;
use lb_common::tcp::flag;
use nix::net::if_::if_nametoindex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Frames with as many sources; a table of flows has room for half of them.
const FRAMES: u32 = 1 << 18;

/// Packets that are sent at once.
const BURST: u32 = 64;

/// Whom a flood is for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// IP protocol number.
    pub proto: u8,
    /// Address and port.
    pub to: SocketAddr,
}

/// Packets a second: `LB_FLOOD_RATE`, or what leaves a busy machine some time for
/// others. More than a link takes tests the link.
fn rate() -> u32 {
    let asked = std::env::var("LB_FLOOD_RATE").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(50_000)
}

/// Sends first packets to these, in turns, from the far end of an interface of
/// `to`, while `meanwhile` runs; what that returned, and how many were sent.
pub fn during<T>(
    from: (&Namespace, &str),
    to: (&Namespace, &str),
    targets: &[Target],
    meanwhile: impl FnOnce() -> Result<T>,
) -> Result<(T, u64)> {
    let macs = Macs { src: [2, 0, 0, 0, 0, 9], dst: mac(to.0, to.1)? };
    let frames: Vec<Vec<u8>> = (0..FRAMES)
        .zip(targets.iter().cycle())
        .map(|(number, target)| frame(number, *target, macs))
        .collect();
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let send = || -> Result<()> {
        let index = if_nametoindex(from.1).context("find the interface")?;
        let socket = link::sender(index).context("open a packet socket")?;
        let (begin, pause) = (Instant::now(), Duration::from_secs(1) / rate());
        for (number, frame) in (0_u32..).zip(frames.iter().cycle()) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            // Some at once, as the clock of a sleeper is coarse.
            if number % BURST == 0
                && let Some(early) = (pause * number).checked_sub(begin.elapsed())
            {
                thread::sleep(early);
            }
            // A queue that is full for a moment is no end.
            count.fetch_add(u64::from(socket.send(frame).is_ok()), Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let sender = scope.spawn(|| from.0.run(send)?);
        let result = meanwhile();
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((result?, count.load(Ordering::Relaxed)))
    })
}

/// The first packet of a made-up client.
fn frame(number: u32, Target { proto, to }: Target, macs: Macs) -> Vec<u8> {
    // Each bit of the product depends on all lower ones: neighbours are far apart.
    let scattered = number.wrapping_mul(0x9e37_79b1);
    let [_, high, middle, low] = scattered.to_be_bytes();
    let host: IpAddr = match to.ip() {
        IpAddr::V4(_) => Ipv4Addr::new(11, high, middle, low).into(),
        IpAddr::V6(_) => {
            let [high, low] = [scattered >> 16, scattered & 0xffff];
            let word = |part: u32| u16::try_from(part).unwrap_or_default();
            Ipv6Addr::new(0x2001, 0xdb8, 0xf00d, 0, 0, 0, word(high), word(low)).into()
        }
    };
    let port = 1024 + u16::try_from(scattered % 60_000).unwrap_or_default();
    let from = SocketAddr::new(host, port);
    let packet =
        if proto == proto::TCP { Packet::tcp(from, to, flag::SYN) } else { Packet::udp(from, to) };
    packet.macs(macs).bytes()
}

/// The link-layer address of an interface.
fn mac(netns: &Namespace, device: &str) -> Result<[u8; 6]> {
    let text = netns.output("ip", &["-json", "link", "show", device])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("read the links")?;
    let digits = links[0]["address"].as_str().context("the link has no address")?;
    let bytes = digits.split(':').map(|digits| u8::from_str_radix(digits, 16));
    let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().context("read the address")?;
    bytes.try_into().ok().context("the address has not six bytes")
}
