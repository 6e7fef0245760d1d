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
mod astray;
mod atomic;
mod begin;
mod bounds;
mod bystanders;
mod clients;
mod datagrams;
mod egress;
mod family;
mod filter;
mod flows;
mod fragments;
mod globals;
mod held;
mod held_slot;
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
mod ranges;
mod refuse;
mod rewrite;
mod rewrite_frame;
mod route;
mod select;
mod service_addr;
mod skip;
mod snat;
mod sock;
mod sock_addr;
mod sock_choose;
mod sockets;
mod stats;
mod tc;
mod words;
mod xdp;
mod young;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, SockContext, TcContext, XdpContext};
use sock_addr::{Form4, Form6};

/// Length of an Ethernet header.
const ETHERNET: usize = network_types::eth::EthHdr::LEN;

/// Packets that enter by an interface with Ethernet headers.
#[classifier]
#[inline(always)]
fn lb_ingress(ctx: TcContext) -> i32 {
    tc::ingress::<ETHERNET>(&ctx)
}

/// Packets that leave by an interface with Ethernet headers.
#[classifier]
#[inline(always)]
fn lb_egress(ctx: TcContext) -> i32 {
    tc::egress::<ETHERNET>(&ctx)
}

/// Packets that enter by an interface without link-layer headers.
#[classifier]
#[inline(always)]
fn lb_ingress_l3(ctx: TcContext) -> i32 {
    tc::ingress::<0>(&ctx)
}

/// Packets that leave by an interface without link-layer headers.
#[classifier]
#[inline(always)]
fn lb_egress_l3(ctx: TcContext) -> i32 {
    tc::egress::<0>(&ctx)
}

/// Frames that enter by an uplink.
#[xdp]
fn lb_xdp(ctx: XdpContext) -> u32 {
    xdp::run(&ctx)
}

/// A socket connects to an IPv4 address.
#[cgroup_sock_addr(connect4)]
fn lb_connect4(ctx: SockAddrContext) -> i32 {
    sock::connect::<Form4>(&ctx)
}

/// An IPv6 socket connects.
#[cgroup_sock_addr(connect6)]
fn lb_connect6(ctx: SockAddrContext) -> i32 {
    sock::connect::<Form6>(&ctx)
}

/// A datagram is sent to an IPv4 address.
#[cgroup_sock_addr(sendmsg4)]
fn lb_sendmsg4(ctx: SockAddrContext) -> i32 {
    sock::sendmsg::<Form4>(&ctx)
}

/// A datagram is sent to an IPv6 address.
#[cgroup_sock_addr(sendmsg6)]
fn lb_sendmsg6(ctx: SockAddrContext) -> i32 {
    sock::sendmsg::<Form6>(&ctx)
}

/// An IPv4 socket is told who sent a datagram.
#[cgroup_sock_addr(recvmsg4)]
fn lb_recvmsg4(ctx: SockAddrContext) -> i32 {
    sock::recvmsg::<Form4>(&ctx)
}

/// An IPv6 socket is told who sent a datagram.
#[cgroup_sock_addr(recvmsg6)]
fn lb_recvmsg6(ctx: SockAddrContext) -> i32 {
    sock::recvmsg::<Form6>(&ctx)
}

/// An IPv4 socket asks for its peer.
#[cgroup_sock_addr(getpeername4)]
fn lb_getpeername4(ctx: SockAddrContext) -> i32 {
    sock::getpeername::<Form4>(&ctx)
}

/// An IPv6 socket asks for its peer.
#[cgroup_sock_addr(getpeername6)]
fn lb_getpeername6(ctx: SockAddrContext) -> i32 {
    sock::getpeername::<Form6>(&ctx)
}

/// A socket is closed.
#[cgroup_sock(sock_release)]
fn lb_release(ctx: SockContext) -> i32 {
    sock::release(&ctx)
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
