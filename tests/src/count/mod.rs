//! What a packet costs a program, counted: the instructions on its way, and what they
//! ask of maps and helpers. Unlike nanoseconds this is the same on every machine.
//!
//! The kernel tells no such thing, so a machine of our own goes through the object's
//! instructions, with the maps of a rig as they are. That it goes the right way is
//! checked by running the kernel's program on the same packet.

pub mod budget;
mod kernel;
mod machine;
mod memory;

use crate::prog::{Prog, Rig};
use anyhow::{Context as _, Result};
use aya::maps::{MapInfo, MapType};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use kernel::{Edges, Kernel, Map, Maps};
use lb_userspace::object::OBJECT;
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

/// What a packet costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions of the program.
    pub instructions: u64,
    /// Look-ups by a hash or by a prefix.
    pub lookups: u64,
    /// Elements of arrays.
    pub elements: u64,
    /// Rows made, replaced or deleted.
    pub changes: u64,
    /// Calls of other helpers.
    pub helpers: u64,
}

impl Counts {
    /// What [`fmt::Display`] shows, as a line above.
    pub const NAMES: &str = "instructions   hashed elements  changes    calls";
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instructions, lookups, elements, changes, helpers } = self;
        write!(f, "{instructions:>12} {lookups:>8} {elements:>8} {changes:>8} {helpers:>8}")
    }
}

/// The programs of a rig, to be counted.
#[derive(Debug)]
pub struct Counter {
    programs: BTreeMap<&'static str, Vec<bpf_insn>>,
    maps: Maps,
    /// Keeps the descriptors that instructions and maps go by.
    _open: Vec<aya::maps::MapFd>,
}

/// How a packet went.
#[derive(Debug)]
pub struct Way {
    /// What it cost.
    pub counts: Counts,
    /// What the program returned.
    pub action: u32,
    /// What became of the packet, but for its checksums.
    pub frame: Vec<u8>,
}

impl Counter {
    /// Takes the object's instructions and the rig's maps.
    pub fn new(rig: &Rig) -> Result<Self> {
        let mut object = Object::parse(OBJECT).context("parse the BPF object")?;
        let mut open = Vec::new();
        let (mut maps, mut by_name) = (Maps::new(), BTreeMap::new());
        for id in rig.map_ids()? {
            let info = MapInfo::from_id(id)?;
            let fd = info.fd()?;
            let number = fd.as_fd().as_raw_fd();
            maps.insert(u64::try_from(number)?, described(&info)?);
            by_name.insert(info.name_as_str().context("a map without a name")?.to_owned(), number);
            open.push(fd);
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let fd = |name: &str| -> RawFd { by_name.get(name).copied().unwrap_or(-1) };
        let all = object.maps.clone();
        object
            .relocate_maps(all.iter().map(|(name, map)| (name.as_str(), fd(name), map)), &text)
            .context("name the maps")?;
        object.relocate_calls(&text).context("link the functions")?;
        let mut programs = BTreeMap::new();
        for prog in Prog::ALL {
            let program = object.programs.get(prog.name()).context("no such program")?;
            let linked = object.functions.get(&program.function_key());
            let linked = linked.with_context(|| format!("{} is empty", prog.name()))?;
            programs.insert(prog.name(), linked.instructions.clone());
        }
        Ok(Self { programs, maps, _open: open })
    }

    /// Counts a packet that enters or leaves by an interface. Where it asks for a
    /// route, that leads out by the same.
    pub fn count(&self, prog: Prog, ifindex: u32, frame: &[u8]) -> Result<Way> {
        let program = self.programs.get(prog.name()).context("no such program")?;
        let mut kernel = Kernel::new(self.maps.clone(), ifindex);
        let (context, edges) = if prog == Prog::Xdp {
            (crate::prog::context::xdp_md(ifindex, frame.len()), Edges { begin: 0, end: 4 })
        } else {
            (crate::prog::context::received(ifindex, frame), Edges { begin: 76, end: 80 })
        };
        let context = kernel.enter(frame, context, edges);
        let (action, instructions) = machine::run(program, context, &mut kernel)
            .with_context(|| format!("{} on {} bytes", prog.name(), frame.len()))?;
        let counts = Counts { instructions, ..kernel.counts };
        let action = u32::try_from(action & 0xffff_ffff)?;
        Ok(Way { counts, action, frame: kernel.packet()?.to_vec() })
    }
}

fn described(info: &MapInfo) -> Result<Map> {
    let kind = info.map_type()?;
    let value = usize::try_from(info.value_size())?;
    let hashed = matches!(kind, MapType::Hash | MapType::LruHash | MapType::LpmTrie);
    let copied = if kind == MapType::PerCpuArray {
        value.next_multiple_of(8) * aya::util::nr_cpus().map_err(|(_, error)| error)?
    } else {
        value
    };
    Ok(Map { key: usize::try_from(info.key_size())?, copied, value, hashed })
}
