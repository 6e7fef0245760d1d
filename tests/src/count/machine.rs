//! Instructions, one after the other (RFC 9669).

use super::kernel::Kernel;
use anyhow::{Context as _, Result, bail, ensure};
use aya_obj::generated::bpf_insn;

/// What a function has as stack.
const STACK: usize = 512;
/// No way is longer, so one that is has no end.
const MOST: u64 = 1 << 20;
/// Registers that a function hands back as it found them.
const KEPT: std::ops::RangeInclusive<usize> = 6..=10;
const FRAME_POINTER: usize = 10;

/// Bit of an atomic operation that gives what was there before.
const FETCH: i32 = 1;

/// `src_reg` of calls to functions of the program.
const PSEUDO_CALL: u8 = 1;
/// `src_reg` of a load of a map's address, and of an address within its value.
const PSEUDO_MAP: u8 = 1;
const PSEUDO_VALUE: u8 = 2;

/// Runs a program from its first instruction; what it returns, and how many
/// instructions that took.
pub(super) fn run(program: &[bpf_insn], context: u64, kernel: &mut Kernel) -> Result<(u64, u64)> {
    let mut registers = [0_u64; 11];
    registers[1] = context;
    registers[FRAME_POINTER] = frame(kernel);
    let mut callers: Vec<(usize, [u64; 11])> = Vec::new();
    let (mut at, mut count) = (0_usize, 0);
    loop {
        let instruction = *program.get(at).context("behind the program")?;
        count += 1;
        ensure!(count < MOST, "the program does not end");
        let place = at;
        at += 1;
        let (class, code) = (instruction.code & 0x07, instruction.code);
        let jump =
            |at: usize, by: i64| -> Result<usize> { Ok(usize::try_from(i64::try_from(at)? + by)?) };
        let step = || format!("instruction {place}, code {code:#04x}");
        match (class, code) {
            (0, 0x18) => {
                let second = *program.get(at).context("half an instruction")?;
                registers[to(instruction)] =
                    wide(instruction, second, kernel).with_context(step)?;
                at += 1;
            }
            (1..=3, _) => memory(instruction, &mut registers, kernel).with_context(step)?,
            (4 | 7, _) => arithmetic(instruction, &mut registers).with_context(step)?,
            (5, 0x85) if instruction.src_reg() == PSEUDO_CALL => {
                callers.push((at, registers));
                at = jump(at, i64::from(instruction.imm))?;
                registers[FRAME_POINTER] = frame(kernel);
            }
            (5, 0x85) => {
                let arguments = [1, 2, 3, 4, 5].map(|register| registers[register]);
                registers[0] = kernel.call(instruction.imm, arguments).with_context(step)?;
            }
            (5, 0x95) => match callers.pop() {
                Some((back, kept)) => {
                    at = back;
                    registers[KEPT].copy_from_slice(&kept[KEPT]);
                }
                None => return Ok((registers[0], count)),
            },
            (5, 0x05) => at = jump(at, i64::from(instruction.off))?,
            (6, 0x06) => at = jump(at, i64::from(instruction.imm))?,
            (5 | 6, _) => {
                if holds(instruction, &registers).with_context(step)? {
                    at = jump(at, i64::from(instruction.off))?;
                }
            }
            _ => bail!("{}: unknown", step()),
        }
    }
}

fn frame(kernel: &mut Kernel) -> u64 {
    kernel.memory.add(vec![0; STACK]) + STACK as u64
}

fn to(instruction: bpf_insn) -> usize {
    usize::from(instruction.dst_reg())
}

fn from(instruction: bpf_insn) -> usize {
    usize::from(instruction.src_reg())
}

/// The immediate, its sign extended.
fn immediate(instruction: bpf_insn) -> u64 {
    i64::from(instruction.imm).cast_unsigned()
}

/// What a load of 64 bits gives.
fn wide(first: bpf_insn, second: bpf_insn, kernel: &mut Kernel) -> Result<u64> {
    let low = u64::from(first.imm.cast_unsigned());
    match first.src_reg() {
        0 => Ok(low | u64::from(second.imm.cast_unsigned()) << 32),
        PSEUDO_MAP => Ok(low),
        PSEUDO_VALUE => Ok(kernel.value(low)? + u64::from(second.imm.cast_unsigned())),
        other => bail!("a load of kind {other}"),
    }
}

