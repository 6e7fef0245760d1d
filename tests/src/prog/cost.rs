//! What a packet costs a program. The kernel's test run repeats on one packet, which
//! a program changes; so a driver comes before it: a program of a few instructions
//! that writes the packet anew, as one of so many flows, and calls the program under
//! test by a tail call.

use super::{Prog, Rig, context};
use crate::bpf::code::{
    ADD_IMM, AND_IMM, CALL, EXIT, JUMP_GREATER, JUMP_NOT_EQUAL_IMM, LOAD_BYTE, LOAD_DOUBLE,
    LOAD_HALF, LOAD_IMM, LOAD_WORD, MAP, MAP_VALUE, MOV_IMM, MOV_REG, SHIFT_RIGHT_IMM, STORE_BYTE,
    STORE_BYTE_IMM, STORE_DOUBLE, STORE_HALF, STORE_WORD, STORE_WORD_IMM, XOR_REG,
};
use crate::bpf::{self, ATTACH_XDP, XDP, instruction};
use anyhow::{Context as _, Result};
use aya::programs::Program;
use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

const ARRAY: u32 = 2;
const PROG_ARRAY: u32 = 3;
const SCHED_CLS: u32 = 3;
/// `BPF_FUNC_map_lookup_elem`.
const LOOKUP: i32 = 1;
/// `BPF_FUNC_tail_call`.
const TAIL_CALL: i32 = 12;

/// What [`Under::Lookup`] returns if there is no row: an action of neither kind of
/// program that anything else here returns.
pub const MISS: i32 = 1;

/// Which part of the packet tells its flow.
#[derive(Clone, Copy, Debug)]
pub struct Vary {
    /// Offset of a port.
    pub port: usize,
    /// Offset of the last byte of an address.
    pub address: usize,
    /// How many flows; a power of two, at most 2^24.
    pub flows: u32,
}

/// What runs behind the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// A program of the object.
    Test,
    /// One that returns at once.
    Nothing,
    /// One that looks the packet's tuple up in the flow table, and returns.
    Lookup {
        /// Of IPv6 packets.
        v6: bool,
    },
}

/// The driver for a packet, with what it calls.
#[derive(Debug)]
pub struct Driver {
    program: OwnedFd,
    _state: OwnedFd,
    _programs: OwnedFd,
    _called: Option<OwnedFd>,
    frame: Vec<u8>,
    context: Vec<u8>,
}

impl Rig {
    /// The maps that the programs have, by their numbers.
    pub fn map_ids(&self) -> Result<BTreeSet<u32>> {
        let mut all = BTreeSet::new();
        for (_, program) in self.ebpf.programs() {
            if let Ok(info) = program.info() {
                all.extend(info.map_ids()?.context("the kernel names no maps")?);
            }
        }
        Ok(all)
    }

    /// A driver that sends this frame by an interface as the packets of flows, one
    /// after the other.
    pub fn driver(
        &self,
        prog: Prog,
        ifindex: u32,
        frame: &[u8],
        vary: Option<Vary>,
        under: Under,
    ) -> Driver {
        let xdp = prog == Prog::Xdp;
        let called = match under {
            Under::Test => None,
            Under::Nothing => Some(load(xdp, &pass(xdp))),
            Under::Lookup { v6 } => Some(load(xdp, &self.lookup(xdp, v6))),
        };
        let target = match (&called, self.ebpf.program(prog.name())) {
            (Some(called), _) => called.as_fd(),
            (None, Some(Program::SchedClassifier(tc))) => tc.fd().expect("it is loaded").as_fd(),
            (None, Some(Program::Xdp(xdp))) => xdp.fd().expect("it is loaded").as_fd(),
            (None, other) => panic!("{}: {:?}", prog.name(), other.map(Program::prog_type)),
        };
        let programs = bpf::create_map(PROG_ARRAY, 4, 4, 1).expect("an array of programs");
        let state = bpf::create_map(ARRAY, 4, 8, 1).expect("an array");
        let driver = load(xdp, &driver(xdp, frame, vary, state.as_fd(), programs.as_fd()));
        bpf::set_element(&programs, 0, &target.as_raw_fd().to_ne_bytes())
            .expect("the program can be called");
        let context = if xdp {
            context::xdp_md(ifindex, frame.len())
        } else {
            context::sk_buff(ifindex, context::Context::default())
        };
        Driver {
            program: driver,
            _state: state,
            _programs: programs,
            _called: called,
            frame: frame.to_vec(),
            context,
        }
    }

