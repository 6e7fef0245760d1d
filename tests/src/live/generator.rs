//! Datagrams of many clients, made in the kernel.

use super::{ARRAY, DROP, IDENTIFICATION, LENGTH, PAYLOAD, SOURCE, SOURCE_PORT, TRANSMIT};
use crate::bpf::code::{
    ADD_IMM, AND_IMM, EXIT, LOAD_DOUBLE, LOAD_IMM, MAP_VALUE, MOD_IMM, MOV_IMM, MOV_REG,
    SHIFT_RIGHT_IMM, STORE_DOUBLE, STORE_HALF, TO_BIG_ENDIAN, XOR_IMM,
};
use crate::bpf::{self, instruction};
use crate::packet::{Fragment, Macs, Packet};
use crate::prog::{context, cost};
use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

/// Addresses that are set aside for measurements (RFC 2544).
const FIRST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clients {
    /// How many flows there are, one after the other. Of as many as 65,536 each is of
    /// another address; of more, each address has some ports.
    pub flows: u32,
    /// The port of the first 65,536 of them.
    pub port: u16,
}

/// Sends datagrams by an interface.
#[derive(Debug)]
pub struct Generator {
    program: OwnedFd,
    state: OwnedFd,
    frame: Vec<u8>,
    context: Vec<u8>,
}

impl Generator {
    /// One that sends by an interface of the calling thread's namespace. The checksums
    /// are right: what is added to address and port is taken off other words.
    pub fn new(interface: &str, macs: Macs, to: SocketAddrV4, clients: Clients) -> Result<Self> {
        let Clients { flows, port } = clients;
        let last = flows.checked_sub(1).context("no flow")? >> 16;
        ensure!(u32::from(port) + last <= u16::MAX.into(), "{flows} flows have not enough ports");
        let from = SocketAddr::new(FIRST.into(), port);
        // Words from which to take: all ones, which count as zero in the checksums.
        let length = LENGTH - i32::from(PAYLOAD);
        let mut payload = vec![0; usize::try_from(length)?];
        payload[..4].fill(0xff);
        let mut packet = Packet::udp(from, to.into()).macs(macs).payload(&payload);
        packet.fragment = Some(Fragment { offset: 0, len: payload.len() + 8, id: u16::MAX });
        let frame = packet.bytes();

        let index =
            if_nametoindex(interface).with_context(|| format!("find the interface {interface}"))?;
        let state = bpf::create_map(ARRAY, 4, 8, 1)?;
        let code = code(&frame, state.as_raw_fd(), clients)?;
        let program = bpf::load(bpf::XDP, bpf::ATTACH_XDP, 0, &code)?;
        let context = context::xdp_md(index, frame.len());
        Ok(Self { program, state, frame, context })
    }

    /// Sends so many, from a thread of the interface's namespace; nanoseconds of each
    /// until all of them are where they go, without the time in which the processor
    /// did something else.
    pub fn send(&self, count: u32) -> Result<u32> {
        bpf::send(&self.program, &self.frame, &self.context, count)
    }

    /// Goes on with this flow.
    pub fn skip(&self, flow: u32) -> Result<()> {
        bpf::set_element(&self.state, 0, &u64::from(flow).to_ne_bytes())
    }
}

fn code(frame: &[u8], state: RawFd, Clients { flows, port }: Clients) -> Result<Vec<u64>> {
    // The words that tell the flow from others: r8 is its number, r9 what of it is to be
    // written.
    let store = |at: i16| {
        [
            instruction(MOV_REG, 4, 9, 0, 0),
            instruction(TO_BIG_ENDIAN, 4, 0, 0, 16),
            instruction(STORE_HALF, 2, 4, at, 0),
        ]
    };
    // What is left of all ones.
    let rest = instruction(XOR_IMM, 9, 0, 0, 0xffff);
    let mut body = vec![
        instruction(LOAD_IMM, 7, MAP_VALUE, 0, state),
        0,
        instruction(LOAD_DOUBLE, 8, 7, 0, 0),
        instruction(MOV_REG, 4, 8, 0, 0),
        instruction(ADD_IMM, 4, 0, 0, 1),
        instruction(STORE_DOUBLE, 7, 4, 0, 0),
        instruction(MOD_IMM, 8, 0, 0, i32::try_from(flows).context("too many flows")?),
    ];
    // The kernel gives frames out again as they came back.
    body.extend(cost::write(frame));
    body.extend([instruction(MOV_REG, 9, 8, 0, 0), instruction(AND_IMM, 9, 0, 0, 0xffff)]);
    body.extend(store(SOURCE + 2));
    body.push(rest);
    body.extend(store(IDENTIFICATION));
    body.extend(store(PAYLOAD));
    let high = [instruction(MOV_REG, 9, 8, 0, 0), instruction(SHIFT_RIGHT_IMM, 9, 0, 0, 16)];
    body.extend(high);
    body.push(instruction(ADD_IMM, 9, 0, 0, port.into()));
    body.extend(store(SOURCE_PORT));
    body.extend(high);
    body.push(rest);
    body.extend(store(PAYLOAD + 2));
    body.extend([instruction(MOV_IMM, 0, 0, 0, TRANSMIT), instruction(EXIT, 0, 0, 0, 0)]);
    let mut code = cost::packet(true).to_vec();
    code.extend(cost::within(i32::try_from(frame.len())?, body.len()));
    code.extend(body);
    code.extend([instruction(MOV_IMM, 0, 0, 0, DROP), instruction(EXIT, 0, 0, 0, 0)]);
    Ok(code)
}