/// Loads, stores and atomic operations.
fn memory(instruction: bpf_insn, registers: &mut [u64; 11], kernel: &mut Kernel) -> Result<()> {
    let length = match instruction.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    };
    let offset = i64::from(instruction.off).cast_unsigned();
    let (class, mode) = (instruction.code & 0x07, instruction.code & 0xe0);
    let (to, from) = (to(instruction), from(instruction));
    if class == 1 {
        ensure!(mode == 0x60, "a load of mode {mode:#x}");
        registers[to] = kernel.load(registers[from].wrapping_add(offset), length)?;
        return Ok(());
    }
    let address = registers[to].wrapping_add(offset);
    if class == 2 {
        return kernel.memory.store(address, length, immediate(instruction));
    }
    if mode == 0x60 {
        return kernel.memory.store(address, length, registers[from]);
    }
    ensure!(mode == 0xc0, "a store of mode {mode:#x}");
    let (old, operand) = (kernel.memory.load(address, length)?, registers[from]);
    let operand = if length == 4 { operand & 0xffff_ffff } else { operand };
    let new = match instruction.imm & !FETCH {
        0x00 => old.wrapping_add(operand),
        0x40 => old | operand,
        0x50 => old & operand,
        0xa0 => old ^ operand,
        0xe0 => operand,
        0xf0 if old == registers[0] => operand,
        0xf0 => old,
        other => bail!("an atomic operation {other:#x}"),
    };
    kernel.memory.store(address, length, new)?;
    if instruction.imm & !FETCH == 0xf0 {
        registers[0] = old;
    } else if instruction.imm & FETCH != 0 {
        registers[from] = old;
    }
    Ok(())
}

fn arithmetic(instruction: bpf_insn, registers: &mut [u64; 11]) -> Result<()> {
    let (code, to) = (instruction.code, to(instruction));
    let is_wide = code & 0x07 == 7;
    if code & 0xf0 == 0xd0 {
        registers[to] = swapped(instruction, registers[to])?;
        return Ok(());
    }
    let by_register = code & 0x08 != 0;
    let mut operand =
        if by_register { registers[from(instruction)] } else { immediate(instruction) };
    let mut value = registers[to];
    if code & 0xf0 == 0xb0 && by_register && instruction.off != 0 {
        operand = sign_extended(operand, u32::try_from(instruction.off)?);
    }
    ensure!(code & 0xf0 == 0xb0 || instruction.off == 0, "a signed operation");
    if !is_wide {
        (value, operand) = (value & 0xffff_ffff, operand & 0xffff_ffff);
    }
    let bits: u32 = if is_wide { 64 } else { 32 };
    let shift = u32::try_from(operand & u64::from(bits - 1))?;
    let result = match code & 0xf0 {
        0x00 => value.wrapping_add(operand),
        0x10 => value.wrapping_sub(operand),
        0x20 => value.wrapping_mul(operand),
        0x30 => value.checked_div(operand).unwrap_or(0),
        0x40 => value | operand,
        0x50 => value & operand,
        0x60 => value << shift,
        0x70 => value >> shift,
        0x80 => value.wrapping_neg(),
        0x90 => value.checked_rem(operand).unwrap_or(value),
        0xa0 => value ^ operand,
        0xb0 => operand,
        0xc0 => (sign_extended(value, bits).cast_signed() >> shift).cast_unsigned(),
        _ => bail!("unknown"),
    };
    registers[to] = if is_wide { result } else { result & 0xffff_ffff };
    Ok(())
}

/// The low bits of a number, as a signed one.
fn sign_extended(value: u64, bits: u32) -> u64 {
    ((value << (64 - bits)).cast_signed() >> (64 - bits)).cast_unsigned()
}

/// A change of the order of bytes. The machine's own is little endian.
fn swapped(instruction: bpf_insn, value: u64) -> Result<u64> {
    let swaps = instruction.code & 0x07 == 7 || instruction.code & 0x08 != 0;
    Ok(match instruction.imm {
        16 if swaps => value.swap_bytes() >> 48,
        32 if swaps => value.swap_bytes() >> 32,
        64 if swaps => value.swap_bytes(),
        16 => value & 0xffff,
        32 => value & 0xffff_ffff,
        64 => value,
        other => bail!("bytes of {other} bits"),
    })
}

/// Whether a jump is taken.
fn holds(instruction: bpf_insn, registers: &[u64; 11]) -> Result<bool> {
    let code = instruction.code;
    let mut left = registers[to(instruction)];
    let mut right =
        if code & 0x08 != 0 { registers[from(instruction)] } else { immediate(instruction) };
    let bits = if code & 0x07 == 5 { 64 } else { 32 };
    if bits == 32 {
        (left, right) = (left & 0xffff_ffff, right & 0xffff_ffff);
    }
    let [signed_left, signed_right] =
        [left, right].map(|value| sign_extended(value, bits).cast_signed());
    Ok(match code & 0xf0 {
        0x10 => left == right,
        0x20 => left > right,
        0x30 => left >= right,
        0x40 => left & right != 0,
        0x50 => left != right,
        0x60 => signed_left > signed_right,
        0x70 => signed_left >= signed_right,
        0xa0 => left < right,
        0xb0 => left <= right,
        0xc0 => signed_left < signed_right,
        0xd0 => signed_left <= signed_right,
        _ => bail!("unknown"),
    })
}
