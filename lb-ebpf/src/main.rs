//! The BPF programs. Entry points only: each hook's story is in its module.
#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the program macros drop the documentation")]

mod egress;
mod family;
mod filter;
mod flows;
mod fragments;
mod globals;
mod ingress;
mod maps;
mod packet;
mod quote;
mod refuse;
mod rewrite;
mod select;
mod stats;
mod tc;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

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
