//! Floods: first packets of made-up clients, none of whom comes twice.

use crate::link;
use crate::netns::Namespace;
use crate::packet::{Macs, Packet};
use anyhow::{Context as _, Result};
use lb_common::tcp::flag;
use lb_common::{csum, proto};
use nix::net::if_::if_nametoindex;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Frames with as many source addresses. When they have all been sent they are
/// sent again from other ports.
const FRAMES: u32 = 1 << 18;

/// Length of the link-layer header.
const ETHERNET: usize = 14;

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

/// The time for a packet, by the packets a second of `LB_FLOOD_RATE`, where 0 is as
/// many as one thread sends; else what leaves a busy machine time for others.
fn pace() -> Duration {
    let asked = std::env::var("LB_FLOOD_RATE").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(1).checked_div(asked.unwrap_or(50_000)).unwrap_or_default()
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
    let mut frames: Vec<Frame> = (0..FRAMES)
        .zip(targets.iter().cycle())
        .map(|(number, target)| Frame::new(number, *target, macs))
        .collect();
    let (stop, count) = (&AtomicBool::new(false), &AtomicU64::new(0));
    let send = move || -> Result<()> {
        let index = if_nametoindex(from.1).context("find the interface")?;
        let socket = link::sender(index).context("open a packet socket")?;
        let (begin, pace, mut number) = (Instant::now(), pace(), 0);
        loop {
            for frame in &mut frames {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // Some at once, as the clock of a sleeper is coarse.
                if number % BURST == 0
                    && let Some(early) = (pace * number).checked_sub(begin.elapsed())
                {
                    thread::sleep(early);
                }
                number += 1;
                // A queue that is full for a moment is no end.
                count.fetch_add(u64::from(socket.send(&frame.bytes).is_ok()), Ordering::Relaxed);
                frame.next_port();
            }
        }
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
struct Frame {
    bytes: Vec<u8>,
    /// Where the source port is, and the checksum over it.
    port: usize,
    sum: usize,
}

impl Frame {
    fn new(number: u32, Target { proto, to }: Target, macs: Macs) -> Self {
        // Each bit of the product depends on all lower ones: neighbours are far apart.
        let scattered = number.wrapping_mul(0x9e37_79b1);
        let [_, high, middle, low] = scattered.to_be_bytes();
        let (host, header): (IpAddr, usize) = match to.ip() {
            IpAddr::V4(_) => (Ipv4Addr::new(11, high, middle, low).into(), 20),
            IpAddr::V6(_) => {
                let [high, low] = [scattered >> 16, scattered & 0xffff];
                let word = |part: u32| u16::try_from(part).unwrap_or_default();
                let host = Ipv6Addr::new(0x2001, 0xdb8, 0xf00d, 0, 0, 0, word(high), word(low));
                (host.into(), 40)
            }
        };
        let from = SocketAddr::new(host, 1024 + u16::try_from(scattered % 60_000).unwrap_or(0));
        let (packet, sum) = if proto == proto::TCP {
            (Packet::tcp(from, to, flag::SYN), 16)
        } else {
            (Packet::udp(from, to), 6)
        };
        let port = ETHERNET + header;
        Self { bytes: packet.macs(macs).bytes(), port, sum: port + sum }
    }

    /// Makes the client another one, with another port of the same address.
    fn next_port(&mut self) {
        let old = self.word(self.port);
        let new = if old == u16::MAX { 1024 } else { old + 1 };
        let sum = csum::update(self.word(self.sum), u64::from(new) + u64::from(!old));
        self.bytes[self.port..self.port + 2].copy_from_slice(&new.to_be_bytes());
        self.bytes[self.sum..self.sum + 2].copy_from_slice(&sum.to_be_bytes());
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse;

    #[test]
    fn the_next_client_is_another_whose_packet_is_as_good() {
        let macs = Macs { src: [2; 6], dst: [4; 6] };
        for proto in [proto::TCP, proto::UDP] {
            for to in ["192.0.2.1:30080", "[2001:db8::1]:30080"] {
                let target = Target { proto, to: to.parse().unwrap() };
                let mut frame = Frame::new(7, target, macs);
                let first = parse(&frame.bytes, true).unwrap();
                frame.next_port();
                let second = parse(&frame.bytes, true).unwrap();
                assert_eq!(second.src.port(), first.src.port() + 1);
                assert_eq!((second.src.ip(), second.dst), (first.src.ip(), first.dst));
            }
        }
    }
}
