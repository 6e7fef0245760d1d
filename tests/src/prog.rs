//! Runs the BPF programs on single packets by `BPF_PROG_TEST_RUN`, with maps
//! filled as the agent fills them, and reads back what they did.
//!
//! Programs, maps and interfaces are loaded once a test binary; a test takes
//! them for itself with [`Rig::take`] and finds them empty.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::wildcard_enum_match_arm,
    reason = "test support: what goes wrong here must end the test"
)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use aya::maps::{Map, PerCpuArray};
use aya::programs::{Program, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use lb_common::names::option;
use lb_common::{Hook, Verdict, limits, names, verdict};
use lb_userspace::dataplane::PinDir;
use lb_userspace::object::OBJECT;
use nix::sched::{CloneFlags, setns};

use crate::privilege::root_or_skip;
use crate::process;

mod case;
pub mod context;
pub mod cost;
mod datagrams;
mod family;
mod flows;
pub mod net;
pub mod paths;
mod race;
mod random;
mod rows;
mod tap;
mod weigh;

pub use case::{Case, Step};
use context::Context;
pub use family::Family;
pub use random::Random;
pub use rows::{Installed, ServiceSpec};
pub use tap::Tap;

/// The source ports that translation may use in [`Rig::take`]'s rig.
pub const SNAT_PORTS: RangeInclusive<u16> = 40_000..=40_999;
/// Likewise in [`Rig::take_scarce`]'s rig: few enough to run out of.
pub const SCARCE_PORTS: RangeInclusive<u16> = 50_000..=50_003;

/// Actions of programs, as numbers of the kernel's interface.
pub mod action {
    /// `TC_ACT_UNSPEC` and `TC_ACT_OK`: the packet goes on.
    pub const TC_PASS: [u32; 2] = [u32::MAX, 0];
    /// `TC_ACT_SHOT`.
    pub const TC_DROP: u32 = 2;
    /// `TC_ACT_REDIRECT`: here or, past the stack, into a pod's namespace.
    pub const TC_REDIRECT: u32 = 7;
    /// `XDP_DROP`.
    pub const XDP_DROP: u32 = 1;
    /// `XDP_PASS`.
    pub const XDP_PASS: u32 = 2;
    /// `XDP_TX`.
    pub const XDP_TX: u32 = 3;
    /// `XDP_REDIRECT`.
    pub const XDP_REDIRECT: u32 = 4;
}

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Prog {
    /// TC ingress, Ethernet.
    Ingress,
    /// TC egress, Ethernet.
    Egress,
    /// TC ingress, no MAC header.
    IngressL3,
    /// TC egress, no MAC header.
    EgressL3,
    /// XDP.
    Xdp,
}

impl Prog {
    /// Every program.
    pub const ALL: [Self; 5] =
        [Self::Ingress, Self::Egress, Self::IngressL3, Self::EgressL3, Self::Xdp];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => names::PROG_INGRESS,
            Self::Egress => names::PROG_EGRESS,
            Self::IngressL3 => names::PROG_INGRESS_L3,
            Self::EgressL3 => names::PROG_EGRESS_L3,
            Self::Xdp => names::PROG_XDP,
        }
    }

    /// Whose verdicts it counts.
    pub const fn hook(self) -> Hook {
        match self {
            Self::Ingress | Self::IngressL3 => Hook::Ingress,
            Self::Egress | Self::EgressL3 => Hook::Egress,
            Self::Xdp => Hook::Xdp,
        }
    }

    /// Whether the kernel runs it on this frame: a test run of a TC program
    /// wants a whole IP header where the EtherType announces one. XDP programs,
    /// which share the parser, run on all.
    pub fn runs_on(self, frame: &[u8]) -> bool {
        let behind = frame.len().saturating_sub(14);
        match frame.get(12..14) {
            None => false,
            Some(_) if self == Self::Xdp => true,
            Some([0x08, 0x00]) => behind >= 20,
            Some([0x86, 0xdd]) => behind >= 40,
            Some(_) => true,
        }
    }

    /// Whether its packets begin with a MAC header.
    pub const fn is_ethernet(self) -> bool {
        !matches!(self, Self::IngressL3 | Self::EgressL3)
    }
}

