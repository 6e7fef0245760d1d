//! bpf(2) as it is, for programs of a few instructions that need no object.

pub(crate) mod code;

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use std::cell::UnsafeCell;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

// Numbers of the interface.
const MAP_CREATE: i64 = 0;
const MAP_LOOKUP_ELEM: i64 = 1;
const MAP_UPDATE_ELEM: i64 = 2;
const PROG_LOAD: i64 = 5;
const PROG_TEST_RUN: i64 = 10;
const LINK_CREATE: i64 = 28;
/// The type of XDP programs, and what they are attached as.
pub(crate) const XDP: u32 = 6;
pub(crate) const ATTACH_XDP: u32 = 37;

/// `union bpf_attr` for `BPF_MAP_CREATE`, its beginning.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// Likewise for `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
struct MapElement {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Likewise for `BPF_PROG_LOAD`, up to the last field that is used here.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// Likewise for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// An instruction.
#[must_use]
pub fn instruction(code: u8, dst: u8, src: u8, offset: i16, immediate: i32) -> u64 {
    let [low, high] = offset.to_ne_bytes();
    let [a, b, c, d] = immediate.to_ne_bytes();
    u64::from_ne_bytes([code, src << 4 | dst, low, high, a, b, c, d])
}

/// A map.
pub fn create_map(kind: u32, key: u32, value: u32, rows: u32) -> Result<OwnedFd> {
    let create = MapCreate { map_type: kind, key_size: key, value_size: value, max_entries: rows };
    call_for_fd(MAP_CREATE, &create).context("make a map")
}

/// Sets a row of an array.
pub fn set_element(map: &impl AsFd, index: u32, value: &[u8]) -> Result<()> {
    let update = MapElement {
        map_fd: number(map.as_fd().as_raw_fd())?,
        pad: 0,
        key: std::ptr::from_ref(&index) as u64,
        value: value.as_ptr() as u64,
        flags: 0,
    };
    call(MAP_UPDATE_ELEM, &update).map(drop).context("set an element")
}

/// Copies a row, of which the buffer has the length; whether it is there.
pub fn get_element(map: RawFd, key: &[u8], value: &mut [u8]) -> Result<bool> {
    let lookup = MapElement {
        map_fd: number(map)?,
        pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match call(MAP_LOOKUP_ELEM, &lookup) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error).context("read a row"),
    }
}

/// A program, for an attach type of the kernel's or 0.
pub fn load(kind: u32, attach: u32, flags: u32, instructions: &[u64]) -> Result<OwnedFd> {
    let mut load = ProgLoad {
        prog_type: kind,
        insn_cnt: u32::try_from(instructions.len())?,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        prog_flags: flags,
        expected_attach_type: attach,
        ..ProgLoad::default()
    };
    let error = match call_for_fd(PROG_LOAD, &load) {
        Ok(program) => return Ok(program),
        Err(error) => error,
    };
    let mut log = vec![0_u8; 1 << 16];
    (load.log_level, load.log_size, load.log_buf) = (1, 1 << 16, log.as_mut_ptr() as u64);
    // It fails again, and says why.
    let _ = call_for_fd(PROG_LOAD, &load);
    let said = log.split(|byte| *byte == 0).next().unwrap_or_default();
    Err(error).with_context(|| format!("load a program: {}", String::from_utf8_lossy(said)))
}

/// An XDP program on an interface of the calling thread's namespace, until the link is
/// dropped.
pub fn attach_xdp(program: &impl AsFd, interface: &str) -> Result<OwnedFd> {
    let index =
        if_nametoindex(interface).with_context(|| format!("find the interface {interface}"))?;
    let create = LinkCreate {
        prog_fd: number(program.as_fd().as_raw_fd())?,
        target_ifindex: index,
        attach_type: ATTACH_XDP,
        flags: 0,
    };
    call_for_fd(LINK_CREATE, &create).with_context(|| format!("attach a program to {interface}"))
}

/// `union bpf_attr` for `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 2;

/// Runs a program on a packet again and again; nanoseconds of each run, and what the
/// last one returned.
pub fn repeat(
    program: &impl AsFd,
    packet: &[u8],
    context: &[u8],
    times: u32,
) -> Result<(u32, u32)> {
    test_run(program, packet, context, times, 0).context("run a program")
}

/// Likewise with frames that go where an XDP program says; nanoseconds of each. The
/// program finds what it left in them the last time.
pub fn send(program: &impl AsFd, packet: &[u8], context: &[u8], times: u32) -> Result<u32> {
    let sent = test_run(program, packet, context, times, LIVE_FRAMES);
    sent.map(|(duration, _)| duration).context("send frames")
}

fn test_run(
    program: &impl AsFd,
    packet: &[u8],
    context: &[u8],
    times: u32,
    flags: u32,
) -> Result<(u32, u32)> {
    let run = TestRun {
        prog_fd: number(program.as_fd().as_raw_fd())?,
        data_size_in: u32::try_from(packet.len())?,
        data_in: packet.as_ptr() as u64,
        repeat: times,
        ctx_size_in: u32::try_from(context.len())?,
        ctx_in: context.as_ptr() as u64,
        flags,
        ..TestRun::default()
    };
    let run = UnsafeCell::new(run);
    // The kernel writes its results into the attributes.
    call(PROG_TEST_RUN, &run)?;
    let TestRun { duration, retval, .. } = run.into_inner();
    Ok((duration, retval))
}

/// A file descriptor as attributes have it.
pub fn number(fd: RawFd) -> Result<u32> {
    u32::try_from(fd).context("a file descriptor below zero")
}

/// A call that returns a file descriptor.
pub(crate) fn call_for_fd<T>(command: i64, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A call.
pub(crate) fn call<T>(command: i64, attributes: &T) -> io::Result<i64> {
    // SAFETY: the attributes are those of the command, their size is given, and
    // what they point to lives as long as the caller's frame.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
