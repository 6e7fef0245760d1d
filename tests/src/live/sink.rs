//! Where frames end: an XDP program that counts them.

use super::{
    ARRAY, DESTINATION, DESTINATION_PORT, DROP, ETHERTYPE, LENGTH, PASS, SOURCE, SOURCE_PORT,
};
use crate::bpf::code::{
    ADD_IMM, AND_IMM, CALL, EXIT, JUMP_EQUAL_IMM, JUMP_NOT_EQUAL_IMM, LOAD_DOUBLE, LOAD_HALF,
    LOAD_IMM, LOAD_WORD, MAP_VALUE, MOV_IMM, STORE_DOUBLE, STORE_HALF, STORE_WORD,
};
use crate::bpf::{self, instruction};
use crate::prog::cost;
use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

/// `BPF_FUNC_redirect`.
const REDIRECT: i32 = 23;
/// `ETH_P_IP`, in the order of bytes in which a program loads it.
const IPV4: i32 = u16::from_ne_bytes([8, 0]) as i32;

/// What is done with a frame that is for the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is counted.
    Count,
    /// It goes back to who sent it, from whom it was for.
    Answer,
    /// It goes on, for sockets to see.
    Show,
}

/// How many frames came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// For the network.
    pub forward: u64,
    /// All other IPv4 packets: what clients are answered.
    pub back: u64,
}

/// The program on an interface; it goes away with this value.
#[derive(Debug)]
pub struct Sink {
    state: OwnedFd,
    _link: OwnedFd,
}

impl Sink {
    /// Takes all frames of an interface of the calling thread's namespace, and counts
    /// those for a network apart, of which these are the first three bytes.
    pub fn attach(interface: &str, network: [u8; 3]) -> Result<Self> {
        let state = bpf::create_map(ARRAY, 4, 24, 1)?;
        let index =
            if_nametoindex(interface).with_context(|| format!("find the interface {interface}"))?;
        let code = code(state.as_raw_fd(), i32::try_from(index)?, network);
        let program = bpf::load(bpf::XDP, 0, 0, &code)?;
        Ok(Self { state, _link: bpf::attach_xdp(&program, interface)? })
    }

    /// Sets what it does, and begins to count anew.
    pub fn set(&self, role: Role) -> Result<()> {
        let role = role as u64;
        bpf::set_element(&self.state, 0, &[role.to_ne_bytes(), [0; 8], [0; 8]].concat())
    }

    /// What came since then.
    pub fn seen(&self) -> Result<Seen> {
        let mut value = [[0; 8]; 3];
        bpf::get_element(self.state.as_raw_fd(), &[0; 4], value.as_flattened_mut())?;
        let [_, forward, back] = value.map(u64::from_ne_bytes);
        Ok(Seen { forward, back })
    }
}

fn code(state: RawFd, interface: i32, [a, b, c]: [u8; 3]) -> Vec<u64> {
    // A jump over so many instructions, of at most some dozens.
    let skip = |jump: u64, count: usize| jump | (count as u64) << 16;
    let end = |action| [instruction(MOV_IMM, 0, 0, 0, action), instruction(EXIT, 0, 0, 0, 0)];
    // Frames of one interface come one after the other.
    let count = |place: i16| {
        [
            instruction(LOAD_DOUBLE, 4, 7, 8 * place, 0),
            instruction(ADD_IMM, 4, 0, 0, 1),
            instruction(STORE_DOUBLE, 7, 4, 8 * place, 0),
        ]
    };
    let swap = |(load, store), one: i16, other: i16| {
        [
            instruction(load, 4, 2, one, 0),
            instruction(load, 5, 2, other, 0),
            instruction(store, 2, 4, other, 0),
            instruction(store, 2, 5, one, 0),
        ]
    };
    let (half, word) = ((LOAD_HALF, STORE_HALF), (LOAD_WORD, STORE_WORD));
    // Neither of both checksums changes when words change places.
    let answer = [
        swap(half, 0, 6),
        swap(half, 2, 8),
        swap(half, 4, 10),
        swap(word, SOURCE, DESTINATION),
        swap(half, SOURCE_PORT, DESTINATION_PORT),
    ];
    // Redirected: what is transmitted, a veth takes only with an XDP program of its own.
    let redirect = [
        instruction(MOV_IMM, 1, 0, 0, interface),
        instruction(MOV_IMM, 2, 0, 0, 0),
        instruction(CALL, 0, 0, 0, REDIRECT),
        instruction(EXIT, 0, 0, 0, 0),
    ];
    let answer = [answer.as_flattened(), &redirect].concat();
    // From the end, so that each jump knows how far it is.
    let forward = [
        count(1).as_slice(),
        &[
            instruction(LOAD_DOUBLE, 4, 7, 0, 0),
            skip(instruction(JUMP_NOT_EQUAL_IMM, 4, 0, 0, Role::Answer as i32), answer.len()),
        ],
        &answer,
        &[skip(instruction(JUMP_NOT_EQUAL_IMM, 4, 0, 0, Role::Show as i32), 2)],
        &end(PASS),
    ]
    .concat();
    let back = [count(2).as_slice(), &end(DROP)].concat();
    let packet = [
        &[
            instruction(LOAD_IMM, 7, MAP_VALUE, 0, state),
            0,
            instruction(LOAD_WORD, 4, 2, DESTINATION, 0),
            instruction(AND_IMM, 4, 0, 0, i32::from_ne_bytes([0xff, 0xff, 0xff, 0])),
            skip(
                instruction(JUMP_EQUAL_IMM, 4, 0, 0, i32::from_ne_bytes([a, b, c, 0])),
                back.len(),
            ),
        ],
        back.as_slice(),
        &forward,
    ]
    .concat();
    let body = [
        &[
            instruction(LOAD_HALF, 4, 2, ETHERTYPE, 0),
            skip(instruction(JUMP_NOT_EQUAL_IMM, 4, 0, 0, IPV4), packet.len()),
        ],
        packet.as_slice(),
    ]
    .concat();
    let begin = cost::within(LENGTH, body.len());
    [cost::packet(true).as_slice(), &begin, &body, &end(DROP)].concat()
}