/// What a program did with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The action: see [`action`].
    pub action: u32,
    /// The one verdict that was counted.
    pub verdict: Verdict,
    /// The packet afterwards.
    pub frame: Vec<u8>,
}

impl Outcome {
    /// Whether the packet goes on to the stack (or out, at egress).
    pub fn passes(&self, prog: Prog) -> bool {
        match prog {
            Prog::Xdp => self.action == action::XDP_PASS,
            Prog::Ingress | Prog::Egress | Prog::IngressL3 | Prog::EgressL3 => {
                action::TC_PASS.contains(&self.action)
            }
        }
    }

    /// Whether the packet ends here.
    pub fn is_drop(&self, prog: Prog) -> bool {
        self.action == if prog == Prog::Xdp { action::XDP_DROP } else { action::TC_DROP }
    }
}

/// The loaded programs, their maps, and a network namespace with interfaces.
pub struct Rig {
    ebpf: Ebpf,
    netns: OwnedFd,
    /// Verdict counters when last read, by [`verdict::counter_index`].
    seen: Vec<u64>,
    next_service: u32,
    next_backend: u32,
    next_slot: u32,
    /// What the filter holds: only words that are not 0.
    filter: BTreeMap<u32, u64>,
}

type Shared = LazyLock<Mutex<Rig>>;
static PLENTY: Shared = LazyLock::new(|| Mutex::new(Rig::load(&SNAT_PORTS, option::ANSWER_ECHO)));
static SCARCE: Shared = LazyLock::new(|| Mutex::new(Rig::load(&SCARCE_PORTS, option::ANSWER_ECHO)));
static KUBE_PROXY: Shared = LazyLock::new(|| {
    let options = option::MASQUERADE_EXTERNAL | option::MASQUERADE_CLUSTER;
    Mutex::new(Rig::load(&SNAT_PORTS, options))
});
static BY_PREFIX: Shared = LazyLock::new(|| {
    let options = option::LOCAL_BY_PREFIX | option::REFUSE_NO_LOCAL;
    Mutex::new(Rig::load(&SNAT_PORTS, options))
});
static SKIPPING: Shared =
    LazyLock::new(|| Mutex::new(Rig::load(&SNAT_PORTS, option::ANSWER_ECHO | option::SKIP_STACK)));
static ROOMY: Shared = LazyLock::new(|| {
    let sizes = [(names::MAP_FLOWS_V4, ROOMY_FLOWS), (names::MAP_YOUNG_V4, ROOMY_FLOWS)];
    Mutex::new(Rig::load_sized(&SNAT_PORTS, 0, &sizes))
});
static VAST: Shared = LazyLock::new(|| {
    let maps = [names::MAP_FLOWS_V4, names::MAP_YOUNG_V4, names::MAP_FLOWS_V6, names::MAP_YOUNG_V6];
    Mutex::new(Rig::load_sized(&VAST_PORTS, 0, &maps.map(|map| (map, ROOMY_FLOWS))))
});
static CROWDED: Shared = LazyLock::new(|| {
    let sizes = [(names::MAP_YOUNG_V4, CROWD.into()), (names::MAP_YOUNG_V6, CROWD.into())];
    Mutex::new(Rig::load_sized(&SNAT_PORTS, option::ANSWER_ECHO, &sizes))
});
/// Rows for a few hundred thousand flows.
const ROOMY_FLOWS: u32 = 1 << 20;
/// A port for each of some ten thousand flows to one backend.
const VAST_PORTS: RangeInclusive<u16> = 10_000..=60_000;
/// How many flows may be young in [`Rig::take_crowded`].
pub const CROWD: u16 = 64;

