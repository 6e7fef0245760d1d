//! The hooks of sockets: processes of the node itself have no interface by
//! which their packets enter, so what they dial is translated in their calls.
//! The packets then carry real addresses from the start.

use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use lb_common::filter::BACKEND;
use lb_common::proto::{TCP, UDP};
use lb_common::{Frontend, SocketKey, SocketName, SocketPeer, V4, V6, Verdict};

use crate::maps::{LB_SOCKET_NAMES, LB_SOCKET_PEERS, LB_SOCKETS_TCP, LB_SOCKETS_UDP};
use crate::sock_addr::{self, Caller, Form, caller, is_own};
use crate::sock_choose::{backend, frontend, holds, note_refusal};
use crate::{filter, open, stats};

/// The call goes on, with what is in the context.
const PROCEED: i32 = 1;
/// `ENOBUFS`: what the call needs could not be remembered.
const ENOBUFS: i32 = 105;
/// `EACCES`: outside the Service's source ranges. A packet would be dropped; a
/// call can say so.
const EACCES: i32 = 13;
/// `EHOSTUNREACH`: nobody has the address. Here, too, a call can say so.
const EHOSTUNREACH: i32 = 113;
/// `ECONNREFUSED`.
const ECONNREFUSED: i32 = 111;

/// Counts the verdict and says what becomes of the call.
#[inline(always)]
fn finish(verdict: Verdict) -> i32 {
    stats::call(verdict);
    if verdict.is_refusal() {
        sock_addr::refuse(ECONNREFUSED)
    } else if verdict == Verdict::DroppedSourceRange {
        sock_addr::refuse(EACCES)
    } else if verdict == Verdict::DroppedUnallocated {
        sock_addr::refuse(EHOSTUNREACH)
    } else if verdict.is_drop() {
        sock_addr::refuse(ENOBUFS)
    } else {
        PROCEED
    }
}

/// `connect(2)`.
#[inline(always)]
pub(crate) fn connect<F: Form>(ctx: &SockAddrContext) -> i32 {
    let Some(caller) = caller(ctx) else { return finish(Verdict::Passed) };
    // A UDP socket must not stay with a backend that is gone. The agent sees to
    // that in its own namespace; others send to the Service, packet by packet.
    if caller.proto == UDP && !caller.own {
        return finish(Verdict::Passed);
    }
    // What an earlier call connected it to.
    forget(caller.cookie, caller.proto);
    let name = F::name(ctx.sock_addr);
    mean_it(&caller, name);
    finish(match frontend(&caller, name) {
        Ok(frontend) => connect_to::<F>(ctx, &caller, &frontend, name),
        Err(verdict) => verdict,
    })
}

#[inline(always)]
fn connect_to<F: Form>(
    ctx: &SockAddrContext,
    caller: &Caller,
    frontend: &Frontend,
    name: SocketName,
) -> Verdict {
    let given = match backend(caller, frontend, name) {
        Ok(given) => given,
        Err(verdict) => {
            note_refusal(frontend, verdict);
            return verdict;
        }
    };
    let remembered = if caller.proto == TCP {
        LB_SOCKETS_TCP.insert(&caller.cookie, &given, 0)
    } else {
        LB_SOCKETS_UDP.insert(&caller.cookie, &given, 0)
    };
    // A TCP socket can do without: it merely shows the backend's name. A UDP
    // socket would stay with its backend for ever.
    if remembered.is_err() && caller.proto == UDP {
        return Verdict::DroppedNoFlow;
    }
    stats::chosen(&given);
    F::set_name(ctx.sock_addr, given.peer);
    if remembered.is_ok() {
        open::socket_began(&given);
    }
    Verdict::Forwarded
}

/// `sendto(2)`, `sendmsg(2)` with an address.
#[inline(always)]
pub(crate) fn sendmsg<F: Form>(ctx: &SockAddrContext) -> i32 {
    let Some(caller) = caller(ctx) else { return finish(Verdict::Passed) };
    let name = F::name(ctx.sock_addr);
    mean_it(&caller, name);
    finish(match frontend(&caller, name) {
        Ok(frontend) => send_to::<F>(ctx, &caller, &frontend, name),
        Err(verdict) => verdict,
    })
}

#[inline(always)]
fn send_to<F: Form>(
    ctx: &SockAddrContext,
    caller: &Caller,
    frontend: &Frontend,
    name: SocketName,
) -> Verdict {
    let key = SocketKey::new(caller.cookie, name);
    // SAFETY: the row is copied at once; only this socket's calls change it.
    let known = unsafe { LB_SOCKET_PEERS.get(&key) }.copied();
    let given = match known {
        Some(given) if holds(frontend, &given) => given,
        _ => match backend(caller, frontend, name) {
            Ok(given) => {
                stats::chosen(&given);
                // Without the row, the next datagram is a flow of its own.
                let _ = LB_SOCKET_PEERS.insert(&key, &given, 0);
                given
            }
            Err(verdict) => {
                note_refusal(frontend, verdict);
                return verdict;
            }
        },
    };
    if !expect_reply(caller, given.peer, name) {
        return Verdict::DroppedNoFlow;
    }
    F::set_name(ctx.sock_addr, given.peer);
    Verdict::Forwarded
}

