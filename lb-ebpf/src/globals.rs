//! Constants that the agent sets when it loads the programs.

use aya_ebpf::Global;
use lb_common::limits;

/// First port of the range for source translation, in host byte order.
#[unsafe(no_mangle)]
static SNAT_PORT_MIN: Global<u32> = Global::new(61_000);
/// Last port of that range.
#[unsafe(no_mangle)]
static SNAT_PORT_MAX: Global<u32> = Global::new(65_535);
/// Bits of [`lb_common::names::option`].
#[unsafe(no_mangle)]
static OPTIONS: Global<u32> = Global::new(lb_common::names::option::ANSWER_ECHO);
/// Cookie of the network namespace whose sockets are this node's own. No
/// namespace has the cookie 0.
#[unsafe(no_mangle)]
static NETNS_COOKIE: Global<u64> = Global::new(0);
/// Bits of [`lb_common::names::socket_option`].
#[unsafe(no_mangle)]
static SOCKET_OPTIONS: Global<u32> = Global::new(0);

/// How many IPv4 flows may be young, less one: a power of two.
#[unsafe(no_mangle)]
static YOUNG_MASK_V4: Global<u32> = Global::new(limits::young(limits::MIN_FLOWS_V4) - 1);
/// Likewise for IPv6.
#[unsafe(no_mangle)]
static YOUNG_MASK_V6: Global<u32> = Global::new(limits::young(limits::MIN_FLOWS_V6) - 1);

/// How many flows may be young, less one, of IPv4.
#[inline(always)]
pub(crate) fn young_mask_v4() -> u32 {
    YOUNG_MASK_V4.load()
}

/// How many flows may be young, less one, of IPv6.
#[inline(always)]
pub(crate) fn young_mask_v6() -> u32 {
    YOUNG_MASK_V6.load()
}

/// Cookie of this node's network namespace.
#[inline(always)]
pub(crate) fn netns_cookie() -> u64 {
    NETNS_COOKIE.load()
}

/// Whether an option for sockets is on.
#[inline(always)]
pub(crate) fn socket_option(bit: u32) -> bool {
    SOCKET_OPTIONS.load() & bit != 0
}

/// Whether an option is on.
#[inline(always)]
pub(crate) fn option(bit: u32) -> bool {
    OPTIONS.load() & bit != 0
}

/// First and last port of the range for source translation.
#[inline(always)]
pub(crate) fn snat_ports() -> (u32, u32) {
    (SNAT_PORT_MIN.load(), SNAT_PORT_MAX.load())
}