impl Rig {
    /// The rig of this test binary, emptied, for one test at a time; none if
    /// the test can't run here. The calling thread enters the rig's network
    /// namespace and stays on one CPU, since round-robin counts per CPU.
    pub fn take() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&PLENTY))
    }

    /// Likewise a rig whose programs replace clients' addresses as kube-proxy
    /// does, telling local pods by interface.
    pub fn take_kube_proxy() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&KUBE_PROXY))
    }

    /// Likewise a rig whose programs refuse where the policy is Local and no
    /// backend is, and tell local pods by their address.
    pub fn take_by_prefix() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&BY_PREFIX))
    }

    /// Likewise a rig whose programs send packets past the stack.
    pub fn take_skipping() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&SKIPPING))
    }

    /// Likewise a rig with [`SCARCE_PORTS`].
    pub fn take_scarce() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&SCARCE))
    }

    /// Likewise a rig with room for hundreds of thousands of IPv4 flows.
    pub fn take_roomy() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&ROOMY))
    }

    /// Likewise a rig with room for hundreds of thousands of flows of either family,
    /// and ports for some ten thousand.
    pub fn take_vast() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&VAST))
    }

    /// Likewise a rig where no more than [`CROWD`] flows may be young.
    pub fn take_crowded() -> Option<MutexGuard<'static, Self>> {
        root_or_skip().then(|| Self::take_from(&CROWDED))
    }

    fn take_from(shared: &'static Shared) -> MutexGuard<'static, Self> {
        // A test that failed leaves nothing that the reset doesn't mend.
        let mut rig = shared.lock().unwrap_or_else(PoisonError::into_inner);
        rig.enter();
        rig.reset();
        rig
    }

    /// A rig of its own whose programs read and write the maps that are pinned
    /// here: what an agent programs. Only the interfaces are described. The
    /// calling thread enters its network namespace.
    pub fn over(pins: &PinDir) -> Self {
        let young =
            [limits::MIN_FLOWS_V4, limits::MIN_FLOWS_V6].map(|rows| limits::young(rows) - 1);
        let mut rig = Self::load_with(&SNAT_PORTS, option::ANSWER_ECHO, young, |loader| {
            for name in names::PINNED_MAPS {
                loader.map_pin_path(name, pins.map(name));
            }
        });
        for port in net::PORTS {
            rig.set_interface(port.index, port.row());
        }
        rig.enter();
        rig
    }

    fn load(ports: &RangeInclusive<u16>, options: u32) -> Self {
        Self::load_sized(ports, options, &[])
    }

    /// With maps of other sizes than usual.
    fn load_sized(
        ports: &RangeInclusive<u16>,
        options: u32,
        sizes: &[(&'static str, u32)],
    ) -> Self {
        let sizes: BTreeMap<_, _> = rows::SIZES.iter().chain(sizes).copied().collect();
        let young = [names::MAP_YOUNG_V4, names::MAP_YOUNG_V6].map(|ring| sizes[ring] - 1);
        Self::load_with(ports, options, young, |loader| {
            for (map, size) in sizes {
                loader.map_max_entries(map, size);
            }
        })
    }

    /// With maps as they are set; how many flows may be young, less one.
    fn load_with(
        ports: &RangeInclusive<u16>,
        options: u32,
        young: [u32; 2],
        set: impl FnOnce(&mut EbpfLoader<'_>),
    ) -> Self {
        let netns = net::namespace();
        let (min, max) = (u32::from(*ports.start()), u32::from(*ports.end()));
        let mut loader = EbpfLoader::new();
        loader.override_global(names::GLOBAL_SNAT_PORT_MIN, &min, false);
        loader.override_global(names::GLOBAL_SNAT_PORT_MAX, &max, false);
        loader.override_global(names::GLOBAL_OPTIONS, &options, false);
        loader.override_global(names::GLOBAL_YOUNG_MASK_V4, &young[0], false);
        loader.override_global(names::GLOBAL_YOUNG_MASK_V6, &young[1], false);
        set(&mut loader);
        let mut ebpf = loader.load(OBJECT).expect("the object's maps load");
        for prog in Prog::ALL {
            let program = ebpf.program_mut(prog.name());
            match program.unwrap_or_else(|| panic!("the object has {}", prog.name())) {
                Program::SchedClassifier(tc) => tc.load(),
                Program::Xdp(xdp) => xdp.load(),
                other => panic!("{} is of type {:?}", prog.name(), other.prog_type()),
            }
            .unwrap_or_else(|error| panic!("load {}: {error:#?}", prog.name()));
        }
        let mut rig = Self {
            ebpf,
            netns,
            seen: Vec::new(),
            next_service: 0,
            next_backend: 0,
            next_slot: 0,
            filter: BTreeMap::new(),
        };
        rig.seen = rig.counters();
        rig
    }

    fn enter(&self) {
        setns(self.netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("enter the namespace");
        // A container may be confined to other CPUs; a round-robin test would
        // then say so by failing now and then.
        let _confined = process::stay_on(0);
    }

    /// Runs a program on a packet that enters or leaves by an interface.
    /// That the program counts exactly one verdict, of its own hook, is checked
    /// each time.
    pub fn run(&mut self, prog: Prog, ifindex: u32, frame: &[u8]) -> Outcome {
        self.run_in(prog, ifindex, frame, Context::default())
    }

    /// Like [`Rig::run`], with what the kernel knows of the packet.
    pub fn run_in(&mut self, prog: Prog, ifindex: u32, frame: &[u8], context: Context) -> Outcome {
        let (action, frame) = self.try_run(prog, ifindex, frame, context).unwrap_or_else(|error| {
            panic!("run {} on {} bytes: {error}", prog.name(), frame.len())
        });
        let before = std::mem::take(&mut self.seen);
        self.seen = self.counters();
        let changed: Vec<(usize, u64)> = (0..before.len())
            .map(|index| (index, self.seen[index] - before[index]))
            .filter(|(_, difference)| *difference != 0)
            .collect();
        let [(index, 1)] = changed[..] else {
            panic!("{} counted {changed:?} verdicts (index, number) for one run", prog.name());
        };
        let verdict = Verdict::ALL
            .into_iter()
            .find(|v| verdict::counter_index(prog.hook(), *v) as usize == index)
            .unwrap_or_else(|| panic!("{} counted another hook's {index}", prog.name()));
        Outcome { action, verdict, frame }
    }

    /// Runs a program and leaves the counters alone: for long series, which
    /// check them by [`Rig::take_verdicts`].
    pub fn run_uncounted(&self, prog: Prog, ifindex: u32, frame: &[u8]) -> (u32, Vec<u8>) {
        self.try_run(prog, ifindex, frame, Context::default())
            .unwrap_or_else(|error| panic!("run {} on {} bytes: {error}", prog.name(), frame.len()))
    }

    fn try_run(
        &self,
        prog: Prog,
        ifindex: u32,
        frame: &[u8],
        context: Context,
    ) -> Result<(u32, Vec<u8>), aya::programs::ProgramError> {
        let mut out = vec![0; frame.len() + 256];
        let context = if prog == Prog::Xdp {
            context::xdp_md(ifindex, frame.len())
        } else {
            context::sk_buff(ifindex, context)
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match self.ebpf.program(prog.name()) {
            Some(Program::SchedClassifier(tc)) => tc.test_run(options)?,
            Some(Program::Xdp(xdp)) => xdp.test_run(options)?,
            other => panic!("{}: {:?}", prog.name(), other.map(Program::prog_type)),
        };
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out))
    }

    /// The verdicts of a hook since this or [`Rig::run`] was last called.
    pub fn take_verdicts(&mut self, hook: Hook) -> BTreeMap<&'static str, u64> {
        let now = self.counters();
        let mut verdicts = BTreeMap::new();
        for v in Verdict::ALL {
            let index = verdict::counter_index(hook, v) as usize;
            let difference = now[index] - self.seen[index];
            if difference != 0 {
                verdicts.insert(v.name(), difference);
            }
            self.seen[index] = now[index];
        }
        verdicts
    }

    fn counters(&self) -> Vec<u64> {
        let map = self.per_cpu::<u64>(names::MAP_VERDICTS);
        (0..verdict::VERDICT_COUNTERS)
            .map(|index| map.get(&index, 0).expect("an array element").iter().sum())
            .collect()
    }

    fn per_cpu<V: aya::Pod>(&self, name: &str) -> PerCpuArray<&aya::maps::MapData, V> {
        PerCpuArray::try_from(self.map(name)).expect("a per-CPU array")
    }

    fn map(&self, name: &str) -> &Map {
        self.ebpf.map(name).unwrap_or_else(|| panic!("the object has map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> &mut Map {
        self.ebpf.map_mut(name).unwrap_or_else(|| panic!("the object has map {name}"))
    }
}
