//! What the BPF programs and the agent agree on: map layouts, names, limits,
//! and the pure functions that both sides must compute alike.
//!
//! Nothing here allocates, reads a clock or does I/O. A type that lives in a
//! map has a fixed layout (`repr(C)`, no implicit padding, size asserted);
//! whoever changes one raises [`ABI_VERSION`].
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_lossless,
    reason = "const functions can't use From, and folding a sum or picking a byte truncates on purpose"
)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod csum;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod key;
pub mod limits;
pub mod names;
#[cfg(feature = "user")]
mod pod;
pub mod pressure;
pub mod proto;
pub mod range;
pub mod sctp;
pub mod socket;
mod stage;
pub mod tcp;
pub mod value;
pub mod verdict;

pub use addr::{Address, BePort, V4, V6};
pub use flow::{Flow, Tuple};
pub use fragment::{Held, HeldKey};
pub use key::{AffinityKey, Direction, FlowKey, FrontendKey, PrefixKey};
pub use range::RangeHeads;
pub use socket::{SocketKey, SocketName, SocketPeer};
pub use value::{Affinity, Backend, Frontend, Interface, Segment, Service, ServiceName, Traffic};
pub use verdict::{Hook, Verdict};

/// Version of every layout in this crate. The agent writes it beside its pins
/// and refuses to reuse maps that carry another one.
pub const ABI_VERSION: u32 = 2;
