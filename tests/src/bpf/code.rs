//! Codes of instructions, by their names in linux/bpf.h, for programs that are
//! written by hand.

pub(crate) const MOV_IMM: u8 = 0xb7;
pub(crate) const MOV_REG: u8 = 0xbf;
pub(crate) const ADD_IMM: u8 = 0x07;
pub(crate) const AND_IMM: u8 = 0x57;
pub(crate) const MOD_IMM: u8 = 0x97;
pub(crate) const XOR_IMM: u8 = 0xa7;
pub(crate) const XOR_REG: u8 = 0xaf;
pub(crate) const SHIFT_RIGHT_IMM: u8 = 0x77;
pub(crate) const TO_BIG_ENDIAN: u8 = 0xdc;
pub(crate) const LOAD_BYTE: u8 = 0x71;
pub(crate) const LOAD_HALF: u8 = 0x69;
pub(crate) const LOAD_WORD: u8 = 0x61;
pub(crate) const LOAD_DOUBLE: u8 = 0x79;
pub(crate) const STORE_BYTE_IMM: u8 = 0x72;
pub(crate) const STORE_WORD_IMM: u8 = 0x62;
pub(crate) const STORE_BYTE: u8 = 0x73;
pub(crate) const STORE_HALF: u8 = 0x6b;
pub(crate) const STORE_WORD: u8 = 0x63;
pub(crate) const STORE_DOUBLE: u8 = 0x7b;
pub(crate) const LOAD_IMM: u8 = 0x18;
pub(crate) const JUMP_EQUAL_IMM: u8 = 0x15;
pub(crate) const JUMP_GREATER: u8 = 0x2d;
pub(crate) const JUMP_NOT_EQUAL_IMM: u8 = 0x55;
pub(crate) const CALL: u8 = 0x85;
pub(crate) const EXIT: u8 = 0x95;
/// As source of [`LOAD_IMM`]: the immediate is a map's descriptor.
pub(crate) const MAP: u8 = 1;
/// Likewise: what is loaded is the address of the map's value.
pub(crate) const MAP_VALUE: u8 = 2;