    /// Looks the packet's tuple up in the flow table, as a key of it.
    fn lookup(&self, xdp: bool, v6: bool) -> Vec<u64> {
        let name = if v6 { lb_common::names::MAP_FLOWS_V6 } else { lb_common::names::MAP_FLOWS_V4 };
        let aya::maps::Map::LruHashMap(map) = self.map(name) else { panic!("{name} is no table") };
        let map = map.fd().as_fd().as_raw_fd();
        // Both addresses, behind each other; then the ports.
        let (addresses, length) = if v6 { (14 + 8, 32) } else { (14 + 12, 8) };
        let key: i16 = length + 8;
        let mut code = packet(xdp).to_vec();
        let mut body = Vec::new();
        for word in (0..length).step_by(4) {
            body.push(instruction(LOAD_WORD, 4, 2, addresses + word, 0));
            body.push(instruction(STORE_WORD, 10, 4, word - key, 0));
        }
        body.push(instruction(LOAD_WORD, 4, 2, addresses + length, 0));
        body.push(instruction(STORE_WORD, 10, 4, length - key, 0));
        // Protocol TCP and direction, as ingress has it.
        let last = i32::from_ne_bytes([6, lb_common::Direction::Ingress as u8, 0, 0]);
        body.push(instruction(STORE_WORD_IMM, 10, 0, length + 4 - key, last));
        body.push(instruction(LOAD_IMM, 1, MAP, 0, map));
        body.push(0);
        body.push(instruction(MOV_REG, 2, 10, 0, 0));
        body.push(instruction(ADD_IMM, 2, 0, 0, -i32::from(key)));
        body.push(instruction(CALL, 0, 0, 0, LOOKUP));
        // What is not there ends the packet.
        body.push(instruction(JUMP_NOT_EQUAL_IMM, 0, 0, 2, 0));
        body.push(instruction(MOV_IMM, 0, 0, 0, MISS));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        let needed = i32::from(addresses + length + 4);
        code.extend(within(needed, body.len()));
        code.extend(body);
        code.extend(pass(xdp));
        code
    }
}

impl Driver {
    /// Nanoseconds of a packet, the driver's part included, over so many; and the
    /// last one's action.
    pub fn run(&self, packets: u32) -> (u32, u32) {
        bpf::repeat(&self.program, &self.frame, &self.context, packets).expect("a test run")
    }
}

fn load(xdp: bool, code: &[u64]) -> OwnedFd {
    let (kind, attach) = if xdp { (XDP, ATTACH_XDP) } else { (SCHED_CLS, 0) };
    bpf::load(kind, attach, 0, code).expect("a sound program")
}

/// `r0` is what lets the packet go on; exit.
fn pass(xdp: bool) -> [u64; 2] {
    let action = if xdp { 2 } else { 0 };
    [instruction(MOV_IMM, 0, 0, 0, action), instruction(EXIT, 0, 0, 0, 0)]
}

/// `r2` and `r3` are where the packet begins and ends.
pub(crate) fn packet(xdp: bool) -> [u64; 2] {
    let (data, end) = if xdp { (0, 4) } else { (76, 80) };
    [instruction(LOAD_WORD, 2, 1, data, 0), instruction(LOAD_WORD, 3, 1, end, 0)]
}

/// Writes a frame to where `r2` points.
pub(crate) fn write(frame: &[u8]) -> Vec<u64> {
    let at = |offset: usize| i16::try_from(offset).expect("a short frame");
    let mut code = Vec::new();
    let words = frame.chunks_exact(4);
    for (byte, offset) in words.remainder().iter().zip(frame.len() & !3..) {
        code.push(instruction(STORE_BYTE_IMM, 2, 0, at(offset), i32::from(*byte)));
    }
    for (word, number) in words.zip(0..) {
        let word = i32::from_ne_bytes(word.try_into().expect("four bytes"));
        code.push(instruction(STORE_WORD_IMM, 2, 0, at(number * 4), word));
    }
    code
}

/// Skips so many instructions where the packet is shorter than needed.
pub(crate) fn within(needed: i32, skip: usize) -> [u64; 3] {
    let skip = i16::try_from(skip).expect("a short program");
    [
        instruction(MOV_REG, 4, 2, 0, 0),
        instruction(ADD_IMM, 4, 0, 0, needed),
        instruction(JUMP_GREATER, 4, 3, skip, 0),
    ]
}

fn driver(
    xdp: bool,
    frame: &[u8],
    vary: Option<Vary>,
    state: BorrowedFd<'_>,
    programs: BorrowedFd<'_>,
) -> Vec<u64> {
    let at = |offset: usize| i16::try_from(offset).expect("a short frame");
    let mut body = write(frame);
    if let Some(Vary { port, address, flows }) = vary {
        let mask = i32::try_from(flows - 1).expect("at most 2^24");
        body.extend([
            instruction(LOAD_IMM, 7, MAP_VALUE, 0, state.as_raw_fd()),
            0,
            instruction(LOAD_DOUBLE, 5, 7, 0, 0),
            instruction(MOV_REG, 4, 5, 0, 0),
            instruction(ADD_IMM, 4, 0, 0, 1),
            instruction(STORE_DOUBLE, 7, 4, 0, 0),
            instruction(AND_IMM, 5, 0, 0, mask),
            instruction(LOAD_HALF, 4, 2, at(port), 0),
            instruction(XOR_REG, 4, 5, 0, 0),
            instruction(STORE_HALF, 2, 4, at(port), 0),
            instruction(SHIFT_RIGHT_IMM, 5, 0, 0, 16),
            instruction(LOAD_BYTE, 4, 2, at(address), 0),
            instruction(XOR_REG, 4, 5, 0, 0),
            instruction(STORE_BYTE, 2, 4, at(address), 0),
        ]);
    }
    body.extend([
        instruction(MOV_REG, 1, 6, 0, 0),
        instruction(LOAD_IMM, 2, MAP, 0, programs.as_raw_fd()),
        0,
        instruction(MOV_IMM, 3, 0, 0, 0),
        instruction(CALL, 0, 0, 0, TAIL_CALL),
    ]);
    let needed = i32::try_from(frame.len()).expect("a short frame");
    let mut code = vec![instruction(MOV_REG, 6, 1, 0, 0)];
    code.extend(packet(xdp));
    code.extend(within(needed, body.len()));
    code.extend(body);
    code.extend(pass(xdp));
    code
}
