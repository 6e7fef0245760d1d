//! An XDP program that passes everything, for the far ends of links: a veth
//! only takes frames that its peer's XDP program sends back if it has an XDP
//! program itself (`veth_xdp_flush` in the kernel). Hardware needs no such
//! thing.
//!
//! It is two instructions long, so it is loaded by hand, without an object.

use crate::bpf::{self, call, number};
use anyhow::{Context as _, Result};
use std::ffi::CString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// A number of the bpf(2) interface.
const BPF_OBJ_PIN: i64 = 6;

/// `r0 = XDP_PASS; exit`.
const PROGRAM: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];

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
        let program = bpf::load(bpf::XDP, 0, 0, &PROGRAM)?;
        let link = bpf::attach_xdp(&program, interface)?;
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
