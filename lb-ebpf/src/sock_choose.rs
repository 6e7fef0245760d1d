//! From what a socket dials to the backend that it gets.

use core::mem::MaybeUninit;

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use lb_common::filter::FRONTEND;
use lb_common::socket::at_place;
use lb_common::value::{frontend_kind, scope};
use lb_common::{BePort, Frontend, FrontendKey, SocketName, SocketPeer, V4, V6, Verdict};

use crate::family::Family;
use crate::maps::Ask;
use crate::select::{self, Client, Picked};
use crate::sock_addr::Caller;
use crate::{clients, filter, service_addr, stats};

/// The frontend that the caller dials with this name; `Err` with the verdict
/// if there is none.
#[inline(always)]
pub(crate) fn frontend(caller: &Caller, name: SocketName) -> Result<Frontend, Verdict> {
    match name.addr.to_unmapped() {
        Some(addr) => frontend_of::<V4>(caller, addr, name),
        None => frontend_of::<V6>(caller, name.addr, name),
    }
}

#[inline(always)]
fn frontend_of<A: Family>(caller: &Caller, addr: A, name: SocketName) -> Result<Frontend, Verdict> {
    let (addr, loopback) = at_place(addr);
    // Another namespace's loopback is its own.
    if loopback && !caller.own {
        return Err(Verdict::Passed);
    }
    if filter::socket(addr, name.port, caller.proto) & FRONTEND != 0 {
        let key = if loopback {
            FrontendKey::loopback(addr, name.port, caller.proto)
        } else {
            FrontendKey::new(addr, name.port, caller.proto)
        };
        // SAFETY: the row is copied at once; the agent replaces rows whole.
        if let Some(frontend) = unsafe { A::frontends().get(&key) }.copied() {
            return Ok(frontend);
        }
    }
    let flags = filter::address(addr);
    if service_addr::is_cluster_ip(addr, flags) {
        return Err(Verdict::RefusedUnknownPort);
    }
    Err(service_addr::stranger(addr, flags))
}

/// A backend of the frontend that the caller dialled with this name.
#[inline(always)]
pub(crate) fn backend(
    caller: &Caller,
    frontend: &Frontend,
    name: SocketName,
) -> Result<SocketPeer, Verdict> {
    let (addr, picked) = if name.addr.to_unmapped().is_some() {
        let picked = pick::<V4>(caller, frontend)?;
        (V4(picked.row.addr[0]).to_mapped(), picked)
    } else {
        let picked = pick::<V6>(caller, frontend)?;
        (V6(picked.row.addr), picked)
    };
    Ok(SocketPeer {
        frontend: name,
        peer: SocketName::new(addr, picked.row.port),
        service: frontend.service,
        backend: picked.id,
        generation: picked.row.generation,
    })
}

/// Asks the Service's policy. From the node itself, only a ClusterIP minds
/// where backends are: everything that the outside dials leads to all of them.
#[inline(always)]
fn pick<A: Family>(caller: &Caller, frontend: &Frontend) -> Result<Picked, Verdict> {
    let scope =
        if frontend.kind == frontend_kind::CLUSTER_IP { frontend.scope } else { scope::CLUSTER };
    // On the stack: a packet may come in between and use this CPU's room.
    let mut room = MaybeUninit::<Ask<A>>::zeroed();
    if caller.own && !clients::is_admitted(*frontend, clients::own_address(), room.as_mut_ptr()) {
        return Err(stats::dropped(frontend.service, Verdict::DroppedSourceRange));
    }
    let client = Client {
        addr: client_of(caller),
        // A socket has no port yet; what counts is that the next has another.
        port: BePort(caller.cookie as u16),
        proto: caller.proto,
        // SAFETY: the helper has no preconditions.
        now: unsafe { bpf_ktime_get_coarse_ns() },
        room: room.as_mut_ptr(),
    };
    match select::backend(frontend, scope, &client) {
        // It leaves as it is, and is dropped where it leaves the node.
        Err(Verdict::DroppedNoLocal) => Err(Verdict::Passed),
        result => result,
    }
}

/// The client that session affinity knows. A socket has no address yet; its
/// namespace stands for one, as an address that no packet comes from: of "this
/// network" (RFC 1122 section 3.2.1.3), or of IPv6's reserved first block.
#[inline(always)]
fn client_of<A: Family>(caller: &Caller) -> A {
    A::from_words([(caller.namespace as u32 & 0x00ff_ffff).to_be(), 0, 0, 0])
}

/// Whether what a socket was given still holds: the Service has the frontend,
/// and the backend serves.
#[inline(always)]
pub(crate) fn holds(frontend: &Frontend, given: &SocketPeer) -> bool {
    frontend.service == given.service && select::still_serves(given.backend, given.generation)
}

/// Counts a refusal for want of a backend.
#[inline(always)]
pub(crate) fn note_refusal(frontend: &Frontend, verdict: Verdict) {
    if verdict.is_refusal() {
        stats::refused(frontend.service);
    }
}
