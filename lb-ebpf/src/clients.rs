//! Who a client is, and what follows from it: which endpoints it may get, and
//! whether they see its address.

use aya_ebpf::maps::lpm_trie::Key;
use lb_common::names::option;
use lb_common::value::{NODE_ITSELF, frontend_flag, frontend_kind, role, scope};
use lb_common::{Frontend, Interface, PrefixKey, key};

use crate::family::Family;
use crate::globals;
use crate::maps::{Ask, LB_INTERFACES};

/// A client, as its interface and its address tell.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    /// Not a pod behind an interface of this node: a reply may miss the node.
    pub(crate) external: bool,
    /// A pod of this node, by `--detect-local`.
    local_pod: bool,
}

/// Looks at a client that came in here with this address.
#[inline(always)]
pub(crate) fn origin<A: Family>(ifindex: u32, addr: A, room: *mut Ask<A>) -> Origin {
    // SAFETY: the row is copied at once; the agent replaces rows whole.
    let interface: Option<Interface> = unsafe { LB_INTERFACES.get(&ifindex) }.copied();
    let external = interface.is_some_and(|interface| interface.role != role::POD);
    let local_pod = if globals::option(option::LOCAL_BY_PREFIX) {
        is_in_ranges(key::PODS, addr, room)
    } else {
        interface.is_some_and(|interface| interface.local != 0)
    };
    Origin { external, local_pod }
}

/// Whether an address is in one of the owner's ranges.
#[inline(always)]
fn is_in_ranges<A: Family>(owner: u32, addr: A, room: *mut Ask<A>) -> bool {
    // SAFETY: the caller's room is this run's alone.
    let key = unsafe { &mut (*room).prefix };
    *key = Key::new((size_of::<PrefixKey<A>>() * 8) as u32, PrefixKey { owner, addr });
    A::prefixes().get(key).is_some()
}

/// Whether the frontend is for this client at all.
#[inline(always)]
pub(crate) fn is_admitted<A: Family>(frontend: Frontend, addr: A, room: *mut Ask<A>) -> bool {
    frontend.flags & frontend_flag::SOURCE_RANGES == 0 || is_in_ranges(frontend.service, addr, room)
}

/// The address by which processes of the node count as clients: that of the
/// row that is no interface's.
#[inline(always)]
pub(crate) fn own_address<A: Family>() -> A {
    // SAFETY: the row is copied at once; the agent replaces rows whole.
    unsafe { LB_INTERFACES.get(&NODE_ITSELF) }.copied().map_or(A::NONE, |row| A::snat_of(&row))
}

impl Origin {
    /// Which endpoints the client may get. A pod of this node that uses an
    /// address for clients outside does not go out to the load balancer and
    /// come back at a node with an endpoint, but gets what it would have got.
    #[inline(always)]
    pub(crate) fn scope(self, frontend: Frontend) -> u8 {
        if frontend.kind != frontend_kind::CLUSTER_IP && self.local_pod {
            scope::CLUSTER
        } else {
            frontend.scope
        }
    }

    /// Whether backends must not see the client's address, though replies would
    /// come back here: the rules of kube-proxy.
    #[inline(always)]
    pub(crate) fn is_masqueraded(self, frontend: Frontend) -> bool {
        if frontend.kind == frontend_kind::CLUSTER_IP {
            globals::option(option::MASQUERADE_ALL)
                || (globals::option(option::MASQUERADE_CLUSTER) && !self.local_pod)
        } else {
            globals::option(option::MASQUERADE_EXTERNAL) && frontend.scope == scope::CLUSTER
        }
    }
}
