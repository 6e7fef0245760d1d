//! How much stack the programs need on kernels that count strictly.
//!
//! The kernel gives a program 512 bytes for its longest chain of calls. In older
//! ones (6.1, but no longer 6.12) each function of the chain counts as a
//! multiple of 32 bytes, and as 32 at least. The kernel that runs here may be
//! more generous, so the object itself is looked at.

use anyhow::{Context as _, Result, ensure};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use lb_userspace::object::OBJECT;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// What the kernel gives.
pub const LIMIT: usize = 512;

/// What every function counts a multiple of.
const UNIT: usize = 32;

const FRAME_POINTER: u8 = 10;
/// `BPF_MOV | BPF_X` of 64 bits.
const COPY: u8 = 0xbf;
/// `BPF_ADD | BPF_K` of 64 bits.
const ADD: u8 = 0x07;
/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `src_reg` of calls to functions of the program.
const PSEUDO_CALL: u8 = 1;

/// The stack that each program's longest chain of calls needs.
pub fn depths() -> Result<BTreeMap<String, usize>> {
    let mut object = Object::parse(OBJECT).context("parse the BPF object")?;
    let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    // Puts behind each program the functions that it calls.
    object.relocate_calls(&sections).context("link the functions")?;
    let mut depths = BTreeMap::new();
    for (name, program) in &object.programs {
        let linked = object.functions.get(&program.function_key());
        let linked = linked.with_context(|| format!("{name} has no instructions"))?;
        depths.insert(name.clone(), chain(&functions(&linked.instructions)?, 0)?);
    }
    Ok(depths)
}

/// A function: what it needs itself, and where those begin that it calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Function {
    stack: usize,
    calls: BTreeSet<usize>,
}

/// The functions of a program, by where they begin.
fn functions(instructions: &[bpf_insn]) -> Result<BTreeMap<usize, Function>> {
    let callee = |(index, instruction): (usize, &bpf_insn)| {
        let target = i64::try_from(index).ok()? + 1 + i64::from(instruction.imm);
        let is_call = instruction.code == CALL && instruction.src_reg() == PSEUDO_CALL;
        usize::try_from(target).ok().filter(|_| is_call)
    };
    let starts: BTreeSet<usize> =
        instructions.iter().enumerate().filter_map(callee).chain([0]).collect();
    let ends = starts.iter().skip(1).copied().chain([instructions.len()]);
    let mut functions = BTreeMap::new();
    for (start, end) in starts.iter().copied().zip(ends) {
        let body = instructions.get(start..end).context("a call to behind the program")?;
        let calls = (start..end).zip(body).filter_map(callee).collect();
        functions.insert(start, Function { stack: stack(body), calls });
    }
    Ok(functions)
}

/// How far below the frame pointer a function reads, writes or points.
fn stack(body: &[bpf_insn]) -> usize {
    let mut copies = BTreeSet::from([FRAME_POINTER]);
    let mut deepest = 0;
    for instruction in body {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        // Loads address by the source; stores, with and without a register, by the target.
        let offset = match instruction.code & 0x07 {
            1 if from == FRAME_POINTER => i32::from(instruction.off),
            2 | 3 if to == FRAME_POINTER => i32::from(instruction.off),
            7 if instruction.code == ADD && copies.contains(&to) => instruction.imm,
            _ => 0,
        };
        deepest = deepest.max(usize::try_from(-offset).unwrap_or(0));
        if instruction.code == COPY && from == FRAME_POINTER {
            copies.insert(to);
        } else if matches!(instruction.code & 0x07, 0 | 1 | 4 | 7) && to != FRAME_POINTER {
            copies.remove(&to);
        }
    }
    deepest
}

/// What the function at `start` and the deepest of those that it calls need.
fn chain(functions: &BTreeMap<usize, Function>, start: usize) -> Result<usize> {
    let function = functions.get(&start).context("a call to no function")?;
    let mut deepest = 0;
    for callee in &function.calls {
        ensure!(*callee != start, "a function calls itself");
        deepest = deepest.max(chain(functions, *callee)?);
    }
    Ok(function.stack.max(1).next_multiple_of(UNIT) + deepest)
}

#[cfg(test)]
mod tests {
    use super::{ADD, CALL, COPY, PSEUDO_CALL, chain, functions, stack};
    use aya_obj::generated::bpf_insn;

    fn instruction(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
        bpf_insn {
            code,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(to, from),
            off,
            imm,
        }
    }

    #[test]
    fn the_stack_is_what_is_stored_and_what_is_pointed_at() {
        let store = instruction(0x7b, 10, 1, -24, 0);
        let copy = instruction(COPY, 2, 10, 0, 0);
        let point = instruction(ADD, 2, 0, 0, -40);
        let other = instruction(ADD, 3, 0, 0, -400);
        assert_eq!(stack(&[store]), 24);
        assert_eq!(stack(&[store, copy, point, other]), 40);
        assert_eq!(stack(&[point]), 0, "no pointer to the stack");
    }

    #[test]
    fn a_chain_of_calls_counts_each_function_by_itself() -> anyhow::Result<()> {
        let call = instruction(CALL, 0, PSEUDO_CALL, 0, 1);
        let exit = instruction(0x95, 0, 0, 0, 0);
        let store = instruction(0x7b, 10, 1, -40, 0);
        let program = functions(&[call, exit, store, exit])?;
        assert_eq!(chain(&program, 0)?, 32 + 64);
        Ok(())
    }
}
