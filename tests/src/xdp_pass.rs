//! An XDP program that passes everything, for the far ends of links: a veth
//! only takes frames that its peer's XDP program sends back if it has an XDP
//! program itself (`veth_xdp_flush` in the kernel). Hardware needs no such
//! thing.
//!
//! It is two instructions long, so it is loaded by hand, without an object.

use crate::bpf::{self, call, call_for_fd, number};
use anyhow::{Context as _, Result};
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// Numbers of the bpf(2) interface.
const BPF_OBJ_PIN: i64 = 6;
const BPF_LINK_CREATE: i64 = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

/// `r0 = XDP_PASS; exit`.
const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

/// The beginning of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Create {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The beginning of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct Pin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The program on an interface; it goes away with this value, unless pinned.
#[derive(Debug)]
pub struct XdpPass {
    link: OwnedFd,
}

impl XdpPass {
    /// Attaches it in the network namespace of the calling thread.
    pub fn attach(interface: &str) -> Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("find the interface {interface}"))?;
        let program = bpf::load(BPF_PROG_TYPE_XDP, 0, bpf::XDP_HAS_FRAGS, &PROGRAM)?;
        let create = Create {
            prog_fd: number(program.as_raw_fd())?,
            target_ifindex: index,
            attach_type: BPF_XDP,
            flags: 0,
        };
        let link = call_for_fd(BPF_LINK_CREATE, &create)
            .with_context(|| format!("attach a program that passes to {interface}"))?;
        Ok(Self { link })
    }

    /// Lets it outlive this program.
    pub fn pin(&self, path: &Path) -> Result<()> {
        let name = CString::new(path.as_os_str().as_bytes()).context("a path with a zero byte")?;
        let pin = Pin {
            pathname: name.as_ptr() as u64,
            bpf_fd: number(self.link.as_raw_fd())?,
            file_flags: 0,
        };
        call(BPF_OBJ_PIN, &pin).map(drop).with_context(|| format!("pin {}", path.display()))
    }
}
