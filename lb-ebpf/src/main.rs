//! The BPF programs. Entry points only: each hook's story is in its module.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "the next aya takes keys and values by reference only"
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "helpers take 32 bits for what is an offset here, and give 64 for what fits 32"
)]
#![expect(clippy::needless_pass_by_value, reason = "the program macros pass the context so")]

mod affinity;
mod atomic;
mod clients;
mod egress;
mod family;
mod filter;
mod flows;
mod fragments;
mod globals;
mod icmp;
mod icmp_error;
mod icmp_quote;
mod ingress;
mod limit;
mod log;
mod maps;
mod open;
mod packet;
mod policy;
mod portless;
mod quote;
mod refuse;
mod rewrite;
mod rewrite_frame;
mod select;
mod service_addr;
mod sockets;
mod stats;
mod tc;
mod xdp;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Length of an Ethernet header.
const ETHERNET: usize = network_types::eth::EthHdr::LEN;

/// Packets that enter by an interface with Ethernet headers.
#[classifier]
fn lb_ingress(ctx: TcContext) -> i32 {
    tc::ingress::<ETHERNET>(&ctx)
}

/// Packets that leave by an interface with Ethernet headers.
#[classifier]
fn lb_egress(ctx: TcContext) -> i32 {
    tc::egress::<ETHERNET>(&ctx)
}

/// Packets that enter by an interface without link-layer headers.
#[classifier]
fn lb_ingress_l3(ctx: TcContext) -> i32 {
    tc::ingress::<0>(&ctx)
}

/// Packets that leave by an interface without link-layer headers.
#[classifier]
fn lb_egress_l3(ctx: TcContext) -> i32 {
    tc::egress::<0>(&ctx)
}

/// Frames that enter by an uplink.
#[xdp]
fn lb_xdp(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

/// The licence that the kernel reads: its GPL-only helpers ask for one.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses a program that could come here, with
    // "infinite loop detected".
    loop {}
}
