//! Declares the map types plain old data, for aya.

use crate::addr::{Address, V4, V6};
use crate::flow::Flow;
use crate::fragment::{Held, HeldKey};
use crate::key::{AffinityKey, FlowKey, FrontendKey, PrefixKey};
use crate::range::RangeHeads;
use crate::socket::{SocketKey, SocketName, SocketPeer};
use crate::value::{Affinity, Backend, Frontend, Interface, Service, ServiceName, Traffic};

macro_rules! pod {
    ($($t:ty),* $(,)?) => {
        // SAFETY: `repr(C)`, integers only, no implicit padding (every type's
        // size is asserted where it is defined), so any bytes are valid.
        $(unsafe impl aya::Pod for $t {})*
    };
}

pod!(
    Affinity,
    AffinityKey<V4>,
    AffinityKey<V6>,
    Backend,
    Frontend,
    FrontendKey<V4>,
    FrontendKey<V6>,
    Held,
    HeldKey,
    Interface,
    PrefixKey<V4>,
    PrefixKey<V6>,
    RangeHeads,
    Service,
    ServiceName,
    SocketKey,
    SocketName,
    SocketPeer,
    Traffic,
    V4,
    V6,
);

// SAFETY: `repr(C)`; integers and addresses only; both addresses are integers
// that leave no padding, which the sizes asserted in `key` and `flow` show.
unsafe impl<A: Address + aya::Pod> aya::Pod for FlowKey<A> {}
// SAFETY: as above.
unsafe impl<A: Address + aya::Pod> aya::Pod for Flow<A> {}
