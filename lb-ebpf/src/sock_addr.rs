//! The context of a socket's call: who calls, and the address that the call is
//! about. The one place that reads and writes it.
//!
//! The verifier allows accesses of four bytes at fixed places only, so each is
//! volatile: the compiler must not join two of them.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;
use lb_common::names::socket_option;
use lb_common::proto::{TCP, UDP};
use lb_common::{BePort, SocketName, V4, V6};

use crate::globals;

/// Which addresses a call has, by the hook that it runs through.
pub(crate) trait Form {
    /// The address and port of the call.
    fn name(sock: *mut bpf_sock_addr) -> SocketName;
    /// Replaces them.
    fn set_name(sock: *mut bpf_sock_addr, name: SocketName);
}

/// The same context, by way of memory: the compiler would keep pointers to
/// fields that were read before, and the verifier takes the context's own only.
#[inline(always)]
fn afresh(sock: *mut bpf_sock_addr) -> *mut bpf_sock_addr {
    let kept = sock;
    // SAFETY: a local variable.
    unsafe { (&raw const kept).read_volatile() }
}

/// Hooks whose name ends in 4.
pub(crate) struct Form4;
/// Hooks whose name ends in 6; IPv4 addresses come in the mapped form.
pub(crate) struct Form6;

/// Reads a field.
#[inline(always)]
fn load(field: *const u32) -> u32 {
    // SAFETY: the callers pass a field of the context, which the kernel keeps
    // valid during the run.
    unsafe { field.read_volatile() }
}

/// Writes a field.
#[inline(always)]
fn store(field: *mut u32, value: u32) {
    // SAFETY: as above; the kernel gave this program the right to write it.
    unsafe { field.write_volatile(value) };
}

#[inline(always)]
fn port(sock: *mut bpf_sock_addr) -> BePort {
    // SAFETY: only the place is computed here. The field holds the two bytes of
    // the wire.
    BePort(load(unsafe { &raw const (*sock).user_port }) as u16)
}

#[inline(always)]
fn set_port(sock: *mut bpf_sock_addr, port: BePort) {
    // SAFETY: as above.
    store(unsafe { &raw mut (*sock).user_port }, u32::from(port.0));
}

#[inline(always)]
fn word(sock: *mut bpf_sock_addr, index: usize) -> *mut u32 {
    // SAFETY: only the place is computed here.
    unsafe { &raw mut (*sock).user_ip6 }.cast::<u32>().wrapping_add(index)
}

impl Form for Form4 {
    #[inline(always)]
    fn name(sock: *mut bpf_sock_addr) -> SocketName {
        // SAFETY: only the place is computed here.
        let addr = V4(load(unsafe { &raw const (*sock).user_ip4 }));
        SocketName::new(addr.to_mapped(), port(sock))
    }

    #[inline(always)]
    fn set_name(sock: *mut bpf_sock_addr, name: SocketName) {
        let sock = afresh(sock);
        // SAFETY: as above; the last word of a mapped address is the IPv4 one.
        store(unsafe { &raw mut (*sock).user_ip4 }, name.addr.0[3]);
        set_port(sock, name.port);
    }
}

impl Form for Form6 {
    #[inline(always)]
    fn name(sock: *mut bpf_sock_addr) -> SocketName {
        let part = |index| load(word(sock, index));
        SocketName::new(V6([part(0), part(1), part(2), part(3)]), port(sock))
    }

    #[inline(always)]
    fn set_name(sock: *mut bpf_sock_addr, name: SocketName) {
        let sock = afresh(sock);
        let [a, b, c, d] = name.addr.0;
        store(word(sock, 0), a);
        store(word(sock, 1), b);
        store(word(sock, 2), c);
        store(word(sock, 3), d);
        set_port(sock, name.port);
    }
}

/// Who makes the call.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    /// The socket's cookie.
    pub(crate) cookie: u64,
    /// TCP or UDP.
    pub(crate) proto: u8,
    /// Its network namespace's cookie.
    pub(crate) namespace: u64,
    /// Whether the socket is one of this node's own network namespace.
    pub(crate) own: bool,
}

/// The caller, if it is one that is served.
#[inline(always)]
pub(crate) fn caller(ctx: &SockAddrContext) -> Option<Caller> {
    let sock = ctx.sock_addr;
    // SAFETY: only the place is computed here.
    let proto = match load(unsafe { &raw const (*sock).protocol }) {
        6 => TCP,
        17 => UDP,
        _ => return None,
    };
    // SAFETY: the context is valid.
    let namespace = unsafe { bpf_get_netns_cookie(sock.cast()) };
    let own = is_own(namespace)?;
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
    Some(Caller { cookie, proto, namespace, own })
}

/// Whether sockets of the namespace with this cookie are this node's own;
/// `None` if they are not served at all.
#[inline(always)]
pub(crate) fn is_own(namespace: u64) -> Option<bool> {
    let own = namespace == globals::netns_cookie();
    (own || globals::socket_option(socket_option::ALL_NAMESPACES)).then_some(own)
}

/// Lets the call fail with an error number. Without the kernel's help it is
/// EPERM whatever the reason.
#[inline(always)]
pub(crate) fn refuse(error: i32) -> i32 {
    if globals::socket_option(socket_option::CHOOSE_ERROR) {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_set_retval(-error) };
    }
    0
}
