//! Single packets through the BPF programs: what goes in, what comes out, what
//! was counted. Every scenario runs for IPv4 and IPv6, each protocol, and for
//! devices with and without a MAC header.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by ending; clippy knows only those in the functions marked as tests"
)]

mod affinity;
mod bystanders;
mod clients;
mod collide;
mod flows;
mod forward;
mod fragments;
mod hash;
mod icmp;
mod icmp_cut;
mod icmp_error;
mod icmp_stray;
mod least;
mod lengths;
mod loopback;
mod lost;
mod overlaps;
mod policy;
mod refuse;
mod sctp;
mod skip;
mod snat;
mod stranger;
mod unallocated;
mod xdp;
mod young;