/// Remembers by which name the socket knows the backend; made again if it was
/// evicted meanwhile.
#[inline(always)]
fn expect_reply(caller: &Caller, peer: SocketName, name: SocketName) -> bool {
    let key = SocketKey::new(caller.cookie, peer);
    // SAFETY: the row is compared at once.
    if unsafe { LB_SOCKET_NAMES.get(&key) }.is_some_and(|known| *known == name) {
        return true;
    }
    LB_SOCKET_NAMES.insert(&key, &name, 0).is_ok()
}

/// A socket that sends straight to a backend which it also was given knows it
/// by its own name from now on.
#[inline(always)]
fn mean_it(caller: &Caller, name: SocketName) {
    if caller.proto == UDP && may_be_backend(caller, name) {
        let _ = LB_SOCKET_NAMES.remove(&SocketKey::new(caller.cookie, name));
    }
}

/// `recvfrom(2)`, `recvmsg(2)` with room for the sender's address.
#[inline(always)]
pub(crate) fn recvmsg<F: Form>(ctx: &SockAddrContext) -> i32 {
    restore::<F>(ctx, |caller, name| {
        if let Some(dialled) = dialled(caller, name) {
            return Some(dialled);
        }
        let key = SocketKey::new(caller.cookie, name);
        // SAFETY: the row is copied at once.
        unsafe { LB_SOCKET_NAMES.get(&key) }.copied()
    })
}

/// `getpeername(2)`.
#[inline(always)]
pub(crate) fn getpeername<F: Form>(ctx: &SockAddrContext) -> i32 {
    restore::<F>(ctx, dialled)
}

/// Puts the Service's name in the place of a backend's. Such a call is never
/// refused.
#[inline(always)]
fn restore<F: Form>(
    ctx: &SockAddrContext,
    dialled: impl Fn(&Caller, SocketName) -> Option<SocketName>,
) -> i32 {
    let name = F::name(ctx.sock_addr);
    let found = caller(ctx)
        .filter(|caller| may_be_backend(caller, name))
        .and_then(|caller| dialled(&caller, name));
    if let Some(dialled) = found {
        F::set_name(ctx.sock_addr, dialled);
        stats::call(Verdict::Returned);
    } else {
        stats::call(Verdict::Passed);
    }
    PROCEED
}

/// The cheap test, before any hash map is asked.
#[inline(always)]
fn may_be_backend(caller: &Caller, name: SocketName) -> bool {
    let flags = match name.addr.to_unmapped() {
        Some(addr) => filter::socket::<V4>(addr, name.port, caller.proto),
        None => filter::socket::<V6>(name.addr, name.port, caller.proto),
    };
    flags & BACKEND != 0
}

/// What the connected socket dialled, if this is what it got.
#[inline(always)]
fn dialled(caller: &Caller, name: SocketName) -> Option<SocketName> {
    let row = connected(caller.cookie, caller.proto);
    row.filter(|row| row.peer == name).map(|row| row.frontend)
}

/// Whom a connected socket was given.
#[inline(always)]
fn connected(cookie: u64, proto: u8) -> Option<SocketPeer> {
    if proto == UDP {
        // SAFETY: the row is copied at once; only this socket's calls change it.
        unsafe { LB_SOCKETS_UDP.get(&cookie) }.copied()
    } else {
        // SAFETY: as above.
        unsafe { LB_SOCKETS_TCP.get(&cookie) }.copied()
    }
}

/// A socket is closed. That is no call that could be translated: it has no
/// verdict.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) -> i32 {
    let sock = ctx.sock;
    // SAFETY: the context is valid.
    if is_own(unsafe { bpf_get_netns_cookie(sock.cast()) }).is_some() {
        // SAFETY: the kernel keeps the context valid during the run.
        let proto = unsafe { (*sock).protocol };
        // SAFETY: as above.
        let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
        forget(cookie, if proto == u32::from(UDP) { UDP } else { TCP });
    }
    PROCEED
}

/// Removes the row of a connected socket, if it has one.
#[inline(always)]
fn forget(cookie: u64, proto: u8) {
    let Some(given) = connected(cookie, proto) else { return };
    let removed =
        if proto == UDP { LB_SOCKETS_UDP.remove(&cookie) } else { LB_SOCKETS_TCP.remove(&cookie) };
    if removed.is_ok() {
        open::socket_ended(&given);
    }
}
